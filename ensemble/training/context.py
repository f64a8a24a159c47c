"""The training loop's only window on the outside: which worker this is, on which device, and whom to tell.

The loop knows no Ray. It runs inline in a Tune trial or a script (`InlineContext`), or in a Ray Train worker
(`training/worker.py`); both stop the same way, by a `no` from `may_continue`.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

Progress = Mapping[str, float | int | str]


class Context(Protocol):
    """What the loop asks of the place where it runs."""

    rank: int
    world_size: int
    device: torch.device

    def prepare(self, module: nn.Module) -> nn.Module:
        """Return the module that the forward pass calls: itself, or wrapped for DDP."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """Return `values` summed over the workers."""
        ...

    def report(self, progress: Progress) -> None:
        """Tell the driver how far the trial is; only rank 0's word counts."""
        ...

    def may_continue(self, step: int, value: float) -> bool:
        """Ask at a rung whether the trial goes on; every worker gets the same answer."""
        ...


class InlineContext:
    """One process, one device."""

    rank = 0
    world_size = 1

    def __init__(
        self, device: torch.device | str = "cpu", report: Callable[[Progress], None] = lambda progress: None
    ) -> None:
        self.device = torch.device(device)
        self._report = report

    def prepare(self, module: nn.Module) -> nn.Module:
        """Return the module itself."""
        return module

    def total(self, values: Tensor) -> Tensor:
        """Return the values: there is one worker."""
        return values

    def report(self, progress: Progress) -> None:
        """Pass the progress on."""
        self._report(progress)

    def may_continue(self, step: int, value: float) -> bool:
        """Say yes: there is no judge of trials yet."""
        del step, value
        return True
