"""Windows of one split, as index arithmetic over the rows of a data set.

Batches are gathered from row numbers, without a slice per sample, and never share memory with the data: the rows may be
mapped from Ray's object store, where torch could write into every other trial of the node. `gather` is the only reader
and returns copies.
"""

import weakref
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ensemble import streams
from ensemble.data.order import Order
from ensemble.data.splits import require_windows
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.schema import Float32, Int64, UInt64


class WindowSource(Protocol):
    """The interface of data for training. A stream of shards larger than memory has the same three members."""

    count: int

    def order(self, seed: int, epoch: int) -> Order:
        """Return the shuffle of this epoch: from positions to numbers of windows."""

    def gather(self, index: Int64, device: str | torch.device = "cpu") -> torch.Tensor:
        """Return a copy of these windows (.., length + 1, D) float32 on the device."""


class Windows:
    """All windows of `length` transitions (length + 1 points) of one split; DataError without any."""

    def __init__(self, data: Trajectories, segments: Segments, length: int) -> None:
        require_windows(segments, length, "data")
        self.data = data
        self.length = length
        counts = np.maximum(segments.points - length, 0)
        self.count = int(counts.sum())
        self._counts = counts  # (m,) windows of each piece
        self._ends = np.cumsum(counts)
        self._even = int(counts[0]) if (counts == counts[0]).all() else 0
        self._shift = segments.first - (self._ends - counts)  # (m,) first row of a window minus its number
        self._hashes = segments.hashes
        self._origin = data.episodes.first[data.episode_of(segments.first)]  # (m,) first row of a piece's episode
        self._view = _overlapping(data.rows, length + 1)

    def _piece(self, index: Int64) -> Int64:
        """Return the piece of each window; by division alone where all pieces have equally many windows."""
        if self._even:
            return index // self._even
        return np.searchsorted(self._ends, index, side="right")

    def order(self, seed: int, epoch: int) -> Order:
        """Return the shuffle of this epoch.

        A window's position follows from a key of its episode's content, its start within the episode, seed and epoch.
        So two windows keep their relative order for any length of windows and any other episodes.
        """
        salt = np.uint64(streams.key(seed, "order", epoch))
        shift = self._shift - self._origin  # start of a window within its episode minus its number
        offset = streams.mix(self._hashes + salt) + shift.astype(np.uint64)  # (m,)

        def keys(start: int, stop: int) -> UInt64:
            first, last = np.searchsorted(self._ends, (start, stop - 1), side="right")
            ends = np.minimum(self._ends[first : last + 1], stop)
            pieces = np.repeat(offset[first : last + 1], np.diff(ends, prepend=start))
            return streams.mix(pieces + np.arange(start, stop, dtype=np.uint64))

        return Order(keys, self.count)

    def fixed(self, n: int) -> Int64:
        """Return at most n windows at equal distances over the split, the same for every member."""
        n = min(n, self.count)
        return (2 * np.arange(n) + 1) * self.count // (2 * n)

    def gather(self, index: Int64, device: str | torch.device = "cpu") -> torch.Tensor:
        """Return a copy of windows (.., length + 1, D) float32 for index (..); IndexError beyond the last window.

        On a CPU each window is one copy of adjacent memory. Another device gathers rows from a copy of the data set in
        its own memory.
        """
        index = np.asarray(index)
        if index.size and not 0 <= index.min() <= index.max() < self.count:
            raise IndexError(f"no window {index.min()} to {index.max()} among {self.count}")
        first = index + self._shift[self._piece(index)]
        shape = (*first.shape, self.length + 1, self.data.rows.shape[1])
        if torch.device(device).type == "cpu":
            return torch.from_numpy(self._view[first.reshape(-1)].view(np.float32).reshape(shape))
        rows = _rows_on(self.data, torch.device(device))
        steps = torch.arange(self.length + 1, device=rows.device)
        wanted = torch.from_numpy(first).to(rows.device)[..., None] + steps
        return rows.index_select(0, wanted.reshape(-1)).reshape(shape)


def fixed_windows(windows: Windows, n: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return a copy of at most n windows spread evenly over a split, (n, length + 1, D): questions for every member."""
    return windows.gather(windows.fixed(n), device)


def _overlapping(rows: Float32, points: int) -> npt.NDArray[np.void]:
    """Return every run of `points` rows as one opaque element, a view: numpy copies each with one memcpy."""
    assert rows.flags.c_contiguous
    row = rows.strides[0]
    return np.ndarray((len(rows) - points + 1,), np.dtype((np.void, points * row)), buffer=rows, strides=(row,))


# Keyed weakly: the memory of a device is freed with the data set.
_COPIES: weakref.WeakKeyDictionary[Trajectories, dict[torch.device, torch.Tensor]] = weakref.WeakKeyDictionary()


def _rows_on(data: Trajectories, device: torch.device) -> torch.Tensor:
    """Return the rows (N, D) on a device, copied there once for all splits."""
    copies = _COPIES.setdefault(data, {})
    if device not in copies:
        copies[device] = torch.tensor(data.rows, device=device)
    return copies[device]
