"""GPT dynamics model of NeRD (Xu et al., CoRL 2025, arXiv 2508.15755), as in axion's neural solver, for a pack.

    points -> wrap angles -> per named input: (x - mean) / sqrt(var + 1e-5) -> MLP encoder
           -> side by side -> GPT (nanoGPT with a linear layer for tokens) -> MLP -> linear -> normalized target

Names of parameters and their order are those of the reference's state dict (`transformer_model.transformer.h.0.attn.
c_attn.weight`, `model.output_net.bias`, ..). Where the reference holds (out, in), (out,) or (d,), this holds (E, in,
out), (E, 1, out) or (E, 1, d); embeddings are (E, n, d).

Window of T points and T targets: the prediction at point t is of point t+1, from points 0..t and the controls at them.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.config.model import GPTDynamicsConfig, MLPConfig, input_features
from ensemble.errors import UsageError
from ensemble.models.activations import gelu
from ensemble.models.base import EPS, Batch, Device, Normalization, column_slices, wrap
from ensemble.models.cost import Sizes, StepCost, StepShape, attention_floats
from ensemble.models.layers import MLP, CausalSelfAttention, Dropout, Embedding, LayerNorm, Linear
from ensemble.models.products import Precision, add_row, member_mean, sum_rows
from ensemble.schema import Feature, Float32, role_columns


class Feedforward(nn.Module):
    """d -> 4d -> exact GELU -> d."""

    def __init__(
        self, members: int, width: int, *, bias: bool, std_out: float, precision: Precision, device: Device
    ) -> None:
        super().__init__()
        self.c_fc = Linear(members, width, 4 * width, bias=bias, std=0.02, precision=precision, device=device)
        self.c_proj = Linear(members, 4 * width, width, bias=bias, std=std_out, precision=precision, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(E, M, d) -> (E, M, d)."""
        out: Tensor = self.c_proj(gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: x += attention(norm x), x += feedforward(norm x)."""

    def __init__(
        self, config: GPTDynamicsConfig, members: int, first_site: int, precision: Precision, device: Device
    ) -> None:
        super().__init__()
        width, bias, p = config.n_embd, config.bias, config.dropout
        std_out = 0.02 / math.sqrt(2 * config.n_layer)
        self.ln_1 = LayerNorm(members, width, bias=bias, device=device)
        self.attn = CausalSelfAttention(
            members,
            width,
            config.n_head,
            bias=bias,
            drop=Dropout(p, first_site),
            std_out=std_out,
            precision=precision,
            device=device,
        )
        self.drop_1 = Dropout(p, first_site + 1)
        self.ln_2 = LayerNorm(members, width, bias=bias, device=device)
        self.mlp = Feedforward(members, width, bias=bias, std_out=std_out, precision=precision, device=device)
        self.drop_2 = Dropout(p, first_site + 2)

    def forward(self, x: Tensor, time: int, position: Tensor, keys: Tensor | None) -> Tensor:
        """(E, B*T, d) -> (E, B*T, d)."""
        shape = (x.shape[0], -1, time, x.shape[2])  # dropout counts elements within a sample
        branch = self.attn(self.ln_1(x), time, position, keys)
        x = x + self.drop_1(branch.view(shape), position, keys).view_as(x)
        branch = self.mlp(self.ln_2(x))
        out: Tensor = x + self.drop_2(branch.view(shape), position, keys).view_as(x)
        return out


class Transformer(nn.Module):
    """nanoGPT's body over vectors: the token embedding is a linear layer, always with bias."""

    SITES_PER_BLOCK = 3

    def __init__(
        self, config: GPTDynamicsConfig, inputs: int, members: int, precision: Precision, device: Device
    ) -> None:
        super().__init__()
        width = config.n_embd
        self.wte = Linear(members, inputs, width, std=0.02, precision=precision, device=device)
        self.wpe = Embedding(members, config.block_size, width, std=0.02, device=device)
        self.drop = Dropout(config.dropout, 0)
        self.h = nn.ModuleList(
            Block(config, members, 1 + self.SITES_PER_BLOCK * i, precision, device) for i in range(config.n_layer)
        )
        self.ln_f = LayerNorm(members, width, bias=config.bias, device=device)

    def forward(self, x: Tensor, position: Tensor, keys: Tensor | None, last: bool = False) -> Tensor:
        """(E, B, T, in) -> (E, B*T, d), or (E, B, d) of the last time alone."""
        members, batch, time = x.shape[:3]
        h = self.wte(x.reshape(members, batch * time, -1))
        places = self.wpe.weight[:, :time].reshape(members, 1, -1)
        h = add_row(h.view(members, batch, -1), places).view(members, batch, time, -1)
        h = self.drop(h, position, keys).view(members, batch * time, -1)
        for block in self.h:
            h = block(h, time, position, keys)
        if last:
            h = h.view(members, batch, time, -1)[:, :, -1]
        out: Tensor = self.ln_f(h)
        return out


class GPT(nn.Module):
    """The transformer and nanoGPT's language head, here d -> d."""

    def __init__(
        self, config: GPTDynamicsConfig, inputs: int, members: int, precision: Precision, device: Device
    ) -> None:
        super().__init__()
        width = config.n_embd
        self.transformer = Transformer(config, inputs, members, precision, device)
        self.lm_head = Linear(members, width, width, bias=False, std=0.02, precision=precision, device=device)

    def forward(self, x: Tensor, position: Tensor, keys: Tensor | None, last: bool = False) -> Tensor:
        """(E, B, T, in) -> (E, B*T, d), or (E, B, d) of the last time alone."""
        out: Tensor = self.lm_head(self.transformer(x, position, keys, last))
        return out


class Head(nn.Module):
    """The last MLP, and the linear layer to the target."""

    def __init__(
        self, config: MLPConfig, inputs: int, outputs: int, members: int, precision: Precision, device: Device
    ) -> None:
        super().__init__()
        self.feature_net = _mlp(config, inputs, members, precision, device)
        self.output_net = Linear(members, self.feature_net.outputs, outputs, precision=precision, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(E, M, in) -> (E, M, out) float32."""
        out: Tensor = self.output_net(self.feature_net(x))
        return out.float()


def _mlp(config: MLPConfig, inputs: int, members: int, precision: Precision, device: Device) -> MLP:
    return MLP(
        members, inputs, config.layer_sizes, config.activation, config.layernorm, precision=precision, device=device
    )


class GPTDynamics(nn.Module):
    """A pack of NeRD's dynamics models; it implements `models.base.DynamicsModel`."""

    state_columns: Tensor  # (S,) int64, of the points' D columns
    angles: Tensor  # (D,) bool
    state_angles: Tensor  # (S,) bool
    input_mean: Tensor  # (D,)
    input_scale: Tensor  # (D,)
    output_mean: Tensor  # (S,)
    output_scale: Tensor  # (S,)

    def __init__(
        self,
        config: GPTDynamicsConfig,
        features: tuple[Feature, ...],
        members: int,
        normalization: Normalization,
        *,
        precision: Precision = "fp32",
        device: Device = "meta",
    ) -> None:
        super().__init__()
        self.config, self.members = config, members
        inputs = input_columns(config, features)
        for name in inputs:
            if not name.isidentifier() or hasattr(nn.ModuleDict(), name):
                raise UsageError(f"model.inputs.{name}: an input needs a plain name, such as 'low_dim'")
        self.encoders = nn.ModuleDict(
            {name: _mlp(inputs[name][1], len(inputs[name][0]), members, precision, device) for name in inputs}
        )
        width = sum(encoder.outputs for encoder in self.encoders.values())  # type: ignore[misc]
        self.transformer_model = GPT(config, width, members, precision, device)
        self.model = Head(config.head, config.n_embd, len(role_columns(features, "state")), members, precision, device)
        self.sites = 1 + Transformer.SITES_PER_BLOCK * config.n_layer if config.dropout > 0 else 0
        self._hold_constants(features, normalization, "cpu" if torch.device(device).type == "meta" else device)

    def _hold_constants(self, features: tuple[Feature, ...], normalization: Normalization, device: Device) -> None:
        """Register what all members share: columns, angles and moments."""

        def hold(name: str, values: Float32 | list[int] | list[bool]) -> None:
            self.register_buffer(name, torch.tensor(values, device=device), persistent=False)

        angles = [angle for feature in features for angle in feature.angles]
        state = role_columns(features, "state")
        hold("state_columns", state)
        hold("angles", angles)
        hold("state_angles", [angles[column] for column in state])
        for name, (columns, _) in input_columns(self.config, features).items():
            hold(f"columns_{name}", columns)
        identity = Normalization.identity(features)
        by_input = normalization if self.config.normalize_input else identity
        by_output = normalization if self.config.normalize_output else identity
        hold("input_mean", by_input.mean.astype(np.float32))
        hold("input_scale", _scale(by_input.variance, self.config.normalize_input))
        hold("output_mean", by_output.target_mean.astype(np.float32))
        hold("output_scale", _scale(by_output.target_variance, self.config.normalize_output))

    def forward(self, batch: Batch, details: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each member's loss (E,): the squared error in normalized units, mean over batch, time and entries.

        With `details`, also "one_step_mse" (E, S): of the next state in raw units, angles by their wrapped difference.
        """
        points = self._wrapped(batch.points)
        state = points.index_select(-1, self.state_columns)  # (E, B, T+1, S)
        current, after = state[:, :, :-1], state[:, :, 1:]
        target = self._wrap_state(after - current) if self.config.prediction == "relative" else after
        output = self._network(points[:, :, :-1], batch.position, batch.keys).view(self.members, *target.shape[1:])
        loss = member_mean((output - (target - self.output_mean) / self.output_scale).square())
        if not details:
            return loss, {}
        with torch.no_grad():
            error = self._wrap_state(output * self.output_scale + self.output_mean - target)
            squares = error.square().flatten(1, 2)  # (E, B*T, S)
        return loss, {"one_step_mse": sum_rows(squares)[:, 0] / squares.shape[1]}

    @torch.no_grad()
    def rollout(self, history: Tensor, known: Tensor, horizon: int) -> Tensor:
        """Return predicted states (E, B, H, S), wrapped, at points C .. C+H-1.

        `history` (E, B, C, D) are true points; the context grows up to `config.history` points, then slides. `known`
        (E, B, C+H, D), or one point less, gives everything but the state at points C .. C+H-2. Either may hold one
        member's worth for all.
        """
        context = history.shape[2]
        batch = history.shape[1]
        points = self._wrapped(known[:, :, : context + horizon - 1]).expand(self.members, -1, -1, -1).clone()
        points[:, :, :context] = self._wrapped(history)
        position = torch.arange(batch, dtype=torch.int32, device=points.device)
        states = []
        for end in range(context, context + horizon):
            window = points[:, :, max(0, end - self.config.history) : end]
            output = self._network(window, position, None, last=True)  # (E, B, S)
            state = output * self.output_scale + self.output_mean
            if self.config.prediction == "relative":
                state = state + window[:, :, -1].index_select(-1, self.state_columns)
            states.append(self._wrap_state(state))
            if end < points.shape[2]:
                points[:, :, end].index_copy_(-1, self.state_columns, states[-1])
        return torch.stack(states, 2)

    def _network(self, points: Tensor, position: Tensor, keys: Tensor | None, last: bool = False) -> Tensor:
        """Wrapped points (E or 1, B, T, D) to normalized outputs (E, B*T, S), or (E, B, S) of the last time alone."""
        _, batch, time, _ = points.shape
        points = (points - self.input_mean) / self.input_scale
        encoded = []
        for name, encoder in self.encoders.items():
            columns = self.get_buffer(f"columns_{name}")
            x = points.index_select(-1, columns).flatten(1, 2).expand(self.members, -1, -1)
            encoded.append(encoder(x))
        x = encoded[0] if len(encoded) == 1 else torch.cat([x.float() for x in encoded], -1)
        h = self.transformer_model(x.view(self.members, batch, time, -1), position, keys, last)
        output: Tensor = self.model(h)
        return torch.tanh(output) if self.config.output_tanh else output

    def _wrapped(self, points: Tensor) -> Tensor:
        return torch.where(self.angles, wrap(points), points)

    def _wrap_state(self, state: Tensor) -> Tensor:
        return torch.where(self.state_angles, wrap(state), state)

    @classmethod
    def cost(cls, config: GPTDynamicsConfig, features: Sequence[Feature], sizes: Sizes, step: StepShape) -> StepCost:
        """Return what a step costs, tensor by tensor of this file; a test compares it with autograd's own account.

        A block keeps 2 d into its norms with their 4 moments, 3 d + 8 d into its products (half as wide in bf16), 3 d
        of q, k, v, and attention's weights.
        """
        d, time, drops = config.n_embd, config.history, config.dropout > 0
        product, weights = step.product_bytes, attention_floats(d, config.n_head, time, step, drops)
        block = 4 * (2 * d + 4 + 3 * d + weights) + product * 11 * d
        ends = 4 * (d + 2 + sum(f.width for f in features if f.role == "state"))
        ends += product * (2 * d + _mlp_floats(config, features))
        masks = ((2 * config.n_layer + 1) * d + config.n_layer * config.n_head * time) if drops else 0
        saved = config.n_layer * block + ends + masks
        return StepCost.of_transformer(
            step, sizes, layers=config.n_layer, width=d, tokens=time, saved=saved, drops=drops
        )


def _mlp_floats(config: GPTDynamicsConfig, features: Sequence[Feature]) -> int:
    """Return the numbers per token that encoders and head keep: what enters them, and what each layer makes."""
    read = sum(feature.width for feature in features if feature.role in ("state", "control"))
    sizes = [entry.layer_sizes for entry in config.inputs.values()] + [config.head.layer_sizes]
    return read + sum(map(sum, sizes))


def _scale(variance: Float32, normalize: bool) -> Float32:
    """Return sqrt(variance + eps) in float32, as the reference does; one without normalization."""
    scale: Float32 = np.sqrt(variance.astype(np.float32) + np.float32(EPS if normalize else 0))
    return scale


def input_columns(config: GPTDynamicsConfig, features: Sequence[Feature]) -> dict[str, tuple[list[int], MLPConfig]]:
    """Return each named input's columns and encoder."""
    where = column_slices(features)
    inputs = input_features(config, features)
    return {
        name: ([i for f in of for i in range(where[f].start, where[f].stop)], config.inputs.get(name, MLPConfig()))
        for name, of in inputs.items()
    }
