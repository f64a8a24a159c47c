"""Each member's windows at each step: a slice of its own shuffled order, gathered in one go.

The order is a function of (data, member seed, epoch, position), so resuming is one integer, and the positions of a
batch run on across the end of an epoch: every window is used once per epoch, none is dropped. With several workers
each takes its slice of the same global batch.
"""

import numpy as np
import torch

from ensemble.data.order import Order
from ensemble.data.windows import WindowSource
from ensemble.models.base import Batch
from ensemble.models.dropout import dropout_keys
from ensemble.schema import Int64
from ensemble.training.context import Context


class Batches:
    """Training batches of a pack.

    Args:
        windows: the windows of the training split.
        seeds: the members' seeds, E of them.
        batch_size: windows per member and step over all workers.
        sites: the model's dropout sites; 0 when it has no dropout.
    """

    def __init__(
        self, windows: WindowSource, seeds: tuple[int, ...], batch_size: int, sites: int, context: Context
    ) -> None:
        self._windows = windows
        self._seeds = seeds
        self._batch_size = batch_size
        self._sites = sites
        self._device = context.device
        share = batch_size // context.world_size
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
        index = np.stack([self._index(member, step) for member in range(len(self._seeds))])
        return Batch(
            points=self._windows.gather(index, self._device),
            position=self._position,
            keys=dropout_keys(self._seeds, self._sites, step).to(self._device) if self._sites else None,
        )

    def _index(self, member: int, step: int) -> Int64:
        """Return this worker's window numbers (B / workers,) for one member."""
        place = np.arange(step * self._batch_size, (step + 1) * self._batch_size)[self._mine]
        epoch, position = np.divmod(place, self._windows.count)
        parts = [self._order(int(e))[member][position[epoch == e]] for e in np.unique(epoch)]
        return np.concatenate(parts)

    def _order(self, epoch: int) -> list[Order]:
        """Return every member's order of an epoch."""
        if epoch not in self._orders:
            self._orders[epoch] = [self._windows.order(seed, epoch) for seed in self._seeds]
        return self._orders[epoch]
