"""Linear -> exact GELU -> linear as one operation, which on a CPU never writes its widest tensors to memory.

A member's rows go through in chunks that fit a core's cache, and the backward pass computes GELU again instead of
reading it back. On a GPU, in bf16 and for small products it is the two products and GELU between them.
"""

from typing import cast

import torch
from torch import Tensor

from ensemble.models.activations import gelu
from ensemble.models.products import LOOP_FROM, Precision, product, sum_rows

CHUNK = 3 << 17  # numbers of the widest tensor in one chunk: 1.5 MB

_gelu_out = torch.ops.aten.gelu.out
_gelu_backward_out = torch.ops.aten.gelu_backward.grad_input


class _Feedforward(torch.autograd.Function):
    """x -> gelu(x w_1 + b_1) w_2 + b_2 per member, in fp32 on a CPU."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        w_1: Tensor,
        b_1: Tensor | None,
        w_2: Tensor,
        b_2: Tensor | None,
    ) -> Tensor:
        members, rows, _ = x.shape
        hidden = x.new_empty(members, rows, w_1.shape[2])
        out = x.new_empty(members, rows, w_2.shape[2])
        step = _chunk(hidden)
        active = x.new_empty(step, w_1.shape[2])
        for e in range(members):
            for at in range(0, rows, step):
                h, y = hidden[e, at : at + step], out[e, at : at + step]
                a = active[: h.shape[0]]
                _affine(x[e, at : at + step], w_1[e], None if b_1 is None else b_1[e], h)
                _gelu_out(h, out=a)
                _affine(a, w_2[e], None if b_2 is None else b_2[e], y)
        ctx.save_for_backward(x, hidden, w_1, w_2)
        ctx.biased = b_1 is not None, b_2 is not None  # type: ignore[attr-defined]
        return out

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]:
        x, hidden, w_1, w_2 = ctx.saved_tensors  # type: ignore[attr-defined]
        biased_1, biased_2 = ctx.biased  # type: ignore[attr-defined]
        members, rows, width = hidden.shape
        step = _chunk(hidden)
        g_x = torch.empty_like(x)
        g_w_1, g_w_2 = x.new_zeros(w_1.shape), x.new_zeros(w_2.shape)
        g_b_1 = x.new_zeros(members, 1, width) if biased_1 else None
        active, g_active = x.new_empty(2, step, width)
        for e in range(members):
            for at in range(0, rows, step):
                part = slice(at, at + step)
                h, g = hidden[e, part], grad[e, part]
                a, g_h = active[: h.shape[0]], g_active[: h.shape[0]]
                _gelu_out(h, out=a)
                g_w_2[e].addmm_(a.T, g)
                torch.mm(g, w_2[e].T, out=a)
                _gelu_backward_out(a, h, grad_input=g_h)
                g_w_1[e].addmm_(x[e, part].T, g_h)
                torch.mm(g_h, w_1[e].T, out=g_x[e, part])
                if g_b_1 is not None:
                    g_b_1[e] += g_h.sum(0, keepdim=True)
        return g_x, g_w_1, g_b_1, g_w_2, sum_rows(grad) if biased_2 else None


def _chunk(hidden: Tensor) -> int:
    return max(1, min(hidden.shape[1], CHUNK // hidden.shape[2]))


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, weight, out=out)
    else:
        torch.addmm(bias, x, weight, out=out)


def feedforward(
    x: Tensor,
    w_1: Tensor,
    b_1: Tensor | None,
    w_2: Tensor,
    b_2: Tensor | None,
    precision: Precision = "fp32",
) -> Tensor:
    """Return gelu(x w_1 + b_1) w_2 + b_2: x (E, M, d), w_1 (E, d, h), b_1 (E, 1, h), w_2 (E, h, o) -> (E, M, o)."""
    small = x.shape[1] * w_1[0].numel() < LOOP_FROM
    if x.is_cuda or small or precision == "bf16":
        return product(gelu(product(x, w_1, b_1, precision)), w_2, b_2, precision)
    return cast(Tensor, _Feedforward.apply(x, w_1, b_1, w_2, b_2))  # type: ignore[no-untyped-call]
