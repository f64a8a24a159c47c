"""Statistics of a data set, from the pass that writes it and merged over blocks and sources.

They cover the whole data set, angles not wrapped; training computes its own from the training split.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ensemble.data.manifest import FeatureStatistics
from ensemble.data.quantiles import SAMPLE_ROWS, RowSample
from ensemble.data.statistics import TRANSITION_ROLES, Moments, jittering_columns
from ensemble.schema import EpisodeBlock, Feature, Float32, UInt64


@dataclass(frozen=True, eq=False, slots=True)
class Summary:
    """Moments of each feature and a sample of rows."""

    moments: tuple[Moments, ...]
    sample: RowSample

    @classmethod
    def of(
        cls, block: EpisodeBlock, hashes: UInt64, features: Sequence[Feature], below: np.uint64 | None = None
    ) -> Self:
        """Return the statistics of a block; `below`: see `RowSample.of`."""
        inner = np.ones(block.points.sum(), dtype=bool)
        inner[np.cumsum(block.points) - 1] = False
        columns = [block.features[feature.name] for feature in features]
        moments = [
            column_moments(values[inner] if feature.role in TRANSITION_ROLES else values)
            for feature, values in zip(features, columns, strict=True)
        ]
        return cls(tuple(moments), RowSample.of(columns, block.points, hashes, below))

    def merge(self, other: Self) -> Self:
        """Return the statistics of both."""
        moments = tuple(a.merge(b) for a, b in zip(self.moments, other.moments, strict=True))
        return type(self)(moments, self.sample.merge(other.sample))

    def statistics(self, features: Sequence[Feature]) -> dict[str, FeatureStatistics]:
        """Return the manifest's statistics of each feature."""
        result, offset = {}, 0
        for feature, moments in zip(features, self.moments, strict=True):
            columns = slice(offset, offset + feature.width)
            inner = feature.role in TRANSITION_ROLES
            low, high = self.sample.quantiles(columns, inner, [0.01, 0.99])
            result[feature.name] = FeatureStatistics(
                mean=tuple(moments.mean.tolist()),
                std=tuple(np.sqrt(moments.variance).tolist()),
                min=tuple(moments.minimum.tolist()),
                max=tuple(moments.maximum.tolist()),
                q01=tuple(low.tolist()),
                q99=tuple(high.tolist()),
                count=int(moments.count),
            )
            offset += feature.width
        return result

    def quantile_method(self) -> str:
        """Describe the method of the quantiles."""
        return "exact" if self.sample.is_exact else f"of {SAMPLE_ROWS} rows chosen by content hash"

    def constant(self, features: Sequence[Feature]) -> list[str]:
        """Return the labels of constant columns."""
        pairs = zip(features, self.moments, strict=True)
        return [f.labels[i] for f, m in pairs for i in range(f.width) if m.minimum[i] == m.maximum[i]]

    def jittering(self, features: Sequence[Feature]) -> list[str]:
        """Return the labels of columns that move by rounding alone."""
        labels = [label for feature in features for label in feature.labels]
        return [labels[i] for i in np.flatnonzero(jittering_columns(features, self.moments))]


@dataclass
class RunningSummary:
    """Statistics of consecutive blocks."""

    features: Sequence[Feature]
    total: Summary | None = None

    def add(self, block: EpisodeBlock, hashes: UInt64) -> None:
        """Add a block."""
        below = None if self.total is None else self.total.sample.threshold
        summary = Summary.of(block, hashes, self.features, below)
        self.total = summary if self.total is None else self.total.merge(summary)


def merged(summaries: Sequence[Summary]) -> Summary:
    """Merge statistics in order."""
    return functools.reduce(Summary.merge, summaries)


def column_moments(x: Float32) -> Moments:
    """Return the moments of x (n, d), as `Moments.of`, by columns: ten times faster for small d."""
    if not len(x):
        return Moments.of(x)
    columns = np.ascontiguousarray(x.T)  # (d, n)
    minimum, maximum = columns.min(axis=1), columns.max(axis=1)
    wide = columns.astype(np.float64)
    mean = wide.mean(axis=1)
    wide -= mean[:, None]
    m2 = np.square(wide, out=wide).sum(axis=1)
    return Moments(len(x), mean, m2, minimum.astype(np.float64), maximum.astype(np.float64))
