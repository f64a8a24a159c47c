"""Self-attention on folded members, from one tensor of queries, keys and values.

On a CPU it is written out over batched products, which for short windows is twice as fast as the fused kernel (that one
takes exponentials one by one when a row is shorter than a vector; here rows are padded to whole vectors, with -inf).
It is also what dropout needs, since the fused kernel's mask is a stream shared by members. Long windows and GPUs
without dropout use the fused kernel. Every product here is of E*B*N > 1 matrices whose shapes do not know E.
"""

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble.models.dropout import as_numbers

VECTOR = 16  # floats in the widest CPU vector
LONGEST = 64  # times up to which all pairs are written out on a CPU


class _AttentionFunction(torch.autograd.Function):
    """softmax(q k' / sqrt(h) + mask) v, its weights masked by dropout, in fp32."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, qkv: Tensor, mask: Tensor, keep: Tensor | None, p: float
    ) -> Tensor:
        folded, time, _, heads, size = qkv.shape
        parts = qkv.new_empty(3, folded, heads, time, size, dtype=torch.float32).copy_(qkv.permute(2, 0, 3, 1, 4))
        q, k, v = parts.view(3, folded * heads, time, size).unbind(0)
        padded = -(-time // VECTOR) * VECTOR
        scores = q.new_empty(folded * heads, time, padded)
        scores[:, :, time:] = -math.inf
        torch.add(mask, torch.bmm(q, k.mT), alpha=1 / math.sqrt(size), out=scores[:, :, :time])
        weights = scores.softmax(-1)[:, :, :time]
        used = weights if keep is None else _masked(weights, keep, p)
        ctx.save_for_backward(q, k, v, weights, keep)  # type: ignore[arg-type]
        ctx.p, ctx.kind = p, qkv.dtype  # type: ignore[attr-defined]
        out = torch.bmm(used, v).view(folded, heads, time, size)
        return out.transpose(1, 2).to(qkv.dtype).contiguous()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        q, k, v, weights, keep = ctx.saved_tensors  # type: ignore[attr-defined]
        p: float = ctx.p  # type: ignore[attr-defined]
        folded, time, heads, size = grad.shape
        g = grad.transpose(1, 2).float().contiguous().view_as(q)
        used = weights if keep is None else _masked(weights, keep, p)
        g_scores = torch.bmm(g, v.mT)
        if keep is not None:
            g_scores = _masked(g_scores, keep, p)
        g_scores -= (g_scores * weights).sum(-1, keepdim=True)
        g_scores.mul_(weights).mul_(1 / math.sqrt(size))
        out = grad.new_empty(folded, time, 3, heads, size, dtype=ctx.kind)  # type: ignore[attr-defined]
        products = (g_scores, k), (g_scores.mT, q), (used.mT, g)  # of queries, keys, values
        for (left, right), part in zip(products, out.permute(2, 0, 3, 1, 4), strict=True):
            part.copy_(torch.bmm(left, right).view(folded, heads, time, size))
        return out, None, None, None


def _masked(weights: Tensor, keep: Tensor, p: float) -> Tensor:
    """Drop (F*N, T, T) by keep (F, N, T, T), and scale what stays."""
    return (weights * as_numbers(keep).view(weights.shape)).mul_(1 / (1 - p))


def causal_mask(time: int, device: torch.device) -> Tensor:
    """Return (T, T) to add to scores: -inf where a key lies after its query, else 0."""
    return torch.full((time, time), -math.inf, device=device).triu_(1)


def attention(qkv: Tensor, mask: Tensor, keep: Tensor | None = None, p: float = 0.0) -> Tensor:
    """Attend, (F, T, 3, N, h) -> (F, T, N, h), F being members times batch.

    `mask` (T, T) float32 is added to the scores, -inf where a query (row) does not see a key. `keep` (F, N, T, T) bool
    says which weights survive dropout with probability p; None is no dropout.
    """
    if keep is None and (qkv.is_cuda or qkv.shape[1] > LONGEST):
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype)).transpose(1, 2)
    return cast(Tensor, _AttentionFunction.apply(qkv, mask, keep, p))  # type: ignore[no-untyped-call]


def causal_attention(qkv: Tensor, keep: Tensor | None = None, p: float = 0.0) -> Tensor:
    """Attend to what is not later, (F, T, 3, N, h) -> (F, T, N, h); see `attention`."""
    if keep is None and (qkv.is_cuda or qkv.shape[1] > LONGEST):
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    return attention(qkv, causal_mask(qkv.shape[1], qkv.device), keep, p)
