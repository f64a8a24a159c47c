"""Files of no known layout and tables, through `data.map`: feature -> array inside each episode's group.

Every group with the mapped arrays is an episode; with arrays in the root, the file is one episode, or as many as a
column numbers. Several arrays may make one feature. Groups called train, estimation, validation, test .. are given
splits. `states_#` is one episode for each of states_0, states_1, ..; arrays (episodes, time, columns) are divided with
`time_axis: second`. A control may have one row less than the others. A feature may be the time derivative of another
one: central differences in float64, before the cast.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ensemble.config.data import DataConfig, FeatureMap
from ensemble.data.layouts.container import ArrayInfo, Container, Values, missing_key, path_in
from ensemble.data.layouts.grouped import Loader, grouped_recording, lengths_text, matrix, usable_groups
from ensemble.data.layouts.names import SHARD_COLUMNS
from ensemble.data.layouts.recording import (
    SPLIT_NAMES,
    RawFeature,
    Recording,
    increases_evenly,
    median_step,
    natural_order,
    raw_feature,
    safe_name,
    seconds,
)
from ensemble.data.layouts.table import Table
from ensemble.data.layouts.views import (
    EpisodesByAxis,
    EpisodesByColumn,
    EpisodesByNumber,
    TimeLast,
    episode_column,
    numbers_of,
    time_is_last,
)
from ensemble.errors import DataError, UsageError
from ensemble.schema import FEATURE_ROLES, FeatureRole
from ensemble.text import did_you_mean, plural

TITLE = "mapped"
TIME_KEYS = ("time", "t", "timestamp", "timestamps")
_ROLE_NAMES: dict[str, FeatureRole] = {role: role for role in FEATURE_ROLES} | {"action": "control"}
_TIME_UNIT = re.compile(r"[ _]*[\[(]?(s|sec|secs|seconds)[\])]?$")
_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")
_CLOCK_ROWS, _CLOCK_STEPS = 1000, 10  # rows that are looked at; fewest steps
_DEPTH = 6  # levels of groups that are searched for episodes


@dataclass(frozen=True, slots=True)
class _Clock:
    """Seconds between points, or the key of the array with the time of each point."""

    dt: float | None
    key: str | None

    def axis(self, container: Container, group: str) -> float | Values:
        """Return the second argument of np.gradient: a step in seconds, or the times (T,)."""
        if self.dt is not None:
            return self.dt
        assert self.key is not None
        return container.read(path_in(group, self.key)).reshape(-1).astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Feature:
    """One entry of the map: its arrays, and the entry whose derivative it is, if it is one."""

    name: str
    entry: FeatureMap
    base: FeatureMap  # the entry with the arrays: its own, or that of the feature it is derived from
    role: FeatureRole


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file with `data.map`; UsageError for an incomplete map or incomplete roles, DataError for the file."""
    # Episodes and their arrays
    features = _features(data)
    keys = list(dict.fromkeys(key for feature in features for key in feature.base.keys))
    notices = [*_text_notices(container, data), *_number_notices(container, keys)]
    container, by_column = _view(container, data, keys)
    usable = usable_groups(container, _episodes(container, keys), keys, lambda rows: _points(rows, features))
    groups, infos, points = usable.names, usable.arrays, usable.rows

    # Lengths and time
    length = dict(zip(groups, points.tolist(), strict=True))
    clock = _clock(container, groups[0], length[groups[0]], data)
    dt, more = _known_dt(container, groups[0], clock)
    more += _axis_notices(container, groups[0], keys) if data.time_axis is None else []
    more += [notice for feature in features for notice in _clock_notices(container, groups[0], feature)]

    # Features
    loaders = _distinct([_loader(container, feature, infos, clock, length, data) for feature in features])
    names = [group or container.path.stem for group in groups]
    given = [
        next((SPLIT_NAMES[part] for part in group.lower().split("/") if part in SPLIT_NAMES), None) for group in groups
    ]
    summary = f"{TITLE}: {plural(len(groups), 'episode')} of {lengths_text(points)}{by_column}"
    if isinstance(container, EpisodesByColumn) and data.episode_column is None:
        notices.append(
            f"{plural(len(groups), 'episode')} by column {container.column} (data.episode_column names another)"
        )
    notices += more
    return grouped_recording("map", summary, groups, names, points, loaders, given, dt, notices, usable.refused)


