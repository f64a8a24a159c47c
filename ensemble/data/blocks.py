"""From a recording to canonical blocks: float32, finite, decimated, a control's last row zero.

All checks of values are here; layouts only locate arrays.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ensemble.data.layouts.container import Values
from ensemble.data.layouts.recording import RawFeature, Recording
from ensemble.errors import DataError
from ensemble.schema import EpisodeBlock, Float32, Int64
from ensemble.text import plural

log = logging.getLogger(__name__)

GROUP_ROWS = 1 << 16  # approximate rows of a row group: whole episodes, at least one
# Points per read. A slice of a time-major array is many short pieces on disk, so wide slices are faster.
READ_ROWS = 1 << 18
_EXACT = frozenset(("float32", "float16", "int8", "uint8", "int16", "uint16", "bool"))
_CAST_LOSS = 1e-6  # share of a column's range above which rounding to float32 is reported
_FEWEST_POINTS = 2  # one point has no transition


@dataclass
class BlockIssues:
    """Problems found by the checks of some blocks; mergeable."""

    not_finite: int = 0  # episodes left out
    too_short: int = 0
    # feature: (3, w), largest rounding error, minimum and maximum of each column
    rounding: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def merge(self, other: "BlockIssues") -> None:
        """Add the problems of other blocks."""
        self.not_finite += other.not_finite
        self.too_short += other.too_short
        for name, rounding in other.rounding.items():
            self.add_rounding(name, rounding)

    def add_rounding(self, name: str, new: npt.NDArray[np.float64]) -> None:
        """Add (3, w): largest rounding error, minimum and maximum of each column."""
        old = self.rounding.get(name)
        if old is not None:
            new = np.stack([np.maximum(old[0], new[0]), np.minimum(old[1], new[1]), np.maximum(old[2], new[2])])
        self.rounding[name] = new

    def notices(self, features: tuple[RawFeature, ...]) -> list[str]:
        """Describe left-out episodes, casts and rounding losses, one line each."""
        lines = []
        if self.not_finite:
            lines.append(f"{plural(self.not_finite, 'episode')} with NaN or infinity left out")
        if self.too_short:
            lines.append(f"{plural(self.too_short, 'episode')} of a single point left out")
        cast = [f"{feature.name} ({feature.dtype})" for feature in features if feature.dtype != "float32"]
        if cast:
            lines.append(f"cast to float32: {', '.join(cast)}")
        for feature in features:
            if feature.name in self.rounding:
                lines += _rounding_notices(feature, self.rounding[feature.name])
        return lines


def plan_blocks(points: Int64, rows: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of runs of whole episodes with at most `rows` points, or of one longer episode."""
    ends = np.cumsum(points)
    first = 0
    while first < len(points):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + rows, side="right")))
        yield first, last
        first = last


