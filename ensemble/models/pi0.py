"""pi0: flow matching on action chunks (Black et al., arXiv 2410.24164), for a pack; tiny or openpi's form by config.

t = 0 is noise, t = 1 is data, as in the paper and the tiny pi0 of ruiming-wu/FAST_Flow_Matching:

    x_t = (1 - t) noise + t action,     target u = action - noise,     loss = mean (v(x_t, t, observation) - u)^2

openpi's t is 1 - t here, and its u the opposite: its Beta(1.5, 1) * 0.999 + 0.001 becomes t = 0.999 (1 - Beta(1.5, 1)),
so t lies near the noise more often, and its sines and cosines are those of 1 - t.

    observation -> linear ------------------------------- token 0 -+
    x_t, t      -> linear + linear, or linear, sines, MLP - 1..H  -+- + places -> post-norm transformer -> linear -> v

Sampling solves dx/dt = v from noise at t = 0 to t = 1, one t for all positions.
"""

import math

import torch
from torch import Tensor

from ensemble.config.policy import Pi0Config
from ensemble.models.activations import silu
from ensemble.models.attention import causal_mask
from ensemble.models.base import Batch, Decode, Device, Noise, Normalization
from ensemble.models.noise import beta, normal, uniform
from ensemble.models.policy import Policy
from ensemble.models.products import Precision, add_row, member_mean, product
from ensemble.models.transformer import Encoder, EncoderLayer, PassInputs, XavierEmbedding, XavierLinear
from ensemble.schema import Feature

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0  # of the sines and cosines of time, as openpi's
LAST_TIME = 0.999  # openpi's times keep this distance from the data


