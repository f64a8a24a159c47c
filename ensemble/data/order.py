"""The shuffled order of one epoch, worked out a stretch at a time.

Windows are sorted by a random key each. Holding the whole order would cost four bytes a window and member, more than a
tenth of the data for a pack. So the range of keys is cut into equal stretches, and only the stretch that training is
in is sorted and held; finding it costs one pass over the keys, which are computed and not stored.
"""

from collections.abc import Callable

import numpy as np

from ensemble.schema import Int64, UInt64

_CHUNK = 1 << 14  # keys computed at a time
_FEWEST = 1 << 13  # windows of a stretch: fewer are not worth a pass
_MOST_BITS = 7  # at most 128 stretches, so at most 129 passes an epoch

Keys = Callable[[int, int], UInt64]


class Order:
    """A shuffle of `count` windows: `order[positions]` are the numbers of the windows at these positions.

    `keys(start, stop)` returns the keys (stop - start,) of windows start to stop - 1. Windows are ordered by key, those
    with equal keys by number.
    """

    def __init__(self, keys: Keys, count: int) -> None:
        self._keys = keys
        self._count = count
        self._bits = min(_MOST_BITS, max(0, (count // _FEWEST).bit_length() - 1))
        counts = np.zeros(1 << self._bits, np.int64)
        for start in range(0, count, _CHUNK):
            counts += np.bincount(self._stretches(start)[0].astype(np.int64), minlength=len(counts))
        self._ends = np.cumsum(counts)  # (stretches,) positions up to the end of each
        self._held = -1
        self._windows = np.empty(0, np.uint32)

    def __getitem__(self, position: Int64) -> Int64:
        """Return the numbers (..) of the windows at `position` (..); IndexError beyond the epoch."""
        if position.size and not 0 <= position.min() <= position.max() < self._count:
            raise IndexError(f"no position {position.min()} to {position.max()} among {self._count}")
        stretch = np.searchsorted(self._ends, position, side="right")
        index = np.empty(position.shape, np.int64)
        for number in np.unique(stretch):
            here = stretch == number
            self._hold(int(number))
            index[here] = self._windows[position[here] - (self._ends[number - 1] if number else 0)]
        return index

    def _stretches(self, start: int) -> tuple[UInt64, UInt64]:
        """Return the stretch and the key of each window in the chunk that begins at `start`."""
        keys = self._keys(start, min(start + _CHUNK, self._count))
        return keys >> np.uint64(1) >> np.uint64(63 - self._bits), keys

    def _hold(self, number: int) -> None:
        """Sort the windows of one stretch and let go of the last one's."""
        if number == self._held:
            return
        windows, keys = [], []
        for start in range(0, self._count, _CHUNK):
            stretch, chunk = self._stretches(start)
            mine = np.flatnonzero(stretch == np.uint64(number))
            windows.append((start + mine).astype(np.min_scalar_type(self._count)))
            keys.append(chunk[mine])
        self._windows = np.concatenate(windows)[stable_argsort(np.concatenate(keys))]
        self._held = number


def stable_argsort(keys: UInt64) -> Int64:
    """Return `np.argsort(keys, kind="stable")`, about eight times faster.

    The leading bits of a key and its position are sorted as one number, which vectorizes; the few keys that agree in
    their leading bits are then put right.
    """
    bits = np.uint64(max(1, int(len(keys) - 1).bit_length()))
    packed = (keys >> bits << bits) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    order = (packed & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
    leading = packed >> bits
    same = leading[1:] == leading[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    order[tied] = order[tied][np.lexsort((order[tied], keys[order[tied]]))]
    return order
