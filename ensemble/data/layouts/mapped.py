"""Files of no known layout, through `data.map`: feature -> array inside each episode's group.

Every group with the mapped arrays is an episode; with arrays in the root, the file is one episode. Groups called train,
estimation, validation, test .. are given splits. A control may have one row less than the others. A feature may be the
time derivative of another one: central differences in float64, before the cast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.config.data import DataConfig, FeatureMap
from ensemble.data.layouts.container import ArrayInfo, Container, Values, missing_key, path_in
from ensemble.data.layouts.grouped import Loader, grouped_recording, lengths_text, matrix, usable_groups
from ensemble.data.layouts.names import SHARD_COLUMNS
from ensemble.data.layouts.recording import SPLIT_NAMES, Recording, median_step, natural_order, raw_feature
from ensemble.errors import DataError, UsageError
from ensemble.schema import FEATURE_ROLES, FeatureRole
from ensemble.text import did_you_mean, plural

TITLE = "mapped"
TIME_KEYS = ("time", "t", "timestamp", "timestamps")
_ROLE_NAMES: dict[str, FeatureRole] = {role: role for role in FEATURE_ROLES} | {"action": "control"}
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


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file with `data.map`; UsageError for an incomplete map or incomplete roles, DataError for the file."""
    # Episodes and their arrays
    entries = {name: FeatureMap(key=entry) if isinstance(entry, str) else entry for name, entry in data.map.items()}
    roles = _roles(entries, data)
    keys = [entry.key for entry in entries.values() if entry.key]
    usable = usable_groups(
        container, _episodes(container, keys), list(dict.fromkeys(keys)), lambda rows: _points(rows, entries, roles)
    )
    groups, infos, points = usable.names, usable.arrays, usable.rows

    # Lengths and time
    clock = _clock(container, groups[0], data)
    length = dict(zip(groups, points.tolist(), strict=True))

    # Features
    loaders = [_loader(container, name, entries, roles, infos, clock, length, data) for name in entries]
    names = [group or container.path.stem for group in groups]
    given = [
        next((SPLIT_NAMES[part] for part in group.lower().split("/") if part in SPLIT_NAMES), None) for group in groups
    ]
    summary = f"{TITLE}: {plural(len(groups), 'episode')} of {lengths_text(points)}"
    dt = _known_dt(container, groups[0], clock)
    return grouped_recording(container, "map", summary, groups, names, points, loaders, given, dt, (), usable.refused)


def _roles(entries: dict[str, FeatureMap], data: DataConfig) -> dict[str, FeatureRole]:
    """Return the role of each feature: as given, or its name if that is a role (state: obs/joint_pos)."""
    if not entries:
        raise UsageError("layout map needs data.map: feature: array")
    own = [name for name in entries if name in SHARD_COLUMNS]
    if own:
        raise UsageError(f"data.map: '{own[0]}' is a column of every shard; call the feature otherwise ({own[0]}_)")
    roles = {name: name for name in entries if name in _ROLE_NAMES} | data.roles
    missing = [name for name in entries if name not in roles]
    if missing:
        raise UsageError(f"data.roles is missing for: {', '.join(missing)} (state, control, output or auxiliary)")
    for name, entry in entries.items():
        base = entry.derivative_of
        if base is not None and (base not in entries or entries[base].key is None):
            known = [n for n, e in entries.items() if e.key]
            raise UsageError(f"data.map.{name}: derivative_of '{base}' is no mapped array{did_you_mean(base, known)}")
    return {name: _ROLE_NAMES[roles[name]] for name in entries}


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


def _clock(container: Container, group: str, data: DataConfig) -> _Clock:
    dt = data.dt or container.attribute(group, "dt") or container.attribute("", "dt")
    if dt:
        return _Clock(float(dt), None)
    key = next((key for key in TIME_KEYS if container.is_array(path_in(group, key))), None)
    return _Clock(None, key)


def _known_dt(container: Container, group: str, clock: _Clock) -> float | None:
    if clock.dt is not None or clock.key is None:
        return clock.dt
    time = np.asarray(clock.axis(container, group))
    return median_step(np.diff(time)) if len(time) > 1 else None


def _points(rows: Mapping[str, int], entries: dict[str, FeatureMap], roles: dict[str, FeatureRole]) -> int | None:
    """Return the points of an episode: the rows of its arrays, None where they differ; a control may have one less."""
    longest = max(rows.values())
    whole = {entry.key for name, entry in entries.items() if roles[name] != "control"}
    fits = all(count == longest or (count == longest - 1 and key not in whole) for key, count in rows.items())
    return longest if fits else None


def _loader(
    container: Container,
    name: str,
    entries: dict[str, FeatureMap],
    roles: dict[str, FeatureRole],
    infos: dict[str, list[ArrayInfo]],
    clock: _Clock,
    length: dict[str, int],
    data: DataConfig,
) -> Loader:
    # The array, its columns, and the columns of a derivative
    entry = entries[name]
    base = entry if entry.derivative_of is None else entries[entry.derivative_of]
    assert base.key is not None
    info = infos[base.key][0]
    kept = _columns(container, name, base.columns, info.width())
    width = len(kept) if kept is not None else info.width()
    own = None if entry is base else _columns(container, name, entry.columns, width)
    angles = [bool({entry.derivative_of, f"{entry.derivative_of}[{i}]"} & set(data.angles)) for i in range(width)]

    def load(group: str) -> Values:
        values = _scaled(_chosen(matrix(container.read(path_in(group, base.key or ""))), kept), base.scale)
        if len(values) < length[group]:
            values = np.concatenate([values, values[-1:]])  # a control's last row, which no transition uses
        if entry is base:
            return values
        rate = _derivative(values, clock.axis(container, group), angles)
        return _scaled(_chosen(rate, own), entry.scale)

    if entry is not base and clock.dt is None and clock.key is None:
        raise UsageError(f"data.map.{name}: a derivative needs data.dt, or an array of time in {container.path}")
    dtype = info.dtype if entry is base and entry.scale == 1.0 else np.dtype(np.float64)
    return Loader(raw_feature(name, width if own is None else len(own), dtype, roles[name]), load)


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
