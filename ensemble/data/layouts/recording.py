"""An opened file in the form common to all layouts: episodes, features, and a function that reads some episodes.

Layouts make Recordings; later code is independent of layouts. Values are those of the file, without cast or checks of
content (see `blocks.py`). An episode of T points has T rows in every feature; where a layout stores one row less,
`append_last` adds it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import Container, Values
from ensemble.data.layouts.refused import Refused
from ensemble.errors import DataError, UsageError
from ensemble.schema import Feature, FeatureRole, Int64
from ensemble.text import did_you_mean

Read = Callable[[int, int], dict[str, Values]]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "estimation": "train",
    "valid": "validation",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of groups, files and folders that say a split."""

_ABOUT, _MOST_STEPS = 0.25, 0.9  # of a clock's steps: relative spread, share of them
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class RawFeature:
    """A feature as stored in the file."""

    name: str
    width: int
    dtype: str
    role: FeatureRole
    labels: tuple[str, ...]
    angles: tuple[bool, ...]
    successor: bool = True  # whether the value at an episode's last point is known; if not, it can't be a state

    @property
    def feature(self) -> Feature:
        """The feature without dtype and successor."""
        return Feature(self.name, self.width, self.role, self.labels, self.angles)

    @property
    def schema(self) -> tuple[str, int, str]:
        """Name, width and dtype, which must agree between files."""
        return self.name, self.width, self.dtype


@dataclass(frozen=True, slots=True)
class Recording:
    """An opened file."""

    layout: str
    summary: str  # "NeRD trajectory: 2048 trajectories x 100 steps"
    features: tuple[RawFeature, ...]
    keys: tuple[str, ...]  # one name per episode, as in the file
    points: Int64  # (episodes,)
    given: tuple[str | None, ...]
    dt: float | None
    notices: tuple[str, ...]
    read: Read  # (first, last) -> feature: (points of these episodes, width), in the file's dtype
    refused: tuple[Refused, ...] = ()  # further episodes of the file, which cannot be used
    masks: tuple[tuple[str, ...], ...] = ()  # names of the file's further subsets that an episode is in; () without any

    @property
    def width(self) -> int:
        """Columns of all features."""
        return sum(feature.width for feature in self.features)


def raw_feature(
    name: str,
    width: int,
    dtype: object,
    role: FeatureRole,
    labels: Sequence[str] | None = None,
    angles: Sequence[bool] | None = None,
    successor: bool = True,
) -> RawFeature:
    """Return a feature, its name made safe for paths; labels default to `name` or `name[0]`, `name[1]`, .."""
    safe = safe_name(name)
    default = [safe] if width == 1 else [f"{safe}[{i}]" for i in range(width)]
    return RawFeature(
        safe, width, str(dtype), role, tuple(labels or default), tuple(angles or [False] * width), successor
    )


def safe_name(name: str) -> str:
    """Return the name with only A-Z a-z 0-9 . _ - and no leading dot."""
    text = _UNSAFE.sub("_", name.replace("/", "."))
    return "_" + text[1:] if text.startswith(".") else text or "_"


def with_options(recording: Recording, data: DataConfig, container: Container) -> Recording:
    """Return the recording with the roles, angles and time step of an experiment file.

    Raises UsageError for a role or an angle of a missing feature, DataError for a state without a last value.
    """
    names = [feature.name for feature in recording.features]
    for name in data.roles:
        if name not in names:
            raise UsageError(f"data.roles: no feature '{name}' in {container.path}{did_you_mean(name, names)}")
    features = tuple(_with_role(feature, data, container) for feature in recording.features)
    if data.angles:
        features = _with_angles(features, data.angles, container)
    notices = recording.notices
    if data.dt and recording.dt and abs(data.dt - recording.dt) > 1e-6 * data.dt:
        notices += (f"dt {data.dt:g} s as given; the file says {recording.dt:g} s",)
    return _without_empty(replace(recording, features=features, dt=data.dt or recording.dt, notices=notices))


def _without_empty(recording: Recording) -> Recording:
    """Return the recording without features of no columns."""
    empty = [feature.name for feature in recording.features if not feature.width]
    if not empty:
        return recording
    kept = tuple(feature for feature in recording.features if feature.width)
    notice = f"arrays without columns left out: {', '.join(empty)}"
    return replace(recording, features=kept, notices=(*recording.notices, notice))


def in_pieces(recording: Recording, episode: Sequence[int], points: Sequence[int]) -> Recording:
    """Return the recording with its episodes divided: the episode of each piece, in order, and the points of each."""
    of, counts = np.array(episode, dtype=np.int64), np.array(points, dtype=np.int64)
    return replace(
        recording,
        keys=_piece_keys(recording.keys, of),
        points=counts,
        given=tuple(recording.given[i] for i in episode),
        masks=tuple(recording.masks[i] for i in episode) if recording.masks else (),
        read=_piece_reader(recording, of, counts),
    )


def _piece_keys(keys: Sequence[str], of: Int64) -> tuple[str, ...]:
    """Return the key of each piece: that of an uncut episode, else with the number of the piece."""
    counts, numbers = np.bincount(of, minlength=len(keys)), np.arange(len(of)) - np.searchsorted(of, of)
    return tuple(
        keys[e] if counts[e] == 1 else f"{keys[e]}-part-{number + 1}" for e, number in zip(of, numbers, strict=True)
    )


