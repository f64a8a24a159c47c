"""Ends of episodes that a file does not mark: steps at which the state changes far more than at all others.

A step's score is the mean over columns of min(|x[t+1] - x[t]| / s, 1), s the column's standard deviation: the share of
the spread of the data that is crossed at once. Only columns that move often and by little at a time count, so neither
noise nor a switched setpoint decides. Angles are compared modulo a turn, quaternions up to their sign. The highest
scores are jumps where each is at least 0.2, twice the highest score of the remaining steps and twice those of the two
steps before and after it (a fast motion or an impact has fast neighbours); at most one step in ten is a jump. Judged
within blocks of about 2^18 points. An episode that begins where the last one ended leaves no jump and is not found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ensemble.data.layouts.container import Values
from ensemble.data.layouts.recording import RawFeature, Recording, in_pieces
from ensemble.schema import Int64
from ensemble.text import plural

Bools = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]

_FEWEST_STEPS = 30  # fewer do not say what is usual
_LEAST_SCORE = 0.2
_RATIO = 2.0
_MOST = 10  # at most one step in so many is a jump
_SAMPLE = 1024  # rows that describe a column
_LITTLE = 0.25  # share of its spread that a column stays below in nine of ten steps
_OFTEN = 0.2  # share of the steps at which it changes at all
_MOST_COLUMNS = 16  # of a feature: more cost time and show the same jumps
_TURNS = (2 * np.pi, 360.0)
_CHUNK = 2048  # rows at a time, which stay in the cache
_LISTED = 4
_ROLES = ("state", "output")


@dataclass(frozen=True, slots=True)
class Jump:
    """A step that is far larger than all others."""

    episode: str
    step: int  # the point before it

    def __str__(self) -> str:
        return f"{self.episode} from step {self.step} to {self.step + 1}"


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of a feature that count."""

    which: Int64  # (k,)
    inverse_spread: Scores  # (k,)
    turning: Int64  # (j,) of these, those that may wrap
    quaternions: tuple[int, ...]  # of these, the first of four


