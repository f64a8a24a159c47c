"""Each member's windows at each step: a slice of its own shuffled order, gathered in one go.

The order is a function of (data, member seed, epoch, position), so resuming is one integer, and the positions of a
batch run on across the end of an epoch: every window is used once per epoch, none is dropped. With several workers
each takes its slice of the same global batch. What else a step draws, masks and noise, comes as keys of its streams.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ensemble.config.family import Draw
from ensemble.data.order import Order
from ensemble.data.windows import WindowSource
from ensemble.models.base import Batch, Noise
from ensemble.models.dropout import dropout_keys
from ensemble.models.noise import noise_keys
from ensemble.models.pi0_fast import PAD
from ensemble.schema import Int64
from ensemble.training.context import Context


class Batches(Protocol):
    """Training batches of a pack, of data that are resident or streamed."""

    @property
    def epoch_steps(self) -> int:
        """Steps that pass over the windows once, at least one."""
        ...

    def at(self, step: int) -> Batch:
        """Return the batch of the 0-based `step`: points (E, B / workers, T + 1, D)."""
        ...


class ResidentBatches:
    """Batches of windows that are all in memory.

    Args:
        windows: the windows of the training split.
        seeds: the members' seeds, E of them.
        batch_size: windows per member and step over all workers.
        sites: the model's dropout sites; 0 when it has no dropout.
        draw: how a family that draws noise counts its draws.
        tokens: (windows, L) of families over tokens.
    """

    def __init__(
        self,
        windows: WindowSource,
        seeds: tuple[int, ...],
        batch_size: int,
        sites: int,
        context: Context,
        draw: Draw | None = None,
        tokens: Tensor | None = None,
    ) -> None:
        self._windows = windows
        self._seeds = seeds
        self._batch_size = batch_size
        self._sites = sites
        self._draw = draw
        self._tokens = None if tokens is None else tokens.to(context.device)
        self._device = context.device
        share = batch_size // context.world_size
        self._workers = context.world_size
        self._mine = slice(context.rank * share, (context.rank + 1) * share)
        self._position = torch.arange(batch_size, dtype=torch.int32, device=self._device)[self._mine]
        self._orders: dict[int, list[Order]] = {}

    @property
    def epoch_steps(self) -> int:
        """Steps that pass over the windows once, at least one."""
        return max(1, self._windows.count // self._batch_size)

    def at(self, step: int) -> Batch:
        """Return the batch of the 0-based `step`: points (E, B / workers, T + 1, D)."""
        epoch = step * self._batch_size // self._windows.count
        self._orders = {later: orders for later, orders in self._orders.items() if later >= epoch}
        whole = np.stack([self._index(member, step) for member in range(len(self._seeds))])
        index = whole[:, self._mine]
        return Batch(
            points=self._windows.gather(index, self._device),
            position=self._position,
            keys=dropout_keys(self._seeds, self._sites, step).to(self._device) if self._sites else None,
            noise=self._noise(index, step),
            tokens=None if self._tokens is None else self._tokens[torch.from_numpy(index).to(self._device)],
            targets=self._targets(whole),
        )

    def _targets(self, whole: Int64) -> Tensor | None:
        """Return what each worker divides its sum over tokens by (E,), so that the mean over workers is the batch's."""
        if self._tokens is None or self._workers == 1:
            return None
        tokens = self._tokens[torch.from_numpy(whole).to(self._device)]
        return (tokens[:, :, 1:] != PAD).flatten(1).sum(1) / self._workers

    def _noise(self, index: Int64, step: int) -> Noise | None:
        if self._draw is None:
            return None
        if self._draw == "fresh":
            return Noise(noise_keys(self._seeds, step).to(self._device), self._position[None])
        counter = torch.from_numpy(index.astype(np.int32)).to(self._device)
        return Noise(noise_keys(self._seeds, 0).to(self._device), counter)

    def _index(self, member: int, step: int) -> Int64:
        """Return the window numbers (B,) of the global batch for one member."""
        place = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        epoch, position = np.divmod(place, self._windows.count)
        parts = [self._order(int(e))[member][position[epoch == e]] for e in np.unique(epoch)]
        return np.concatenate(parts)

    def _order(self, epoch: int) -> list[Order]:
        """Return every member's order of an epoch."""
        if epoch not in self._orders:
            self._orders[epoch] = [self._windows.order(seed, epoch) for seed in self._seeds]
        return self._orders[epoch]
