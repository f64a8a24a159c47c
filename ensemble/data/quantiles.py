"""Quantiles of columns too long to sort: exact while all rows fit, else of a fixed sample.

The sample holds the rows with the smallest hash of (episode hash, step): bottom-k sampling (Cohen and Kaplan 2007).
It depends on the content alone, not on the order or number of blocks, and two samples merge into that of the union.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from ensemble.schema import Float32, Int64, UInt64
from ensemble.streams import mix

SAMPLE_ROWS = 1 << 15  # the share of rows below the estimated q01 then has a standard error of 0.0006


@dataclass(frozen=True, eq=False, slots=True)
class RowSample:
    """Some rows of a data set: at least the `SAMPLE_ROWS` with the smallest `order`, or all of them."""

    order: UInt64  # (k,) hashes, the smallest are chosen
    rows: Float32  # (k, D)
    inner: npt.NDArray[np.bool_]  # (k,) False at an episode's last point
    seen: int  # rows it is sampled from

    @classmethod
    def of(cls, columns: Sequence[Float32], points: Int64, hashes: UInt64, below: np.uint64 | None = None) -> Self:
        """Choose rows from concatenated episodes: `columns` are features (n, w), concatenated along columns.

        `below` is the `threshold` of the sample that this one is merged with.
        """
        ends = np.cumsum(points)
        step = np.arange(ends[-1]) - np.repeat(ends - points, points)
        order = mix(np.repeat(hashes, points) + step.astype(np.uint64))
        inner = np.ones(len(order), dtype=bool)
        inner[ends - 1] = False
        which = np.arange(len(order)) if below is None else np.flatnonzero(order <= below)
        rows = np.concatenate([values[which] for values in columns], axis=1)
        return cls(order[which], rows, inner[which], len(order))

    def merge(self, other: Self) -> Self:
        """Return the sample of both."""
        both = type(self)(
            np.concatenate([self.order, other.order]),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.inner, other.inner]),
            self.seen + other.seen,
        )
        # Cut only at twice the size, so that merging many small blocks does not select after each.
        return both if len(both.order) <= 2 * SAMPLE_ROWS else both._smallest()

    @property
    def threshold(self) -> np.uint64 | None:
        """Upper bound of the hashes that can still be chosen, if there is one."""
        return self.order.max() if len(self.order) >= SAMPLE_ROWS else None

    @property
    def is_exact(self) -> bool:
        """Whether the sample has every row."""
        return self.seen <= SAMPLE_ROWS

    def quantiles(self, columns: slice, inner_only: bool, probabilities: list[float]) -> npt.NDArray[np.float64]:
        """Return quantiles (probabilities, columns), linear between ranks; `inner_only` leaves out last points."""
        chosen = self._smallest()
        rows = chosen.rows[chosen.inner] if inner_only else chosen.rows
        return np.asarray(np.quantile(rows[:, columns].astype(np.float64), probabilities, axis=0))

    def _smallest(self) -> Self:
        if len(self.order) <= SAMPLE_ROWS:
            return self
        which = np.argpartition(self.order, SAMPLE_ROWS - 1)[:SAMPLE_ROWS]
        return type(self)(self.order[which], self.rows[which], self.inner[which], self.seen)