def _piece_reader(recording: Recording, of: Int64, points: Int64) -> Read:
    starts = np.cumsum(points) - points
    firsts = np.cumsum(recording.points) - recording.points  # row of each whole episode

    def read(first: int, last: int) -> dict[str, Values]:
        begin, end = int(of[first]), int(of[last - 1]) + 1
        values = recording.read(begin, end)
        rows = slice(int(starts[first] - firsts[begin]), int(starts[last - 1] + points[last - 1] - firsts[begin]))
        return {name: each[rows] for name, each in values.items()}

    return read


def splits_by_name(paths: Sequence[Path]) -> list[str | None]:
    """Return the split of each file by the last or first word of its name, or by its folder: x_train.h5, valid/x.csv.

    All are None unless at least two different splits are named: one alone divides nothing.
    """
    splits = [_split_by_name(path) for path in paths]
    return splits if len(set(splits) - {None}) > 1 else [None] * len(paths)


def _split_by_name(path: Path) -> str | None:
    words = re.findall(r"[a-z]+", path.stem.lower()) or [""]
    candidates = (words[-1], words[0], path.absolute().parent.name.lower())
    return next((SPLIT_NAMES[word] for word in candidates if word in SPLIT_NAMES), None)


def append_last(values: Values, counts: Int64, last: Values | None = None) -> Values:
    """Add one row after each episode: `last` (episodes, w), or the episode's last row again, zeros where it has none.

    `values` (sum of `counts`, w) are concatenated episodes; the result is (sum of (`counts` + 1), w).
    """
    ends = np.cumsum(counts)
    if last is None:
        last = np.zeros((len(counts), *values.shape[1:]), values.dtype)
        last[counts > 0] = values[ends[counts > 0] - 1]
    rows = np.empty((len(values) + len(counts), *values.shape[1:]), values.dtype)
    rows[np.arange(len(values)) + np.repeat(np.arange(len(counts)), counts)] = values
    rows[ends + np.arange(len(counts))] = last
    return rows


def natural_order(names: Sequence[str]) -> list[str]:
    """Sort names, digits by their value: demo_2 before demo_10."""
    return sorted(names, key=_natural)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def difference_to_successor(values: Values, following: Values) -> tuple[int, ...] | None:
    """Return the first index where stored next values differ from the values of the next point, or None.

    Both have the same shape. They agree when |a - b| <= 1e-5 max(1, |b|); NaN and infinity are ignored here.
    """
    # Files usually store the same bits twice: no float64 copies then.
    if np.array_equal(values, following):
        return None
    where = np.argwhere(differs(values, following))
    return tuple(int(i) for i in where[0]) if len(where) else None


def differs(values: Values, following: Values) -> npt.NDArray[np.bool_]:
    """Return where stored next values differ from the values of the next point, by the rule above; any equal shape."""
    a, b = values.astype(np.float64), following.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.isfinite(a) & np.isfinite(b) & (np.abs(a - b) > 1e-5 * np.maximum(1.0, np.abs(b)))


def same_rows(container: Container, lengths: dict[str, int], episode: str | None = None) -> int:
    """Return the common number of rows; DataError with the lengths when they differ."""
    if len(set(lengths.values())) > 1:
        where = f" episode {episode}:" if episode else ""
        listed = ", ".join(f"{key} has {rows}" for key, rows in lengths.items())
        raise DataError(f"{container.path}:{where} unequal numbers of rows: {listed}")
    return next(iter(lengths.values()))


def seconds(value: object) -> float | None:
    """Return an attribute that is a positive number of seconds; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
        return None
    return float(value)


def period(frequency: object) -> float | None:
    """Return the seconds between two points at a positive number of points a second; None for anything else."""
    rate = seconds(frequency)  # the same numbers are allowed
    return None if rate is None else 1.0 / rate


def median_step(differences: Values) -> float:
    """Return the median difference of time stamps in seconds, to nine digits: stamps are rounded."""
    return float(f"{np.median(differences):.9g}")


def increases_evenly(differences: Values) -> bool:
    """Return whether nine differences in ten are about the same and positive, as those of a clock with resets are."""
    usual = np.median(differences) if len(differences) else 0.0
    return bool(usual > 0 and np.isclose(differences, usual, rtol=_ABOUT).mean() >= _MOST_STEPS)


def check_declared(container: Container, what: str, declared: object, actual: int) -> None:
    """Raise DataError when a declared count differs from the actual one: the writer was stopped."""
    if isinstance(declared, int) and declared != actual:
        raise DataError(
            f"{container.path}: declared total {declared} {what}, found {actual}: "
            "its writer was stopped, or the file was edited without correcting the count"
        )


def _with_role(feature: RawFeature, data: DataConfig, container: Container) -> RawFeature:
    given = data.roles.get(feature.name)
    if given is None:
        return feature
    role: FeatureRole = "control" if given == "action" else given
    if role in ("state", "output") and not feature.successor:
        raise DataError(
            f"{container.path}: {feature.name} cannot have the role {role}: the file has no value of it at the last "
            "point of an episode"
        )
    return replace(feature, role=role)


def _with_angles(features: tuple[RawFeature, ...], angles: list[str], container: Container) -> tuple[RawFeature, ...]:
    """Flag exactly the named entries: a feature, `feature[index]` or a label."""
    known: set[str] = set()
    flagged = []
    for feature in features:
        indexed = [f"{feature.name}[{i}]" for i in range(feature.width)]
        known |= {feature.name, *indexed, *feature.labels}
        flags = [
            bool({feature.name, entry, label} & set(angles))
            for entry, label in zip(indexed, feature.labels, strict=True)
        ]
        flagged.append(replace(feature, angles=tuple(flags)))
    for name in angles:
        if name not in known:
            raise UsageError(f"data.angles: no entry '{name}' in {container.path}{did_you_mean(name, sorted(known))}")
    return tuple(flagged)