def _features(data: DataConfig) -> list[_Feature]:
    """Return the entries of the map with their roles: as given, or by a name that is a role (state: obs/joint_pos)."""
    entries = data.entries
    if not entries:
        raise UsageError("layout map needs data.map: feature: array")
    own = [name for name in entries if name in SHARD_COLUMNS]
    if own:
        raise UsageError(f"data.map: '{own[0]}' is a column of every shard; call the feature otherwise ({own[0]}_)")
    roles = {name: name for name in entries if name in _ROLE_NAMES} | data.roles
    missing = [name for name in entries if name not in roles]
    if missing:
        raise UsageError(f"data.roles is missing for: {', '.join(missing)} (state, control, output or auxiliary)")
    known = [name for name, entry in entries.items() if entry.keys]
    for name, entry in entries.items():
        twice = next((key for key in entry.keys if entry.keys.count(key) > 1), None)
        if twice is not None:
            raise UsageError(f"data.map.{name}: {twice} is given twice")
        base = entry.derivative_of
        if base is not None and base not in known:
            raise UsageError(f"data.map.{name}: derivative_of '{base}' is no mapped array{did_you_mean(base, known)}")
    return [
        _Feature(name, entry, entries.get(entry.derivative_of or name, entry), _ROLE_NAMES[roles[name]])
        for name, entry in entries.items()
    ]


def _view(container: Container, data: DataConfig, keys: Sequence[str]) -> tuple[Container, str]:
    """Return the container with time first and one group per episode, and what was done, for the summary."""
    axes = {key: entry.time_axis or data.time_axis for entry in data.entries.values() for key in entry.keys}
    second = [key for key in keys if axes[key] == "second"]
    if second and len(second) < len(keys):
        raise UsageError(
            "data.time_axis: second divides all arrays into episodes: give it to all of the map or to none"
        )
    if second:
        return EpisodesByAxis(container, keys), ", by the first axis"
    if any("#" in key and not container.is_array(key) for key in keys):
        return EpisodesByNumber(container, keys), ", by number"
    last = sorted((key for key in keys if axes[key] == "last"), key=len)
    if last:
        # The longest mapped name that a path ends with: `q` is not meant where `robot/q` is mapped as well.
        mapped = sorted(keys, key=len, reverse=True)
        container = TimeLast(
            container, lambda path: next((k for k in mapped if path == k or path.endswith(f"/{k}")), None) in last
        )
    column = data.episode_column
    if column is None and isinstance(container, Table):
        column = episode_column(container.names(), keys)
    return (EpisodesByColumn(container, column), f", by column {column}") if column else (container, "")


def _text_notices(container: Container, data: DataConfig) -> list[str]:
    left = (
        [name for name in container.text_columns if name != data.episode_column] if isinstance(container, Table) else []
    )
    return [f"columns of text, left out: {', '.join(left)}"] if left else []


def _number_notices(container: Container, keys: Sequence[str]) -> list[str]:
    """Return a notice on a matrix that is one of several of one shape with numbers, of which others are not mapped."""
    names = container.names()
    for key in keys:
        stem = _LAST_NUMBER.sub("#", key)
        if "#" not in stem or key not in names or not container.is_array(key) or container.array(key).width() < 2:
            continue
        others = [stem.replace("#", number) for number in numbers_of(names, stem)]
        left = [other for other in others if other not in keys and container.is_array(other)]
        if left:
            return [
                f"{key} is read, {', '.join(left[:3])}{' ..' if len(left) > 3 else ''} are not: if each is an episode, "
                f"--map {stem} reads all ({plural(len(left) + 1, 'number')})"
            ]
    return []


def _axis_notices(container: Container, group: str, keys: Sequence[str]) -> list[str]:
    """Return a notice where the shapes of the arrays in an episode's group say that time runs along the last axis."""
    mapped = [container.array(path_in(group, key)) for key in keys]
    around = {path_in(group, key).rpartition("/")[0] for key in keys}
    infos = [
        info for each in around for name in container.names(each) if (info := _info(container, path_in(each, name)))
    ]
    if not time_is_last(infos) or not any(len(info.shape) == 2 and info.shape[1] > 1 for info in mapped):
        return []
    return [
        f"arrays in {group or 'the file'} are all {mapped[0].shape[-1]} wide: does time run along the last axis? "
        "(--time-axis last)"
    ]


