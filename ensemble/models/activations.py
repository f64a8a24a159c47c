"""Activations by name, safe in a pack (rule 2 of `products.py`). GELU is the exact one, by erf."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ensemble.models.products import per_member


def identity(x: Tensor) -> Tensor:
    """Return x."""
    return x


def gelu(x: Tensor) -> Tensor:
    """Gaussian error linear unit x Phi(x), exact: (E, ..) -> (E, ..)."""
    return F.gelu(x) if x.is_cuda else per_member(F.gelu, x)


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
