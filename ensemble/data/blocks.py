"""From a recording to canonical blocks: float32, finite, decimated, a control's last row zero.

All checks of values are here; layouts only locate arrays.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ensemble.data.jumps import Jump, jump_notices, jumps_in
from ensemble.data.layouts.container import Values
from ensemble.data.layouts.recording import RawFeature, Recording
from ensemble.data.layouts.refused import NOT_FINITE, SINGLE_POINT, UNREADABLE, Refused
from ensemble.errors import DataError
from ensemble.schema import EpisodeBlock, Float32, Int64

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

    refused: list[Refused] = field(default_factory=list)  # episodes that are not in the blocks
    jumps: list[Jump] = field(default_factory=list)
    # feature: (3, w), largest rounding error, minimum and maximum of each column
    rounding: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def merge(self, other: "BlockIssues") -> None:
        """Add the problems of other blocks."""
        self.refused += other.refused
        self.jumps += other.jumps
        for name, rounding in other.rounding.items():
            self.add_rounding(name, rounding)

    def add_rounding(self, name: str, new: npt.NDArray[np.float64]) -> None:
        """Add (3, w): largest rounding error, minimum and maximum of each column."""
        old = self.rounding.get(name)
        if old is not None:
            new = np.stack([np.maximum(old[0], new[0]), np.minimum(old[1], new[1]), np.maximum(old[2], new[2])])
        self.rounding[name] = new

    def notices(self, features: tuple[RawFeature, ...]) -> list[str]:
        """Describe jumps, casts and rounding losses, one line each."""
        lines = jump_notices(self.jumps)
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
    recording: Recording, first: int, last: int, decimate: int
) -> tuple[EpisodeBlock, Int64, BlockIssues]:
    """Read episodes `first` to `last` - 1: the block, the numbers of its episodes, and the problems found.

    Decimation keeps the points 0, n, 2n, ..; the controls of the points between are dropped, not averaged. Episodes
    that cannot be read, have one point, or hold NaN or infinity are not in the block: the problems name them.
    """
    # Read and decimate
    numbers, raw, unreadable = read_usable(recording, first, last)
    issues = BlockIssues(unreadable)
    points = recording.points[numbers]
    kept = _decimated(points, decimate)
    if decimate > 1:
        points = -(-points // decimate)

    # Cast and check every feature
    features = {}
    good = points >= _FEWEST_POINTS
    issues.refused += [_refused(recording, i, SINGLE_POINT, "has a single point") for i in numbers[~good]]
    for feature in recording.features:
        # Removed from `raw`, so that the file's values of one feature at a time exist next to the float32 rows.
        values = raw.pop(feature.name)
        rows = _cast(values if kept is None else values[kept], feature, points, issues)
        for episode, step, column in _first_not_finite(rows, points):
            if good[episode]:
                detail = f"{feature.name}[{column}] at step {step} is NaN, infinite or too large for float32"
                issues.refused.append(_refused(recording, numbers[episode], NOT_FINITE, detail))
            good[episode] = False
        features[feature.name] = rows

    # Leave out bad episodes
    which = np.flatnonzero(good)
    if len(which) < len(points):
        mask = np.repeat(good, points)
        features = {name: rows[mask] for name, rows in features.items()}
    keys = tuple(recording.keys[i] for i in numbers[which])
    points = points[which]
    issues.jumps = [replace(j, step=j.step * decimate) for j in jumps_in(recording.features, features, points, keys)]
    return EpisodeBlock(keys, points, features), numbers[which], issues


def read_usable(recording: Recording, first: int, last: int) -> tuple[Int64, dict[str, Values], list[Refused]]:
    """Read episodes `first` to `last` - 1: the numbers of those that can be read, their values, and the others."""
    try:
        return np.arange(first, last), recording.read(first, last), []
    except DataError:
        pass
    # One by one, to know the episodes at fault.
    numbers, values, refused = [], [], []
    for number in range(first, last):
        try:
            values.append(recording.read(number, number + 1))
            numbers.append(number)
        except DataError as error:
            refused.append(_refused(recording, number, UNREADABLE, str(error)))
    nothing = {feature.name: np.empty((0, feature.width), feature.dtype) for feature in recording.features}
    raw = {name: np.concatenate([nothing[name], *(each.pop(name) for each in values)]) for name in nothing}
    return np.array(numbers, dtype=np.int64), raw, refused


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


def _refused(recording: Recording, number: int, reason: str, detail: str) -> Refused:
    return Refused(f"{number} ({recording.keys[number]})", reason, detail)


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
