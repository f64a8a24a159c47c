"""Activations by name, safe in a pack (rule 2 of `products.py`). GELU is the exact one, by erf."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble.models.products import per_member


def identity(x: Tensor) -> Tensor:
    """Return x."""
    return x


class _PackedGELU(torch.autograd.Function):
    """GELU called once per member, each writing into its part of the pack: joining would copy the widest tensors."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        for part, into in zip(x, out, strict=True):
            torch.ops.aten.gelu.out(part, out=into)
        return out

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        out = torch.empty_like(x)
        for part, of, into in zip(grad, x, out, strict=True):
            torch.ops.aten.gelu_backward.grad_input(part, of, grad_input=into)
        return out


def gelu(x: Tensor) -> Tensor:
    """Gaussian error linear unit x Phi(x), exact: (E, ..) -> (E, ..)."""
    if x.is_cuda or x.shape[0] == 1:
        return F.gelu(x)
    return cast(Tensor, _PackedGELU.apply(x))  # type: ignore[no-untyped-call]


def elu(x: Tensor) -> Tensor:
    """Exponential linear unit: (E, ..) -> (E, ..)."""
    return F.elu(x) if x.is_cuda else per_member(F.elu, x)


def silu(x: Tensor) -> Tensor:
    """Sigmoid linear unit x sigmoid(x): (E, ..) -> (E, ..)."""
    return F.silu(x) if x.is_cuda else per_member(F.silu, x)


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function: (E, ..) -> (E, ..)."""
    return torch.sigmoid(x) if x.is_cuda else per_member(torch.sigmoid, x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": identity,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": gelu,
    "elu": elu,
    "silu": silu,
    "sigmoid": sigmoid,
}
