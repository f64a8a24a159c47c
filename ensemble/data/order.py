"""The shuffled order of one epoch, computed one bucket at a time.

Windows are sorted by one random key each. The whole order would take four bytes per window and member, more than a
tenth of the data for a pack. So the range of keys is divided into equal buckets, and only the current bucket is sorted
and kept in memory, at the cost of one pass over the keys, which are computed and not stored.
"""

from collections.abc import Callable

import numpy as np

from ensemble.schema import Int64, UInt64

_CHUNK = 1 << 14  # keys computed at a time
_FEWEST = 1 << 13  # windows of a bucket, at least: smaller buckets save too little memory for one more pass
_MOST_BITS = 7  # at most 128 buckets, so at most 129 passes per epoch

Keys = Callable[[int, int], UInt64]


class Order:
    """A permutation of `count` windows: `order[positions]` are the numbers of the windows at these positions.

    `keys(start, stop)` returns the keys (stop - start,) of windows start to stop - 1. Windows are ordered by key, those
    with equal keys by number.
    """

    def __init__(self, keys: Keys, count: int) -> None:
        self._keys = keys
        self._count = count
        self._bits = min(_MOST_BITS, max(0, (count // _FEWEST).bit_length() - 1))
        counts = np.zeros(1 << self._bits, np.int64)
        for start in range(0, count, _CHUNK):
            counts += np.bincount(self._buckets(start)[0].astype(np.int64), minlength=len(counts))
        self._ends = np.cumsum(counts)  # (buckets,) positions up to the end of each
        self._sorted = -1  # the bucket in `_windows`
        self._windows = np.empty(0, np.uint32)

    def __getitem__(self, position: Int64) -> Int64:
        """Return the numbers (..) of the windows at `position` (..); IndexError beyond the epoch."""
        if position.size and not 0 <= position.min() <= position.max() < self._count:
            raise IndexError(f"no position {position.min()} to {position.max()} among {self._count}")
        bucket = np.searchsorted(self._ends, position, side="right")
        index = np.empty(position.shape, np.int64)
        for number in np.unique(bucket):
            inside = bucket == number
            self._sort(int(number))
            index[inside] = self._windows[position[inside] - (self._ends[number - 1] if number else 0)]
        return index

    def _buckets(self, start: int) -> tuple[UInt64, UInt64]:
        """Return the bucket and the key of each window in the chunk that begins at `start`."""
        keys = self._keys(start, min(start + _CHUNK, self._count))
        # Two shifts, since a shift by 64 (one bucket) is undefined.
        return keys >> np.uint64(1) >> np.uint64(63 - self._bits), keys

    def _sort(self, number: int) -> None:
        """Sort the windows of one bucket, in place of the one before."""
        if number == self._sorted:
            return
        windows, keys = [], []
        for start in range(0, self._count, _CHUNK):
            bucket, chunk = self._buckets(start)
            inside = np.flatnonzero(bucket == np.uint64(number))
            windows.append((start + inside).astype(np.min_scalar_type(self._count)))
            keys.append(chunk[inside])
        self._windows = np.concatenate(windows)[stable_argsort(np.concatenate(keys))]
        self._sorted = number


def stable_argsort(keys: UInt64) -> Int64:
    """Return `np.argsort(keys, kind="stable")`, about eight times faster.

    The leading bits of a key and its position are sorted as one number, which vectorizes; keys with equal leading bits,
    which are few, are then sorted again.
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
