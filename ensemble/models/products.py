"""Arithmetic over members that gives each member the bits it would get alone.

Stands under every layer: nothing above this file and `activations.py` multiplies by weights, reduces over a batch or
calls a library kernel whose result depends on the size of the whole pack.

Libraries choose kernels, split work over threads and treat tails by the total size, so a pack may change a member's
bits. Four rules keep them (a test sweeps shapes, and names what breaks):

1. products: small ones go through one batched product, where a pack of one runs as a stride-0 pair, since libraries
   switch kernels at one matrix; from `LOOP_FROM` multiplications on, each member is its own product on a CPU: the same
   library call alone and in any pack, and faster (a batch is split over threads by matrices, so three on two threads
   leave one idle). So is every product in bf16: with AMX, oneDNN cuts a batch's inner dimension by how many there are;
2. kernels with a scalar tail (GELU, sigmoid, ..) and kernels that reduce over rows (layer norm, sums) are called once
   per member on a CPU. Elementwise arithmetic, relu, tanh, exp, log, erf, softmax over the last axis and fused
   attention with members folded into the batch do not need it;
3. a mean over a member's batch is that member's own sum, divided;
4. a member's part of a pack lies at another address than the same numbers alone, and on some processors (AMD Zen 4) MKL
   picks kernels by alignment: it is held to its strict reproducible mode, which costs nothing that could be measured.

On a GPU the batched forms are used throughout: kernel launches are what costs there, and the law of independence is
about losses, not bits. Deliberately not here: any parameter, any module.
"""

import os
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # rule 4; MKL reads it at its first product

Precision = Literal["fp32", "bf16"]

LOOP_FROM = 1 << 18  # multiplications of one member's product, from which a call costs less than it saves


def split(pack: Tensor) -> tuple[Tensor, ...]:
    """Return each member's part (E, ..) -> E x (..), without a copy in forward or, for one member, in backward."""
    return (pack.squeeze(0),) if pack.shape[0] == 1 else pack.unbind(0)


def join(parts: list[Tensor]) -> Tensor:
    """Undo `split`: E x (..) -> (E, ..)."""
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)


def per_member(function: Callable[..., Tensor], *packs: Tensor) -> Tensor:
    """Call `function` once per member on its parts of every pack (E, ..), and join the results."""
    return join([function(*parts) for parts in zip(*map(split, packs), strict=True)])


def sum_rows(x: Tensor) -> Tensor:
    """Sum over a member's rows: (E, M, D) -> (E, 1, D)."""
    if x.is_cuda:
        return x.sum(1, keepdim=True)
    return per_member(lambda rows: rows.sum(0, keepdim=True), x)


def member_mean(x: Tensor) -> Tensor:
    """Mean of everything that belongs to a member: (E, ..) -> (E,)."""
    flat = x.flatten(1)
    total = flat.sum(1) if x.is_cuda else per_member(torch.sum, flat)
    return total / flat.shape[1]


def multiply(x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ y + bias per member under rule 1: (E, M, K), (E, K, N), (E, 1, N) -> (E, M, N). No autograd."""
    members, rows, inner = x.shape
    columns = y.shape[2]
    if not x.is_cuda and (x.dtype == torch.bfloat16 or rows * inner * columns >= LOOP_FROM):
        out = x.new_empty(members, rows, columns)
        for e in range(members):
            if bias is None:
                torch.mm(x[e], y[e], out=out[e])
            else:
                torch.addmm(bias[e], x[e], y[e], out=out[e])
        return out
    pair = members == 1 and not x.is_cuda
    if pair:
        x, y = x.expand(2, -1, -1), y.expand(2, -1, -1)
        bias = None if bias is None else bias.expand(2, -1, -1)
    out = torch.bmm(x, y) if bias is None else torch.baddbmm(bias, x, y)
    return out[:1] if pair else out


class _Product(torch.autograd.Function):
    """x @ weight + bias, with both backward products under the same rule."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, precision: Precision
    ) -> Tensor:
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        ctx.input_kind, ctx.biased = x.dtype, bias is not None  # type: ignore[attr-defined]
        x, weight = x.to(kind), weight.to(kind)
        ctx.save_for_backward(x, weight)
        return multiply(x, weight, None if bias is None else bias.to(kind))

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        to_x, to_weight, to_bias = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        grad = grad.to(x.dtype)
        grad_x = multiply(grad, weight.mT).to(ctx.input_kind) if to_x else None  # type: ignore[attr-defined]
        grad_weight = multiply(x.mT, grad).float() if to_weight else None
        grad_bias = sum_rows(grad.float()) if to_bias else None
        return grad_x, grad_weight, grad_bias, None


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, precision: Precision = "fp32") -> Tensor:
    """Return x @ weight + bias per member, (E, M, in), (E, in, out), (E, 1, out) -> (E, M, out).

    With bf16 the operands are rounded and the result is bf16; parameters stay fp32, and so do their gradients.
    """
    return cast(Tensor, _Product.apply(x, weight, bias, precision))  # type: ignore[no-untyped-call]


class _AddRow(torch.autograd.Function):
    """x + row, where the row's gradient is a member's own sum."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, row: Tensor) -> Tensor:
        ctx.input_kind = x.dtype  # type: ignore[attr-defined]
        return x + row

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad.to(ctx.input_kind), sum_rows(grad)  # type: ignore[attr-defined]


def add_row(x: Tensor, row: Tensor) -> Tensor:
    """Add one row per member to all of its rows: (E, M, D) + (E, 1, D)."""
    return cast(Tensor, _AddRow.apply(x, row))  # type: ignore[no-untyped-call]
