"""Post-norm transformers of torch's own layers (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer), for a pack.

    encoder layer   x = norm1(x + drop1(attention x)), x = norm2(x + drop2(mlp x))
    decoder layer   as that, and x = norm2(x + drop2(attention(x, memory))) between the two, the last norm being norm3
    mlp x           linear2(drop(gelu(linear1 x))), the exact GELU; attention weights are dropped as well

Names of parameters and their order are those of torch's layers, so that state dicts map one to one (`state_dicts.py`).
Filled as the tiny policies are: xavier_uniform on every matrix and table, zero attention biases, torch's own elsewhere.

The memory of a decoder is ONE token. A softmax over one key is 1, so what a query gets from it does not depend on the
query: it is linear in memory, computed once a sample and head, and weighted by what dropout keeps. Queries and keys
have parameters, since the reference's count has them; their gradient is exactly zero here and in torch, so Adam leaves
them where they are but for weight decay. They lie in `in_proj_weight`, whose values do get a gradient.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ensemble.config.policy import Pi0Config, Pi0FastConfig
from ensemble.models.activations import gelu
from ensemble.models.attention import attention
from ensemble.models.base import Device
from ensemble.models.layers import Dropout, Embedding, Layer, LayerNorm, Linear, empty_parameter
from ensemble.models.products import Precision, add_row, product

Config = Pi0Config | Pi0FastConfig


class PassInputs(NamedTuple):
    """What a pass through the layers takes besides its activations."""

    position: Tensor  # (B,) int32, places in the global batch
    keys: Tensor | None  # (E, sites) int32, None to evaluate
    mask: Tensor  # (T, T) added to attention's scores


def xavier(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw a matrix from U(-b, b), b = sqrt(6 / (rows + columns)) (Glorot and Bengio, 2010)."""
    bound = math.sqrt(6 / sum(shape))
    return torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator)


class XavierLinear(Linear):
    """Linear layer with an xavier_uniform weight; the bias as torch's linear layer fills it, or zero."""

    def __init__(
        self, members: int, inputs: int, outputs: int, precision: Precision, device: Device, *, zero_bias: bool = False
    ) -> None:
        super().__init__(members, inputs, outputs, precision=precision, device=device)
        self.zero_bias = zero_bias

    @torch.no_grad()
    def reset(self, member: int, generator: torch.Generator) -> None:
        """Draw one member's weight, then its bias."""
        assert self.bias is not None
        self.weight[member] = xavier(self.weight.shape[1:], generator)
        bound = 0.0 if self.zero_bias else 1 / math.sqrt(self.weight.shape[1])
        self.bias[member] = torch.empty(self.bias.shape[1:]).uniform_(-bound, bound, generator=generator)


class XavierEmbedding(Embedding):
    """Table of vectors, filled by xavier_uniform."""

    @torch.no_grad()
    def reset(self, member: int, generator: torch.Generator) -> None:
        """Draw one member's table."""
        self.weight[member] = xavier(self.weight.shape[1:], generator)


class _AttentionLayer(Layer):
    """What attention to oneself and to a memory hold alike, named and shaped as torch's nn.MultiheadAttention."""

    transposed = ("in_proj_weight",)

    def __init__(self, config: Config, members: int, site: int, precision: Precision, device: Device) -> None:
        super().__init__()
        width = config.n_embd
        self.heads, self.precision = config.n_head, precision
        self.in_proj_weight = empty_parameter(members, width, 3 * width, device=device)
        self.in_proj_bias = empty_parameter(members, 1, 3 * width, device=device)
        self.out_proj = XavierLinear(members, width, width, precision, device, zero_bias=True)
        self.drop = Dropout(config.dropout, site)

    @torch.no_grad()
    def reset(self, member: int, generator: torch.Generator) -> None:
        """Draw one member's projection of queries, keys and values, as one matrix; the bias is zero."""
        self.in_proj_weight[member] = xavier(self.in_proj_weight.shape[1:], generator)
        self.in_proj_bias[member] = 0


