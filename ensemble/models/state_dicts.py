"""One member's weights in the shapes of torch's own layers, and back: for files of and for other programs.

Names are the same on both sides: ours follow the reference's. Shapes differ: torch holds a linear weight as (out, in),
a bias as (out,). Deliberately not here: files.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ensemble.errors import UsageError
from ensemble.models.layers import Embedding, Layer


def to_state_dict(module: nn.Module, member: int) -> dict[str, Tensor]:
    """Return a copy of one member's parameters, by name, as a model of torch's layers would hold them."""
    layers = dict(module.named_modules())
    return {
        name: _view(layers[name.rpartition(".")[0]], name, parameter.detach()[member]).clone()
        for name, parameter in module.named_parameters()
    }


def load_state_dict(module: nn.Module, member: int, tensors: Mapping[str, Tensor]) -> None:
    """Fill one member's parameters from a state dict of torch's layers.

    Raises UsageError, and changes nothing, if names are missing or strange, or shapes differ.
    """
    layers = dict(module.named_modules())
    views = {
        name: _view(layers[name.rpartition(".")[0]], name, parameter.detach()[member])
        for name, parameter in module.named_parameters()
    }
    problems = [f"{name}: missing" for name in views if name not in tensors]
    problems += [f"{name}: the model has no such parameter" for name in tensors if name not in views]
    problems += [
        f"{name}: shape {tuple(tensors[name].shape)}, the model's is {tuple(view.shape)}"
        for name, view in views.items()
        if name in tensors and tensors[name].shape != view.shape
    ]
    if problems:
        raise UsageError("\n".join(problems))
    with torch.no_grad():
        for name, view in views.items():
            view.copy_(tensors[name])


def _view(layer: nn.Module, name: str, part: Tensor) -> Tensor:
    """Return a view of one member's parameter in torch's shape."""
    assert isinstance(layer, Layer)
    if name.rpartition(".")[2] in layer.transposed:
        return part.mT
    return part if isinstance(layer, Embedding) else part.squeeze(0)