def _clock_notices(container: Container, group: str, feature: _Feature) -> list[str]:
    """Return a notice where the first column of a state in the first episode increases evenly, as a clock does."""
    base = feature.base
    if feature.role != "state" or not base.keys or (base.columns or [0])[0] != 0 or feature.entry is not base:
        return []
    column = matrix(container.read(path_in(group, base.keys[0]), slice(_CLOCK_ROWS)))
    steps = np.diff(column[:, 0].astype(np.float64)) if column.shape[1] else np.empty(0)
    width = sum(container.array(path_in(group, key)).width() for key in base.keys)
    if len(steps) < _CLOCK_STEPS or width < 2 or not increases_evenly(steps):
        return []
    return [
        f"{feature.name}[0] increases by {median_step(steps):g} from step to step, as a clock does: no state? "
        f"(data.map.{feature.name}.columns leaves it out)"
    ]


def _info(container: Container, key: str) -> ArrayInfo | None:
    try:
        return container.array(key) if container.is_array(key) else None
    except DataError:
        return None


def _episodes(container: Container, keys: Sequence[str]) -> list[str]:
    """Return the groups with any of the keys; DataError where none has all of them."""
    complete, best, pending = [], ("", -1), [("", 0)]
    partial, empty = [], []
    while pending:
        group, depth = pending.pop()
        present = sum(container.is_array(path_in(group, key)) for key in keys)
        # Not searched further: groups inside an episode are parts of it.
        if present == len(keys):
            complete.append(group)
            continue
        if present:
            partial.append(group)
        if present > best[1]:
            best = (group, present)
        if depth < _DEPTH:
            inside = [path_in(group, name) for name in container.names(group)]
            if not inside:
                empty.append(group)
            pending += [(name, depth + 1) for name in inside if not container.is_array(name)]
    if not complete:
        lacking = best[0]
        absent = next(key for key in keys if not container.is_array(path_in(lacking, key)))
        raise missing_key(container, path_in(lacking, absent), "map", lacking or None)
    # An episode that lacks an array makes no shorter data set silently: its writer may have been stopped.
    parents = {group.rpartition("/")[0] for group in complete}
    return natural_order([*complete, *partial, *(group for group in empty if group.rpartition("/")[0] in parents)])


def _clock(container: Container, group: str, points: int, data: DataConfig) -> _Clock:
    """Return the time step that is given or an attribute, or else the array that is a time by its name and length."""
    dt = data.dt or seconds(container.attribute(group, "dt")) or seconds(container.attribute("", "dt"))
    if dt:
        return _Clock(dt, None)
    names = {name.lower(): name for name in reversed(container.names(group))}
    for key in _clock_names(names):
        try:
            info = container.array(path_in(group, key))
        except DataError:
            continue
        if info.shape[0] == points and info.width() == 1:
            return _Clock(None, key)
    return _Clock(None, None)


def _clock_names(names: dict[str, str]) -> list[str]:
    """Return the names that mean a time, `time [s]` and `Time_s` included, the usual first."""
    plain = {_TIME_UNIT.sub("", lower): name for lower, name in names.items()} | names
    return [plain[key] for key in TIME_KEYS if key in plain]


def _known_dt(container: Container, group: str, clock: _Clock) -> tuple[float | None, list[str]]:
    """Return the median time step of the first episode, and a notice where its times are no regular clock."""
    if clock.dt is not None or clock.key is None:
        return clock.dt, []
    steps = np.diff(np.asarray(clock.axis(container, group)))
    if not len(steps) or not np.isfinite(steps).all():
        return None, []
    dt = median_step(steps)
    back = np.flatnonzero(steps <= 0)
    if dt <= 0 or len(back):
        row = int(back[0]) + 1 if len(back) else 0
        return (dt if dt > 0 else None), [
            f"{path_in(group, clock.key)} goes back or stands still at row {row}: are there several episodes? "
            "A column that numbers them is data.episode_column"
        ]
    if steps.max() > 1.5 * dt or steps.min() < 0.5 * dt:
        return dt, [f"{path_in(group, clock.key)} is irregular: steps of {steps.min():g} to {steps.max():g} s"]
    return dt, []


