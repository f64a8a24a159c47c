"""Plain PyTorch twins of our models, from torch's own modules: what a user would write instead."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble.config.model import GPTDynamicsConfig


class _Attention(nn.Module):
    def __init__(self, c: GPTDynamicsConfig) -> None:
        super().__init__()
        self.heads = c.n_head
        self.c_attn = nn.Linear(c.n_embd, 3 * c.n_embd, bias=c.bias)
        self.c_proj = nn.Linear(c.n_embd, c.n_embd, bias=c.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.c_attn(x).split(d, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, d))


class _Feedforward(nn.Module):
    def __init__(self, c: GPTDynamicsConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(c.n_embd, 4 * c.n_embd, bias=c.bias)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(4 * c.n_embd, c.n_embd, bias=c.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class _Block(nn.Module):
    def __init__(self, c: GPTDynamicsConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(c.n_embd, bias=c.bias)
        self.attn = _Attention(c)
        self.ln_2 = nn.LayerNorm(c.n_embd, bias=c.bias)
        self.mlp = _Feedforward(c)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class _GPT(nn.Module):
    def __init__(self, c: GPTDynamicsConfig, inputs: int) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Linear(inputs, c.n_embd),
                "wpe": nn.Embedding(c.block_size, c.n_embd),
                "h": nn.ModuleList(_Block(c) for _ in range(c.n_layer)),
                "ln_f": nn.LayerNorm(c.n_embd, bias=c.bias),
            }
        )
        self.lm_head = nn.Linear(c.n_embd, c.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.transformer
        x = parts["wte"](x) + parts["wpe"](torch.arange(x.shape[1]))
        for block in parts["h"]:
            x = block(x)
        return self.lm_head(parts["ln_f"](x))


class _MLP(nn.Module):
    """MLPBase of the reference."""

    def __init__(self, inputs: int, sizes: list[int], activation: str, layernorm: bool) -> None:
        super().__init__()
        kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "silu": nn.SiLU, "identity": nn.Identity}
        layers: list[nn.Module] = []
        for size in sizes:
            layers += [nn.Linear(inputs, size), kinds[activation]()] + [nn.LayerNorm(size)] * layernorm
            inputs = size
        self.body, self.outputs = nn.Sequential(*layers), inputs

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _Head(nn.Module):
    def __init__(self, c: GPTDynamicsConfig, outputs: int) -> None:
        super().__init__()
        self.feature_net = _MLP(c.n_embd, c.head.layer_sizes, c.head.activation, c.head.layernorm)
        self.output_net = nn.Linear(self.feature_net.outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_net(self.feature_net(x))


class ModelMixedInput(nn.Module):
    """The reference's network: a dict of normalized inputs (B, T, d) to normalized outputs (B, T, out)."""

    def __init__(self, c: GPTDynamicsConfig, widths: dict[str, int], outputs: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {
                name: _MLP(widths[name], entry.layer_sizes, entry.activation, entry.layernorm)
                for name, entry in c.inputs.items()
            }
        )
        self.transformer_model = _GPT(c, sum(encoder.outputs for encoder in self.encoders.values()))
        self.model = _Head(c, outputs)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        encoded = torch.cat([encoder(inputs[name]) for name, encoder in self.encoders.items()], -1)
        return self.model(self.transformer_model(encoded))


def copy_member(pack: nn.Module, twin: nn.Module, member: int = 0) -> None:
    """Copy one member's weights into a twin of the same parameter names, transposing linear weights."""
    ours = dict(pack.named_parameters())
    assert list(ours) == [name for name, _ in twin.named_parameters()]
    with torch.no_grad():
        for name, theirs in twin.named_parameters():
            part = ours[name][member]
            linear = isinstance(twin.get_submodule(name.rpartition(".")[0]), nn.Linear)
            theirs.copy_(part.T if linear and name.endswith("weight") else part.reshape(theirs.shape))