def jump_rows(values: Sequence[tuple[Values, Sequence[bool]]], points: Int64) -> Int64:
    """Return the rows after which the state jumps, in ascending order.

    `values` are rows (N, w) of each state feature with its angle flags (w,); `points` (episodes,) sum to N.
    """
    # Scores; steps from one episode to the next are none
    inner = np.ones(max(int(points.sum()) - 1, 0), bool)
    inner[np.cumsum(points)[:-1] - 1] = False
    if inner.sum() < _FEWEST_STEPS:
        return np.empty(0, np.int64)
    described = [(rows, _columns(rows, inner, angles)) for rows, angles in values]
    count = sum(len(columns.which) for _, columns in described)
    if not count:
        return np.empty(0, np.int64)
    scores = np.sum([_sums(rows, columns) for rows, columns in described], axis=0) / np.float32(count)
    scores[~inner] = 0

    # Those that stand out from the remaining steps and from their neighbours
    if scores.max() < _LEAST_SCORE:
        return np.empty(0, np.int64)
    top = np.flatnonzero(scores >= _LEAST_SCORE / _RATIO)
    top = top[np.lexsort((top, -scores[top]))]
    high = np.append(scores[top], 0)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(scores, 2), 5)[top][:, [0, 1, 3, 4]].max(axis=1)
    apart = np.logical_and.accumulate((high[:-1] >= _LEAST_SCORE) & (high[:-1] >= _RATIO * around))
    gaps = np.flatnonzero(apart & (high[:-1] >= _RATIO * high[1:]))
    gaps = gaps[gaps < inner.sum() // _MOST]
    return np.sort(top[: gaps[-1] + 1]) if len(gaps) else np.empty(0, np.int64)


def jumps_in(
    features: Sequence[RawFeature], values: Mapping[str, Values], points: Int64, keys: Sequence[str]
) -> list[Jump]:
    """Return the jumps of some episodes, whose `values` are rows (sum of `points`, w) of each feature."""
    rows = _rows(features, values, points)
    ends = np.cumsum(points)
    episodes = np.searchsorted(ends, rows, side="right")
    return [Jump(keys[e], int(row - ends[e] + points[e])) for row, e in zip(rows, episodes, strict=True)]


def jump_notices(jumps: Sequence[Jump]) -> list[str]:
    """Return a notice on jumps that are not cut, with the option that cuts there."""
    if not jumps:
        return []
    verb = "changes" if len(jumps) == 1 else "change"
    return [
        f"{plural(len(jumps), 'step')} {verb} the state far more than all others: {_listed(jumps)}; if episodes end "
        "there, --cut-at-jumps cuts them (data.cut_at_jumps: true)"
    ]


def cut_at_jumps(recording: Recording, blocks: Sequence[tuple[int, int]]) -> Recording:
    """Return the recording with its episodes cut at jumps; its values are read once, in `blocks` of episodes."""
    # Pieces: the episode of each, and its points
    episode: list[int] = []
    points: list[int] = []
    jumps: list[Jump] = []
    for first, last in blocks:
        values, pieces = recording.read(first, last), recording.points[first:last]
        numbers, keys = np.arange(first, last), recording.keys[first:last]
        jumps += jumps_in(recording.features, values, pieces, keys)
        # Smaller jumps stand out once the larger ones are cut.
        while len(rows := _rows(recording.features, values, pieces)):
            ends = np.union1d(np.cumsum(pieces), rows + 1)
            numbers = numbers[np.searchsorted(np.cumsum(pieces), ends)]
            pieces = np.diff(ends, prepend=0)
        episode += numbers.tolist()
        points += pieces.tolist()

    # The recording of pieces
    cuts = len(points) - len(recording.points)
    if not cuts:
        return replace(recording, notices=(*recording.notices, "cut at jumps: there are none"))
    named = f"{plural(cuts, 'cut')}, the largest {_listed(jumps)}"
    notice = f"cut at jumps: {plural(len(recording.points), 'episode')} became {len(points)}: {named}"
    return in_pieces(replace(recording, notices=(*recording.notices, notice)), episode, points)


def _rows(features: Sequence[RawFeature], values: Mapping[str, Values], points: Int64) -> Int64:
    # Values of a file that is only inspected may be infinite or NaN; such columns do not count.
    with np.errstate(invalid="ignore", over="ignore"):
        return jump_rows([(values[f.name], f.angles) for f in features if f.role in _ROLES], points)


def _columns(rows: Values, inner: Bools, angles: Sequence[bool]) -> _Columns:
    """Choose the columns that count, from a sample of steps."""
    before = np.flatnonzero(inner)
    before = before[:: -(-len(before) // _SAMPLE)]
    sample, step = rows[before].astype(np.float64), np.abs(rows[before + 1].astype(np.float64) - rows[before])
    low, high, spread = sample.min(axis=0), sample.max(axis=0), sample.std(axis=0)
    flagged = np.asarray(angles, bool)
    turns = flagged | (high - low > _TURNS[0] * 0.8)
    step[:, turns] = _turned(step[:, turns])
    floor = spread > 1e-6 * np.maximum(np.abs(low), np.abs(high))
    little = np.quantile(step, 0.9, axis=0) < _LITTLE * spread
    often = (step > 1e-6 * spread).mean(axis=0) > _OFTEN
    which = np.flatnonzero(floor & little & often)
    quaternions = _quaternions(sample[:, which], which)
    plain = np.delete(which, [first + i for first in quaternions for i in range(4)])
    if len(plain) > _MOST_COLUMNS:
        which, quaternions = plain[np.linspace(0, len(plain) - 1, _MOST_COLUMNS).astype(np.int64)], ()
    inverse = (1 / spread[which]).astype(np.float32)
    return _Columns(which, inverse, np.flatnonzero(turns[which]), quaternions)


def _quaternions(sample: Values, which: Int64) -> tuple[int, ...]:
    """Return the first of each four neighbouring columns of norm 1."""
    found: list[int] = []
    for start in range(len(which) - 3):
        neighbours = which[start + 3] - which[start] == 3 and (not found or start >= found[-1] + 4)
        if neighbours and (np.abs(np.square(sample[:, start : start + 4]).sum(axis=1) - 1) < 0.01).all():
            found.append(start)
    return tuple(found)


def _sums(rows: Values, columns: _Columns) -> Scores:
    """Return the sum over columns of min(|step| / spread, 1) at each step (N - 1,)."""
    sums = np.empty(len(rows) - 1, np.float32)
    ones = np.ones(len(columns.which), np.float32)
    for start in range(0, len(sums), _CHUNK):
        # By columns: numpy is several times faster along a long last axis.
        chunk = np.ascontiguousarray(rows[start : start + _CHUNK + 1, columns.which].T, np.float32)  # (k, n + 1)
        step = chunk[:, 1:] - chunk[:, :-1]
        np.abs(step, out=step)
        if len(columns.turning):
            step[columns.turning] = _turned(step[columns.turning])
        for first in columns.quaternions:
            four = slice(first, first + 4)
            opposite = np.abs(chunk[four, 1:] + chunk[four, :-1])
            nearer = opposite.sum(axis=0) < step[four].sum(axis=0)
            step[four, nearer] = opposite[:, nearer]
        step *= columns.inverse_spread[:, None]
        np.minimum(step, np.float32(1), out=step)
        sums[start : start + step.shape[1]] = ones @ step
    return sums


def _turned(step: Values) -> Values:
    """Return |step| modulo a turn, in radians or degrees, where that is smaller."""
    for turn in _TURNS:
        step = np.minimum(step, np.abs(step - turn))
    return step


def _listed(jumps: Sequence[Jump]) -> str:
    more = f" and {len(jumps) - _LISTED} more" if len(jumps) > _LISTED else ""
    return ", ".join(map(str, jumps[:_LISTED])) + more