def _points(rows: Mapping[str, int], features: Sequence[_Feature]) -> int | None:
    """Return the points of an episode: the rows of its arrays, None where they differ; a control may have one less."""
    longest = max(rows.values())
    whole = {key for feature in features if feature.role != "control" for key in feature.entry.keys}
    fits = all(count == longest or (count == longest - 1 and key not in whole) for key, count in rows.items())
    return longest if fits else None


def _loader(
    container: Container,
    feature: _Feature,
    infos: dict[str, list[ArrayInfo]],
    clock: _Clock,
    length: dict[str, int],
    data: DataConfig,
) -> Loader:
    # The arrays, their columns, and the columns of a derivative
    name, entry, base = feature.name, feature.entry, feature.base
    first = [infos[key][0] for key in base.keys]
    total = sum(info.width() for info in first)
    kept = _columns(container, name, base.columns, total)
    width = len(kept) if kept is not None else total
    own = None if entry is base else _columns(container, name, entry.columns, width)
    angles = [bool({entry.derivative_of, f"{entry.derivative_of}[{i}]"} & set(data.angles)) for i in range(width)]

    def load(group: str) -> Values:
        parts = [_lengthened(matrix(container.read(path_in(group, key))), length[group]) for key in base.keys]
        values = _scaled(_chosen(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1), kept), base.scale)
        if entry is base:
            return values
        rate = _derivative(values, clock.axis(container, group), angles)
        return _scaled(_chosen(rate, own), entry.scale)

    if entry is not base and clock.dt is None and clock.key is None:
        raise UsageError(f"data.map.{name}: a derivative needs data.dt, or an array of time in {container.path}")
    plain = entry is base and entry.scale == 1.0
    dtype = np.result_type(*(info.dtype for info in first)) if plain else np.dtype(np.float64)
    return Loader(
        raw_feature(name, width if own is None else len(own), dtype, feature.role, _labels(first, kept)), load
    )


def _labels(infos: Sequence[ArrayInfo], kept: list[int] | None) -> list[str] | None:
    """Return the names of the columns where several arrays make a feature; None for the usual labels."""
    if len(infos) == 1:
        return None
    # The last part of a path, where the arrays do not share it.
    short = [info.key.rpartition("/")[2] for info in infos]
    names = short if len(set(short)) == len(short) else [info.key for info in infos]
    labels = [
        safe_name(name) + (f"[{i}]" if info.width() > 1 else "")
        for name, info in zip(names, infos, strict=True)
        for i in range(info.width())
    ]
    return labels if kept is None else [labels[i] for i in kept]


def _distinct(loaders: list[Loader]) -> list[Loader]:
    """Put the feature's name before labels that another feature has too: labels name metrics."""
    counts = Counter(label for loader in loaders for label in loader.feature.labels)

    def renamed(feature: RawFeature) -> RawFeature:
        labels = (label if counts[label] == 1 else f"{feature.name}.{label}" for label in feature.labels)
        return replace(feature, labels=tuple(labels))

    return [replace(loader, feature=renamed(loader.feature)) for loader in loaders]


def _lengthened(values: Values, points: int) -> Values:
    """Return the rows, with a shorter control's last one again, which no transition uses."""
    return np.concatenate([values, values[-1:]]) if len(values) < points else values


def _columns(container: Container, name: str, columns: list[int] | None, width: int) -> list[int] | None:
    if columns is not None and (not columns or max(columns) >= width or min(columns) < 0):
        raise DataError(f"{container.path}: data.map.{name}: columns {columns} of an array with {width} columns")
    return columns


def _chosen(values: Values, columns: list[int] | None) -> Values:
    return values if columns is None else values[:, columns]


def _scaled(values: Values, scale: float) -> Values:
    return values if scale == 1.0 else values.astype(np.float64) * scale


def _derivative(values: Values, time: float | Values, angles: list[bool]) -> npt.NDArray[np.float64]:
    """Return d values / dt (T, w): second-order central differences inside, one-sided at both ends.

    Columns with `angles` (w,) are unwrapped first: an angle jumps by 2 pi where its rate does not.
    """
    wide = values.astype(np.float64)
    if len(wide) < 2:
        return np.zeros_like(wide)
    wide[:, angles] = np.unwrap(wide[:, angles], axis=0)
    return np.asarray(np.gradient(wide, time, axis=0))