class Pi0(Policy):
    """A pack of flow-matching policies; it implements `models.base.PolicyModel`."""

    def __init__(
        self,
        config: Pi0Config,
        features: tuple[Feature, ...],
        members: int,
        normalization: Normalization,
        *,
        precision: Precision = "fp32",
        device: Device = "meta",
    ) -> None:
        super().__init__(config, features, normalization, device)
        self.config, self.members, self.precision = config, members, precision
        width = config.n_embd
        self.state_embedding = XavierLinear(members, self.states, width, precision, device)
        self.action_embedding = XavierLinear(members, self.controls, width, precision, device)
        if config.time_embedding == "raw":
            self.time_embedding = XavierLinear(members, 1, width, precision, device)
        else:
            self.action_time_mlp_in = XavierLinear(members, 2 * width, width, precision, device)
            self.action_time_mlp_out = XavierLinear(members, width, width, precision, device)
        self.position_embedding = XavierEmbedding(members, config.chunk + 1, width, device=device)
        self.transformer = Encoder(config, members, 0, precision, device)
        self.flow_output = XavierLinear(members, width, self.controls, precision, device)
        self.sites = config.n_layer * EncoderLayer.SITES if config.dropout > 0 else 0

    def forward(self, batch: Batch, details: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Return each member's loss (E,): the squared error of the flow, mean over batch, chunk and entries.

        Noise and times come from `batch.noise`. There are no details. Raises ValueError for a batch without noise.
        """
        if batch.noise is None:
            raise ValueError("pi0 needs batch.noise, in evaluation too")
        action = self.chunk_of(batch.points)  # (E or 1, B, H, A)
        noise, time = self.noise(batch.noise), self.times(batch.noise)
        noisy = (1 - time) * noise + time * action
        state = self._normalized(self.observation_of(batch.points))
        flow = self.flow(state, noisy, time, batch.position, batch.keys)
        return member_mean((flow - (action - noise)).square()), {}

    @torch.no_grad()
    def act(
        self,
        observation: Tensor,
        noise: Noise | None,
        *,
        decode: Decode | None = None,
        horizon: int | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Return chunks (E, B, H, A) in raw units for states (E, B, S) or (1, B, S), solving the flow in `steps` steps.

        `steps` None is the config's number; `decode` is for families over tokens. `horizon` wants the first actions
        alone: under the causal mask they do not know of later ones, which then are not computed. Raises ValueError
        without noise.
        """
        if noise is None:
            raise ValueError("pi0 needs noise to act")
        steps = steps or self.config.solver_steps
        state, x = self._normalized(observation), self.noise(noise)
        if self.config.attention == "causal":
            x = x[:, :, :horizon]
        position = torch.arange(x.shape[1], dtype=torch.int32, device=x.device)

        def velocity(x: Tensor, step: int) -> Tensor:
            return self.flow(state, x, x.new_full((1, 1, 1, 1), step / steps), position, None)

        for step in range(steps):
            v = velocity(x, step)
            if self.config.solver == "heun":
                v = (v + velocity(x + v * (1 / steps), step + 1)) * 0.5
            x = x + v * (1 / steps)
        return self._raw(x[:, :, :horizon])

    def noise(self, noise: Noise) -> Tensor:
        """Return the noise of a step, (E, B, H, A) in normalized units."""
        config = self.config
        drawn = normal(noise.keys[:, 0], noise.counter, config.chunk * self.controls)
        drawn = drawn.view(*drawn.shape[:2], config.chunk, self.controls)
        return drawn if config.noise_clip is None else drawn.clamp_(-config.noise_clip, config.noise_clip)

    def times(self, noise: Noise) -> Tensor:
        """Return the times of a step, (E, B, H, 1), or (E, B, 1, 1) where a chunk has one."""
        count = self.config.chunk if self.config.time_per == "position" else 1
        if self.config.time_law == "uniform":
            return uniform(noise.keys[:, 1], noise.counter, count)[..., None]
        return (1 - beta(noise.keys[:, 1], noise.counter, count)).mul_(LAST_TIME)[..., None]

    def flow(self, state: Tensor, x: Tensor, time: Tensor, position: Tensor, keys: Tensor | None) -> Tensor:
        """Return v (E, B, H, A) float32 for normalized states (E or 1, B, S), x (E, B, H, A), times (.., 1) of x."""
        members, batch, horizon, _ = x.shape
        width = self.config.n_embd
        first = self.state_embedding(state.expand(members, -1, -1))
        later = self._actions(x.flatten(1, 2), time.expand(members, batch, horizon, 1).flatten(1, 2))
        tokens = torch.cat([first[:, :, None], later.view(members, batch, horizon, width)], 2)
        places = self.position_embedding.weight[:, : horizon + 1].reshape(members, 1, -1)
        h = add_row(tokens.float().view(members, batch, -1), places).view(members, -1, width)
        inputs = PassInputs(position, keys, self._mask(horizon + 1, h.device))
        h = self.transformer(h, inputs).view(members, batch, -1, width)
        out: Tensor = self.flow_output(h[:, :, 1:].flatten(1, 2))
        return out.float().view(x.shape)

    def _actions(self, x: Tensor, time: Tensor) -> Tensor:
        """Embed actions (E, B*H, A) and their times (E, B*H, 1) together, (E, B*H, d)."""
        if self.config.time_embedding == "sinusoidal":
            embedded = torch.cat([self.action_embedding(x).float(), sinusoids(1 - time, self.config.n_embd)], -1)
            out: Tensor = self.action_time_mlp_out(silu(self.action_time_mlp_in(embedded)))
            return out
        layers = self.action_embedding, self.time_embedding  # one product for both
        weight = torch.cat([layer.weight for layer in layers], 1)
        assert layers[0].bias is not None
        assert layers[1].bias is not None
        return product(torch.cat([x, time], -1), weight, layers[0].bias + layers[1].bias, self.precision)

    def _mask(self, time: int, device: torch.device) -> Tensor:
        """Return what is added to attention's scores, (H+1, H+1) for `time` H + 1.

        In openpi's form actions see each other and the state, and the state, a block of its own, itself alone.
        """
        if self.config.attention == "causal":
            return causal_mask(time, device)
        mask = torch.zeros(time, time, device=device)
        mask[0, 1:] = -math.inf
        return mask


def sinusoids(time: Tensor, width: int) -> Tensor:
    """Return openpi's embedding of times (.., 1): (.., d), sines then cosines of periods in a geometric row."""
    share = torch.linspace(0, 1, width // 2, dtype=torch.float64)
    frequency = (2 * math.pi / (MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** share)).float().to(time.device)
    angle = time * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