def canonical_block(
    recording: Recording, first: int, last: int, decimate: int, drop_bad: bool, source: str
) -> tuple[EpisodeBlock, Int64, BlockIssues]:
    """Read episodes `first` to `last` - 1: the block, the numbers of its episodes, and the problems found.

    Decimation keeps the points 0, n, 2n, ..; the controls of the points between are dropped, not averaged.
    Raises DataError with the episode and the first index of a NaN or an infinity, unless `drop_bad`.
    """
    # Read and decimate
    raw = recording.read(first, last)
    points = recording.points[first:last]
    kept = _decimated(points, decimate)
    issues = BlockIssues()
    if decimate > 1:
        points = -(-points // decimate)

    # Cast and check every feature
    features = {}
    good = points >= _FEWEST_POINTS
    issues.too_short = int((~good).sum())
    for feature in recording.features:
        # Removed from `raw`, so that the file's values of one feature at a time exist next to the float32 rows.
        values = raw.pop(feature.name)
        rows = _cast(values if kept is None else values[kept], feature, points, issues)
        bad = _first_not_finite(rows, points)
        if len(bad) and not drop_bad:
            raise DataError(_not_finite(source, recording, first, feature, bad[0], rows))
        good[[episode for episode, _, _ in bad]] = False
        features[feature.name] = rows
    issues.not_finite = int((~good).sum()) - issues.too_short

    # Leave out bad episodes
    which = np.flatnonzero(good)
    if len(which) < len(points):
        mask = np.repeat(good, points)
        features = {name: rows[mask] for name, rows in features.items()}
    keys = tuple(recording.keys[first + i] for i in which)
    return EpisodeBlock(keys, points[which], features), first + which, issues


def split_block(block: EpisodeBlock) -> Iterator[EpisodeBlock]:
    """Yield a block's parts, one per row group; their features are views."""
    ends = np.cumsum(block.points)
    for first, last in plan_blocks(block.points, GROUP_ROWS):
        rows = slice(int(ends[first] - block.points[first]), int(ends[last - 1]))
        features = {name: values[rows] for name, values in block.features.items()}
        yield EpisodeBlock(block.keys[first:last], block.points[first:last], features)


def last_rows(points: Int64) -> Int64:
    """Return the row of each episode's last point."""
    return np.cumsum(points) - 1


def _decimated(points: Int64, decimate: int) -> npt.NDArray[np.bool_] | None:
    if decimate == 1:
        return None
    step = np.arange(points.sum()) - np.repeat(np.cumsum(points) - points, points)
    return np.asarray(step % decimate == 0)


def _cast(values: Values, feature: RawFeature, points: Int64, issues: BlockIssues) -> Float32:
    """Return float32 rows; a control's last row of each episode is zero, since no transition follows it."""
    control = feature.role == "control"
    with np.errstate(over="ignore"):
        # A control is written below, and a reader may return an array that it keeps: a copy.
        rows = np.array(values, dtype=np.float32, order="C", copy=True if control else None)
    if feature.dtype not in _EXACT and len(values):
        with np.errstate(invalid="ignore"):
            error = np.abs(values - rows.astype(np.float64)).max(axis=0)
            low, high = values.min(axis=0), values.max(axis=0)
        issues.add_rounding(feature.name, np.stack([error, low, high]).astype(np.float64))
    if control:
        rows[last_rows(points)] = 0
    return rows


def _first_not_finite(rows: Float32, points: Int64) -> list[tuple[int, int, int]]:
    """Return (episode, step, column) of the first NaN or infinity of every episode that has one."""
    finite = np.isfinite(rows)
    if finite.all():
        return []
    row, column = np.nonzero(~finite)
    ends = np.cumsum(points)
    episode = np.searchsorted(ends, row, side="right")
    _, index = np.unique(episode, return_index=True)
    first = ends - points
    return [(int(episode[i]), int(row[i] - first[episode[i]]), int(column[i])) for i in index]


def _not_finite(
    source: str, recording: Recording, first: int, feature: RawFeature, where: tuple[int, int, int], rows: Float32
) -> str:
    episode, step, column = where
    key = recording.keys[first + episode]
    return (
        f"{source}: episode {first + episode} ({key}): {feature.name}[{column}] at step {step} is NaN, infinite or "
        "too large for float32; data.drop_bad_episodes: true leaves such episodes out and counts them"
    )


def _rounding_notices(feature: RawFeature, rounding: npt.NDArray[np.float64]) -> list[str]:
    error, low, high = rounding
    # A constant column has no range: relative to its size, and to anything but 0 where it is 0.
    scale = np.where(high > low, high - low, np.maximum(np.abs(high), np.finfo(np.float64).tiny))
    with np.errstate(invalid="ignore", over="ignore"):
        loss = error / scale
    return [
        f"{feature.labels[i]}: rounding to float32 loses up to {loss[i]:.1e} of its range"
        for i in np.flatnonzero(loss > _CAST_LOSS)
    ]
