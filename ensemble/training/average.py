"""An exponential moving average of a pack's weights: less noise in what is measured and kept, nothing else changes.

Polyak averaging as large models use it: w <- d w + (1 - d) weights after each step, with d = min(decay, (1 + t) / (10 +
t)), so that the first steps are soon forgotten. Every member's row by itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ensemble.training.arena import Arena


class WeightAverage:
    """The average of an arena; with no decay it is the arena itself."""

    def __init__(self, arena: Arena, decay: float | None) -> None:
        self._arena = arena
        self._decay = decay
        self._average = arena.values.detach().clone() if decay is not None else None

    def update(self, step: int) -> None:
        """Take in the weights after the 0-based step."""
        if self._average is not None and self._decay is not None:
            decay = min(self._decay, (1 + step) / (10 + step))
            for average, weights in zip(self._average, self._arena.values.detach(), strict=True):
                average.lerp_(weights, 1 - decay)  # row by row: a kernel's tail depends on its size

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the arena hold the average meanwhile."""
        if self._average is None:
            yield
            return
        values = self._arena.values.detach()
        weights = values.clone()
        values.copy_(self._average)
        try:
            yield
        finally:
            values.copy_(weights)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: (E, P), or nothing."""
        return {} if self._average is None else {"average": self._average}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what a checkpoint kept."""
        if self._average is not None:
            self._average.copy_(tensors["average"])