class SelfAttention(_AttentionLayer):
    """Multi-head self-attention."""

    def forward(self, x: Tensor, step: PassInputs) -> Tensor:
        """(E, B*T, d) -> (E, B*T, d)."""
        time = step.mask.shape[0]
        qkv = self._projected(x)
        keep = self.drop.kept(step.position, step.keys, (self.heads, time, time))
        y = attention(
            qkv.view(-1, time, *qkv.shape[1:]), step.mask, None if keep is None else keep.flatten(0, 1), self.drop.p
        )
        out: Tensor = self.out_proj(y.reshape(x.shape))
        return out

    def extend(self, x: Tensor, cache: Tensor, at: int) -> Tensor:
        """Attend from a new token, (E, B, d) -> (E, B, d), to those before it and itself.

        `cache` (2, E*B, N, L, h) float32 holds keys and values up to place `at`, where the new ones are written.
        """
        q, k, v = self._projected(x).float().unbind(1)  # (E*B, N, h) each
        cache[0, :, :, at], cache[1, :, :, at] = k, v
        keys, values = cache[:, :, :, : at + 1].flatten(1, 2)  # (E*B*N, t, h)
        scores = torch.bmm(q.flatten(0, 1)[:, None], keys.mT).div_(math.sqrt(q.shape[-1]))
        out: Tensor = self.out_proj(torch.bmm(scores.softmax(-1), values).view(x.shape))
        return out

    def _projected(self, x: Tensor) -> Tensor:
        """(E, M, d) -> (E*M, 3, N, h)."""
        qkv = product(x, self.in_proj_weight, self.in_proj_bias, self.precision)
        return qkv.view(-1, 3, self.heads, x.shape[-1] // self.heads)


class TokenAttention(_AttentionLayer):
    """Multi-head attention to a memory of one token."""

    def read(self, memory: Tensor) -> Tensor:
        """Return what a query gets when nothing is dropped: (E, B, d) -> (E, B, d)."""
        out: Tensor = self.out_proj(self._values(memory))
        return out

    def forward(self, memory: Tensor, time: int, step: PassInputs) -> Tensor:
        """(E, B, d) -> (E, B*T, d): for each query, the heads that dropout keeps."""
        members, batch, width = memory.shape
        keep = self.drop.kept(step.position, step.keys, (time, self.heads))
        if keep is None:
            return self.read(memory)[:, :, None].expand(-1, -1, time, -1).reshape(members, batch * time, width)
        size = width // self.heads
        values = self._values(memory).view(members, batch, self.heads, size).transpose(1, 2)
        parts = product(  # a product for each head: (E*N, B, h) @ (E*N, h, d)
            values.reshape(-1, batch, size), self.out_proj.weight.reshape(-1, size, width), None, self.precision
        )
        by_sample = parts.float().view(members, self.heads, batch, width).transpose(1, 2).reshape(-1, self.heads, width)
        weights = keep.flatten(0, 1).float().mul_(1 / (1 - self.drop.p))  # (E*B, T, N)
        y = torch.bmm(weights, by_sample).view(members, batch * time, width)
        return add_row(y, cast(Tensor, self.out_proj.bias))

    def _values(self, memory: Tensor) -> Tensor:
        first = 2 * memory.shape[-1]
        return product(memory, self.in_proj_weight[:, :, first:], self.in_proj_bias[:, :, first:], self.precision)


class _Layer(nn.Module):
    """Self-attention, the feedforward part, and the norms after each: what both kinds of layers share."""

    norms: int

    def __init__(self, config: Config, members: int, site: int, precision: Precision, device: Device) -> None:
        super().__init__()
        width, p = config.n_embd, config.dropout
        self.self_attn = SelfAttention(config, members, site, precision, device)
        self._add_cross_attention(config, members, site + 3 + self.norms - 1, precision, device)
        self.linear1 = XavierLinear(members, width, config.n_inner, precision, device)
        self.linear2 = XavierLinear(members, config.n_inner, width, precision, device)
        for i in range(1, self.norms + 1):
            self.add_module(f"norm{i}", LayerNorm(members, width, device=device))
        self.drop = Dropout(p, site + 1)
        self.drops = nn.ModuleList(Dropout(p, site + 2 + i) for i in range(self.norms))

    def _add_cross_attention(
        self, config: Config, members: int, site: int, precision: Precision, device: Device
    ) -> None:
        """Encoders have none."""

    def _join(self, i: int, x: Tensor, branch: Tensor, step: PassInputs | None) -> Tensor:
        """Return norm_i(x + drop_i(branch)), (E, M, d)."""
        if step is not None:
            shape = x.shape[0], -1, step.mask.shape[0] * x.shape[2]  # dropout counts elements within a sample
            branch = self.drops[i - 1](branch.view(shape), step.position, step.keys).view_as(x)
        return cast(Tensor, self.get_submodule(f"norm{i}")(x + branch))

    def _feedforward(self, x: Tensor, step: PassInputs | None) -> Tensor:
        """(E, M, d) -> (E, M, d)."""
        h = gelu(self.linear1(x))
        if step is not None:
            shape = h.shape[0], -1, step.mask.shape[0] * h.shape[2]
            h = self.drop(h.view(shape), step.position, step.keys).view_as(h)
        return cast(Tensor, self.linear2(h))


class EncoderLayer(_Layer):
    """torch's nn.TransformerEncoderLayer, norm_first=False, GELU."""

    SITES = 4
    norms = 2

    def forward(self, x: Tensor, step: PassInputs) -> Tensor:
        """(E, B*T, d) -> (E, B*T, d)."""
        x = self._join(1, x, self.self_attn(x, step), step)
        return self._join(2, x, self._feedforward(x, step), step)


class DecoderLayer(_Layer):
    """torch's nn.TransformerDecoderLayer, norm_first=False, GELU, with a memory of one token."""

    SITES = 6
    norms = 3

    def _add_cross_attention(
        self, config: Config, members: int, site: int, precision: Precision, device: Device
    ) -> None:
        self.multihead_attn = TokenAttention(config, members, site, precision, device)

    def forward(self, x: Tensor, memory: Tensor, step: PassInputs) -> Tensor:
        """(E, B*T, d) and memory (E, B, d) -> (E, B*T, d)."""
        x = self._join(1, x, self.self_attn(x, step), step)
        x = self._join(2, x, self.multihead_attn(memory, step.mask.shape[0], step), step)
        return self._join(3, x, self._feedforward(x, step), step)

    def extend(self, x: Tensor, read: Tensor, cache: Tensor, at: int) -> Tensor:
        """Pass a new token (E, B, d) on, `read` (E, B, d) being what it gets from memory; see SelfAttention.extend."""
        x = self._join(1, x, self.self_attn.extend(x, cache, at), None)
        x = self._join(2, x, read, None)
        return self._join(3, x, self._feedforward(x, None), None)


class Encoder(nn.Module):
    """Encoder layers, one after the other."""

    def __init__(self, config: Config, members: int, first_site: int, precision: Precision, device: Device) -> None:
        super().__init__()
        sites = range(first_site, first_site + config.n_layer * EncoderLayer.SITES, EncoderLayer.SITES)
        self.layers = nn.ModuleList(EncoderLayer(config, members, site, precision, device) for site in sites)

    def forward(self, x: Tensor, step: PassInputs) -> Tensor:
        """(E, B*T, d) -> (E, B*T, d)."""
        for layer in self.layers:
            x = layer(x, step)
        return x


class Decoder(nn.Module):
    """Decoder layers, one after the other."""

    def __init__(self, config: Config, members: int, first_site: int, precision: Precision, device: Device) -> None:
        super().__init__()
        sites = range(first_site, first_site + config.n_layer * DecoderLayer.SITES, DecoderLayer.SITES)
        self.layers = nn.ModuleList(DecoderLayer(config, members, site, precision, device) for site in sites)

    def forward(self, x: Tensor, memory: Tensor, step: PassInputs) -> Tensor:
        """(E, B*T, d) and memory (E, B, d) -> (E, B*T, d)."""
        for layer in self.layers:
            x = layer(x, memory, step)
        return x
