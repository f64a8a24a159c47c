"""All parameters of a pack in one matrix, a row a member; so are their gradients.

The module's parameters become views of `values` (E, P) and their gradients views of `grad` (E, P), in registration
order and without padding. A member is a row: its gradient norm is a row norm, its checkpoint a row, and dropping or
extracting a member is slicing. What would detach a gradient from the arena raises.
"""

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ensemble.models.base import move_buffers


@dataclass(frozen=True)
class Slot:
    """Where one parameter of a member lies in its row."""

    name: str
    offset: int
    shape: tuple[int, ...]  # without the member axis

    @property
    def size(self) -> int:
        """Numbers in it."""
        return int(torch.Size(self.shape).numel())


def layout_of(module: nn.Module) -> tuple[Slot, ...]:
    """Lay the parameters of a pack-native module (each `(E, ..)`) end to end, in registration order."""
    slots, offset = [], 0
    for name, parameter in module.named_parameters():
        slots.append(Slot(name, offset, tuple(parameter.shape[1:])))
        offset += slots[-1].size
    return tuple(slots)


class Arena:
    """The parameters and gradients of a pack.

    Args:
        module: a pack-native module, usually on the meta device; every parameter has a leading member axis of one size.
        device: where the two matrices are allocated.

    Attributes:
        values: (E, P) parameters.
        grad: (E, P) gradients.
        layout: what lies where in a row.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        members = {parameter.shape[0] for parameter in module.parameters()}
        if len(members) != 1:
            raise ValueError(f"parameters have different member axes: {sorted(members)}")
        self.layout = layout_of(module)
        self.members = members.pop()
        size = sum(slot.size for slot in self.layout)
        self.values = torch.zeros(self.members, size, device=device)
        self.grad = torch.zeros_like(self.values)
        self._module = module
        move_buffers(module, device)
        self._attach()
        module.zero_grad = _refuse_zero_grad  # type: ignore[method-assign]

    def _attach(self) -> None:
        for slot in self.layout:
            owner, name = _owner(self._module, slot.name)
            parameter = nn.Parameter(self._view(self.values, slot))
            parameter.grad = self._view(self.grad, slot)
            setattr(owner, name, parameter)

    def _view(self, matrix: Tensor, slot: Slot) -> Tensor:
        return matrix[:, slot.offset : slot.offset + slot.size].view(self.members, *slot.shape)

    def zero_grad(self) -> None:
        """Zero every gradient in place, the only way that keeps them in the arena."""
        self.grad.zero_()

    def assert_attached(self) -> None:
        """Raise if a parameter or a gradient no longer lies in the arena (checked after the first backward pass)."""
        spans = {"parameter": _span(self.values), "gradient": _span(self.grad)}
        for name, parameter in self._module.named_parameters():
            for kind, tensor in (("parameter", parameter.data), ("gradient", parameter.grad)):
                if tensor is None or not _inside(tensor, spans[kind]):
                    raise RuntimeError(f"the {kind} of {name} has left the arena")


def _owner(module: nn.Module, dotted: str) -> tuple[nn.Module, str]:
    path, _, name = dotted.rpartition(".")
    return module.get_submodule(path), name


def _span(matrix: Tensor) -> tuple[int, int]:
    return matrix.data_ptr(), matrix.data_ptr() + matrix.numel() * matrix.element_size()


def _inside(tensor: Tensor, span: tuple[int, int]) -> bool:
    return span[0] <= tensor.data_ptr() < span[1]


def _refuse_zero_grad(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("zero gradients with Arena.zero_grad(): the module's zero_grad detaches them from the arena")
