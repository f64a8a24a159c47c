"""What the training loop knows of where it runs: which worker it is, on which device, and how it reports.

The loop knows no Ray. It runs inline in a Tune trial or a script (`InlineContext`), or in a Ray Train worker
(`training/worker.py`); both stop the same way, by a `no` from `may_continue`, and are interrupted by `Paused`.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ensemble.schema import Progress

Question = Callable[[int, Mapping[int, float]], bool]  # step, value by seed: may the trial go on?


class Paused(Exception):  # noqa: N818  # no error: the run stops here and is to be continued later
    """Raised by `may_continue` when the run ends before the trial does; members are saved and no row is written."""


class Context(Protocol):
    """The process, or the group of workers, that a loop runs in."""

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
        """Report progress to the driver; only rank 0's is used."""
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
