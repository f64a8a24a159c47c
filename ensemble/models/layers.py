"""Layers that hold every parameter once per member: linear, layer norm, embedding, MLP, causal attention.

Each parameter has a leading member axis E and may be a view of an arena (E, P), in which a member is a row. `reset`
fills one member's part from a generator. How members stay independent of their pack is `products.py`'s business.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ensemble.models.activations import ACTIVATIONS
from ensemble.models.attention import causal_attention
from ensemble.models.dropout import dropout, keep_mask
from ensemble.models.products import Precision, per_member, product


class Layer(nn.Module):
    """A module with parameters of its own, which it knows how to fill."""

    transposed: ClassVar[tuple[str, ...]] = ()  # parameters (E, in, out) that torch holds as (out, in)

    def reset(self, member: int, generator: torch.Generator) -> None:
        """Fill one member's part of every parameter held here, drawing only from `generator` (a CPU one)."""
        raise NotImplementedError


def empty_parameter(*shape: int, device: str | torch.device) -> nn.Parameter:
    """Return a parameter that a layer's `reset` fills."""
    return nn.Parameter(torch.empty(shape, device=device))


class Linear(Layer):
    """x @ weight + bias; weight (E, in, out), bias (E, 1, out).

    `std` None draws weight and bias from U(-1/sqrt(in), 1/sqrt(in)), torch's default; a number draws the weight from
    N(0, std^2) and leaves the bias zero.
    """

    transposed = ("weight",)

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        std: float | None = None,
        precision: Precision = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self.std, self.precision = std, precision
        self.weight = empty_parameter(members, inputs, outputs, device=device)
        self.bias = empty_parameter(members, 1, outputs, device=device) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(E, M, in) -> (E, M, out)."""
        return product(x, self.weight, self.bias, self.precision)

    @torch.no_grad()
    def reset(self, member: int, generator: torch.Generator) -> None:
        """Draw one member's weight, then its bias."""
        shape = self.weight.shape[1:]
        bound = 1 / math.sqrt(shape[0])
        draw = torch.empty(shape, device="cpu")
        if self.std is None:
            self.weight[member] = draw.uniform_(-bound, bound, generator=generator)
        else:
            self.weight[member] = draw.normal_(0, self.std, generator=generator)
        if self.bias is None:
            return
        row = torch.zeros(self.bias.shape[1:], device="cpu")
        self.bias[member] = row.uniform_(-bound, bound, generator=generator) if self.std is None else row


class LayerNorm(Layer):
    """Layer norm over the last axis; weight (E, 1, d), bias (E, 1, d) or none. Computed in fp32."""

    def __init__(
        self, members: int, width: int, *, bias: bool = True, eps: float = 1e-5, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = empty_parameter(members, 1, width, device=device)
        self.bias = empty_parameter(members, 1, width, device=device) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(E, M, d) -> (E, M, d) float32."""
        x = x.float()
        if x.is_cuda:
            y = F.layer_norm(x, x.shape[-1:], eps=self.eps) * self.weight
            return y if self.bias is None else y + self.bias
        packs = (x, self.weight) if self.bias is None else (x, self.weight, self.bias)
        return per_member(self._norm, *packs)

    def _norm(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight[0], None if bias is None else bias[0], self.eps)

    @torch.no_grad()
    def reset(self, member: int, generator: torch.Generator) -> None:
        """Set one member to the identity; draws nothing."""
        self.weight[member] = 1
        if self.bias is not None:
            self.bias[member] = 0


class Embedding(Layer):
    """A table of vectors per member; weight (E, n, d), drawn from N(0, std^2)."""

    def __init__(
        self, members: int, entries: int, width: int, *, std: float = 1.0, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__()
        self.std = std
        self.weight = empty_parameter(members, entries, width, device=device)

    def forward(self, index: Tensor) -> Tensor:
        """Look entries up: (E, ..) int64 -> (E, .., d)."""
        return per_member(F.embedding, index, self.weight)

    @torch.no_grad()
    def reset(self, member: int, generator: torch.Generator) -> None:
        """Draw one member's table."""
        draw = torch.empty(self.weight.shape[1:], device="cpu")
        self.weight[member] = draw.normal_(0, self.std, generator=generator)


class Activation(nn.Module):
    """An activation by name, as an element of a `Sequential`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """(E, ..) -> (E, ..)."""
        return ACTIVATIONS[self.name](x)


class MLP(nn.Module):
    """Linear -> activation (-> LayerNorm) for each size; no sizes is the identity. Torch's default initialization."""

    def __init__(
        self,
        members: int,
        inputs: int,
        sizes: Sequence[int],
        activation: str,
        layernorm: bool,
        *,
        precision: Precision = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, size in zip([inputs, *sizes], sizes, strict=False):
            layers += [Linear(members, width, size, precision=precision, device=device), Activation(activation)]
            if layernorm:
                layers.append(LayerNorm(members, size, device=device))
        self.body = nn.Sequential(*layers)
        self.outputs = sizes[-1] if sizes else inputs

    def forward(self, x: Tensor) -> Tensor:
        """(E, M, in) -> (E, M, outputs)."""
        out: Tensor = self.body(x)
        return out


class Dropout(nn.Module):
    """Dropout at one site of a model, its key a column of the step's keys (see `dropout.py`)."""

    def __init__(self, p: float, site: int) -> None:
        super().__init__()
        self.p, self.site = p, site

    def forward(self, x: Tensor, position: Tensor, keys: Tensor | None) -> Tensor:
        """(E, B, ..) -> (E, B, ..); position (B,), keys (E, sites) int32, or None for evaluation."""
        if self.p == 0 or keys is None:
            return x
        return dropout(x, self.p, keys[:, self.site], position)

    def kept(self, position: Tensor, keys: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
        """Return which elements of a sample's (..) survive, (E, B, ..) bool; None: all of them."""
        if self.p == 0 or keys is None:
            return None
        keep = keep_mask(keys[:, self.site], position, math.prod(shape), self.p)
        return keep.view(keep.shape[0], keep.shape[1], *shape)


class CausalSelfAttention(nn.Module):
    """Multi-head causal self-attention; q, k and v come from one product, members fold into the batch."""

    def __init__(
        self,
        members: int,
        width: int,
        heads: int,
        *,
        bias: bool,
        drop: Dropout,
        std: float = 0.02,
        std_out: float = 0.02,
        precision: Precision = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self.heads, self.drop = heads, drop
        self.c_attn = Linear(members, width, 3 * width, bias=bias, std=std, precision=precision, device=device)
        self.c_proj = Linear(members, width, width, bias=bias, std=std_out, precision=precision, device=device)

    def forward(self, x: Tensor, time: int, position: Tensor, keys: Tensor | None) -> Tensor:
        """(E, B*T, d) -> (E, B*T, d); `time` is T."""
        members, rows, width = x.shape
        batch, size = rows // time, width // self.heads
        qkv = self.c_attn(x).view(members * batch, time, 3, self.heads, size)
        keep = self.drop.kept(position, keys, (self.heads, time, time))
        y = causal_attention(qkv, None if keep is None else keep.flatten(0, 1), self.drop.p)
        out: Tensor = self.c_proj(y.reshape(members, rows, width))
        return out
