"""The training loop's only window on the outside: which worker this is, on which device, and whom to tell.

The loop knows no Ray. It runs inline in a Tune trial or a script (`InlineContext`), or in a Ray Train worker
(`training/worker.py`); both stop the same way, by a `no` from `may_continue`, and are interrupted by `Paused`.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ensemble.schema import Progress

Question = Callable[[int, Mapping[int, float]], bool]  # step, value by seed: may the trial go on?


class Paused(Exception):  # noqa: N818  # no error: the run was asked to stop where it is, and to be continued later
    """Raised by `may_continue` when the run ends before the trial does; what is trained is saved and no row written."""


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

    def may_continue(self, step: int, values: Mapping[int, float]) -> bool:
        """Ask at a rung whether the trial goes on, given its objective by seed; every worker gets the same answer.

        Raises Paused when the run is interrupted.
        """
        ...


class InlineContext:
    """One process, one device."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        device: torch.device | str = "cpu",
        report: Callable[[Progress], None] = lambda progress: None,
        ask: Question = lambda step, values: True,
    ) -> None:
        self.device = torch.device(device)
        self._report = report
        self._ask = ask

    def prepare(self, module: nn.Module) -> nn.Module:
        """Return the module itself."""
        return module

    def total(self, values: Tensor) -> Tensor:
        """Return the values: there is one worker."""
        return values

    def report(self, progress: Progress) -> None:
        """Pass the progress on."""
        self._report(progress)

    def may_continue(self, step: int, values: Mapping[int, float]) -> bool:
        """Pass the question on."""
        return self._ask(step, values)
