"""From a recording to canonical blocks: float32, finite, decimated, a control's last row zero.

This is where content is judged; layouts only know where it lies.
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

GROUP_ROWS = 1 << 16  # about the rows of a row group; whole episodes, at least one
READ_ROWS = 1 << 18  # read at once: slabs of time-major files are many short pieces, so wider ones are faster
_EXACT = frozenset(("float32", "float16", "int8", "uint8", "int16", "uint16", "bool"))
_CAST_LOSS = 1e-6  # of a column's range, above which rounding to float32 is reported
_FEWEST_POINTS = 2  # without a transition there is nothing to learn from


@dataclass
class Findings:
    """What the checks saw in some blocks; two of them merge."""

    not_finite: int = 0  # episodes left out
    too_short: int = 0
    rounding: dict[str, npt.NDArray[np.float64]] = field(
        default_factory=dict
    )  # feature: (3, w) error, minimum, maximum

    def merge(self, other: "Findings") -> None:
        """Add what another one saw."""
        self.not_finite += other.not_finite
        self.too_short += other.too_short
        for name, seen in other.rounding.items():
            self.add_rounding(name, seen)

    def add_rounding(self, name: str, seen: npt.NDArray[np.float64]) -> None:
        """Add (3, w): largest rounding error, minimum and maximum of each column."""
        known = self.rounding.get(name)
        if known is not None:
            seen = np.stack(
                [np.maximum(known[0], seen[0]), np.minimum(known[1], seen[1]), np.maximum(known[2], seen[2])]
            )
        self.rounding[name] = seen

    def notices(self, features: tuple[RawFeature, ...]) -> list[str]:
        """Say what was left out, cast, and lost by it."""
        said = []
        if self.not_finite:
            said.append(f"{plural(self.not_finite, 'episode')} with NaN or infinity left out")
        if self.too_short:
            said.append(f"{plural(self.too_short, 'episode')} of a single point left out")
        cast = [f"{feature.name} ({feature.dtype})" for feature in features if feature.dtype != "float32"]
        if cast:
            said.append(f"cast to float32: {', '.join(cast)}")
        for feature in features:
            if feature.name in self.rounding:
                said += _rounding_notices(feature, self.rounding[feature.name])
        return said


def plan_blocks(points: Int64, rows: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of runs of whole episodes with at most `rows` points, or a single longer one."""
    ends = np.cumsum(points)
    first = 0
    while first < len(points):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + rows, side="right")))
        yield first, last
        first = last


def canonical_block(
    recording: Recording, first: int, last: int, decimate: int, drop_bad: bool, source: str
) -> tuple[EpisodeBlock, Int64, Findings]:
    """Read episodes `first` to `last`: the block, the numbers of the episodes in it, and what was found.

    Decimation keeps the points 0, n, 2n, ..; the controls of the points between are dropped, not averaged.
    Raises DataError with the episode and the first index of a NaN or an infinity, unless they are to be dropped.
    """
    raw = recording.read(first, last)
    points = recording.points[first:last]
    kept = _decimated(points, decimate)
    found = Findings()
    if decimate > 1:
        points = -(-points // decimate)
    features = {}
    good = points >= _FEWEST_POINTS
    found.too_short = int((~good).sum())
    for feature in recording.features:
        values = raw.pop(feature.name)
        rows = _cast(values if kept is None else values[kept], feature, points, found)
        bad = _first_not_finite(rows, points)
        if len(bad) and not drop_bad:
            raise DataError(_not_finite(source, recording, first, feature, bad[0], rows))
        good[[episode for episode, _, _ in bad]] = False
        features[feature.name] = rows
    found.not_finite = int((~good).sum()) - found.too_short
    which = np.flatnonzero(good)
    if len(which) < len(points):
        mask = np.repeat(good, points)
        features = {name: rows[mask] for name, rows in features.items()}
    keys = tuple(recording.keys[first + i] for i in which)
    return EpisodeBlock(keys, points[which], features), first + which, found


def split_block(block: EpisodeBlock) -> Iterator[EpisodeBlock]:
    """Cut a block into those of row groups; their features are views."""
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


def _cast(values: Values, feature: RawFeature, points: Int64, found: Findings) -> Float32:
    """Return float32 rows; a control's last row of each episode is zero, for nothing follows it."""
    control = feature.role == "control"
    with np.errstate(over="ignore"):
        rows = np.array(values, dtype=np.float32, order="C", copy=True if control else None)
    if feature.dtype not in _EXACT and len(values):
        with np.errstate(invalid="ignore"):
            error = np.abs(values - rows.astype(np.float64)).max(axis=0)
            low, high = values.min(axis=0), values.max(axis=0)
        found.add_rounding(feature.name, np.stack([error, low, high]).astype(np.float64))
    if control:
        rows[last_rows(points)] = 0
    return rows


def _first_not_finite(rows: Float32, points: Int64) -> list[tuple[int, int, int]]:
    """Return (episode, step, column) of the first bad number of every episode that has one."""
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


def _rounding_notices(feature: RawFeature, seen: npt.NDArray[np.float64]) -> list[str]:
    error, low, high = seen
    scale = np.where(high > low, high - low, np.maximum(np.abs(high), np.finfo(np.float64).tiny))
    with np.errstate(invalid="ignore", over="ignore"):
        loss = error / scale
    return [
        f"{feature.labels[i]}: rounding to float32 loses up to {loss[i]:.1e} of its range"
        for i in np.flatnonzero(loss > _CAST_LOSS)
    ]
