"""NeRD and axion, read and written: one group `data` with time-major arrays (T, B, ..), states and next states.

Source: NVlabs/neural-robot-dynamics, utils/datasets.py and generate/. A trajectory of T steps gives T + 1 points, the
last one from `next_states`. Mode `transition` has arrays (N, ..) and gives N episodes of two points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import ArrayInfo, Container, Values, arrays_inside, require
from ensemble.data.layouts.names import distinct_names
from ensemble.data.layouts.recording import (
    RawFeature,
    Recording,
    append_last,
    check_declared,
    difference_to_successor,
    raw_feature,
    seconds,
)
from ensemble.errors import DataError
from ensemble.schema import FeatureRole, Float32, Int64
from ensemble.store import atomic_file

TITLE = "NeRD"
GROUP = "data"
LENGTHS = "traj_lengths"
_STATE = "states"
_NEXT = "next_"
_CONTROLS = ("joint_acts", "gravity_dir", "actions")  # known before a rollout
_DT = ("dt", "frame_dt")


@dataclass(frozen=True, slots=True)
class _Array:
    """One feature, and the key of the array of its next values, if there is one."""

    info: ArrayInfo
    following: str | None
    feature: RawFeature


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    return {
        f"{GROUP} with attribute mode": container.attribute(GROUP, "mode") in ("trajectory", "transition"),
        f"{GROUP}/{_STATE}": container.has(f"{GROUP}/{_STATE}"),
        f"{GROUP}/{_NEXT}{_STATE}": container.has(f"{GROUP}/{_NEXT}{_STATE}"),
    }


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent."""
    # Mode and shapes
    require(container, (f"{GROUP}/{_STATE}", f"{GROUP}/{_NEXT}{_STATE}"), "nerd")
    states = container.array(f"{GROUP}/{_STATE}")
    said = container.attribute(GROUP, "mode")
    mode = said or ("trajectory" if len(states.shape) == 3 else "transition")
    notices = (
        () if said else (f"no attribute mode in the file: read as mode {mode}, by the shape {states.shape} of states",)
    )
    lead = 2 if mode == "trajectory" else 1
    if len(states.shape) <= lead:
        raise DataError(f"{container.path}: {states.key} has shape {states.shape} in mode {mode}")
    steps, count = states.shape[:2] if mode == "trajectory" else (1, states.shape[0])

    # Features and lengths
    arrays = _arrays(container, states.shape[:lead], lead)
    keys = [array.info.key.removeprefix(f"{GROUP}/") for array in arrays]
    features, renamed = distinct_names([array.feature for array in arrays], keys)
    lengths = _lengths(container, steps, count)
    _check_totals(container, mode, steps, count, lengths)

    # Description
    kind = "trajectories" if mode == "trajectory" else "transitions"
    ragged = len(np.unique(lengths)) > 1
    long = f" x {'up to ' if ragged else ''}{steps} steps" if mode == "trajectory" else ""
    dts = [container.attribute(group, name) for group in (GROUP, "") for name in _DT]
    return Recording(
        layout="nerd",
        summary=f"{TITLE} {mode}: {count} {kind}{long}",
        features=tuple(features),
        keys=tuple(f"{mode}-{i}" for i in range(count)),
        points=lengths + 1,
        given=(None,) * count,
        dt=next((dt for dt in map(seconds, dts) if dt), None),
        notices=(*notices, *renamed),
        read=lambda first, last: {
            feature.name: _read(container, array, mode, first, last, lengths[first:last])
            for feature, array in zip(features, arrays, strict=True)
        },
    )


def _arrays(container: Container, leading: tuple[int, ...], lead: int) -> list[_Array]:
    """Return the features: the states first, then the others in the order of the file."""
    keys = arrays_inside(container, GROUP)
    names = [_STATE, *(name for name in keys if name not in (_STATE, LENGTHS))]
    arrays = []
    for name in names:
        if name.startswith(_NEXT) and name.removeprefix(_NEXT) in keys:
            continue
        info = container.array(f"{GROUP}/{name}")
        if info.shape[:lead] != leading:
            raise DataError(
                f"{container.path}: {info.key} has shape {info.shape} where {GROUP}/{_STATE} begins with {leading}"
            )
        following = f"{GROUP}/{_NEXT}{name}" if _NEXT + name in keys else None
        if following and container.array(following).shape != info.shape:
            raise DataError(
                f"{container.path}: {following} has shape {container.array(following).shape}, "
                f"{info.key} has {info.shape}"
            )
        # Files of passive systems have an array of no torques.
        if info.width(lead):
            arrays.append(_Array(info, following, _feature(container, name, info, lead, following is not None)))
    return arrays


def _feature(container: Container, name: str, info: ArrayInfo, lead: int, successor: bool) -> RawFeature:
    width = info.width(lead)
    if name != _STATE:
        role: FeatureRole = "control" if name in _CONTROLS else "auxiliary"
        return raw_feature(name, width, info.dtype, role, successor=successor)
    # Rounded up, since a free joint has 7 coordinates and 6 velocities.
    positions = (width + 1) // 2
    labels = [f"q{i}" for i in range(positions)] + [f"qd{i}" for i in range(width - positions)]
    # The only environment whose coordinates are known to be angles; others get them from `data.angles`.
    pendulum = "pendulum" in str(container.attribute(GROUP, "env") or "").lower()
    return raw_feature(name, width, info.dtype, "state", labels, [pendulum and i < positions for i in range(width)])


def _lengths(container: Container, steps: int, count: int) -> Int64:
    key = f"{GROUP}/{LENGTHS}"
    if not container.has(key):
        return np.full(count, steps, dtype=np.int64)
    container.array(key)  # raises where it holds no numbers
    lengths = container.read(key).reshape(-1)
    # NaN fails both comparisons.
    if len(lengths) != count or not (lengths >= 0).all() or not (lengths <= steps).all():
        raise DataError(f"{container.path}: {key} does not fit {count} trajectories of at most {steps} steps")
    return lengths.astype(np.int64)


def _check_totals(container: Container, mode: str, steps: int, count: int, lengths: Int64) -> None:
    """Compare the counts in the attributes with the arrays; padded steps may be counted or not."""
    if mode == "trajectory":
        check_declared(container, "trajectories", container.attribute(GROUP, "total_trajectories"), count)
    declared = container.attribute(GROUP, "total_transitions")
    if declared != int(lengths.sum()):
        check_declared(container, "transitions", declared, steps * count)


def _read(container: Container, array: _Array, mode: str, first: int, last: int, lengths: Int64) -> Values:
    """Read some trajectories in one slice and concatenate them, (sum of lengths + 1, width)."""
    where = (slice(None), slice(first, last)) if mode == "trajectory" else (slice(first, last),)
    values = _time_major(container.read(array.info.key, *where), mode)  # (T, b, w)
    following = None
    if array.following:
        following = _time_major(container.read(array.following, *where), mode)
        _check_successors(container, array, values, following, lengths, first)
    steps, count, width = values.shape
    # Equal lengths, the common case, need one transposing copy and no index arrays.
    if (lengths == steps).all():
        rows = np.empty((count, steps + 1, width), values.dtype)
        rows[:, :steps] = values.swapaxes(0, 1)
        rows[:, steps] = values[-1] if following is None else following[-1]
        return rows.reshape(-1, width)
    real = np.arange(steps) < lengths[:, None]  # (b, T)
    end = None if following is None else following[np.maximum(lengths - 1, 0), np.arange(count)]
    return append_last(values.swapaxes(0, 1)[real], lengths, end)


def _time_major(values: Values, mode: str) -> Values:
    lead = 2 if mode == "trajectory" else 1
    flat = values.reshape(*values.shape[:lead], math.prod(values.shape[lead:]))
    return flat if mode == "trajectory" else flat[None]


def _check_successors(
    container: Container, array: _Array, values: Values, following: Values, lengths: Int64, first: int
) -> None:
    """Raise DataError unless next[t] is the value at t + 1 within each trajectory."""
    stored, real = following[:-1], values[1:]
    # Beyond a trajectory's length the arrays hold padding, which need not agree.
    if (lengths != len(values)).any():
        padding = np.arange(1, len(values))[:, None] >= lengths  # (T - 1, b)
        stored, real = np.where(padding[..., None], 0, stored), np.where(padding[..., None], 0, real)
    where = difference_to_successor(stored, real)
    if where is not None:
        step, trajectory, column = where
        raise DataError(
            f"{container.path}: trajectory {first + trajectory}: {array.following}[{step}] is "
            f"{_short(stored[where])} and {array.info.key}[{step + 1}] is {_short(real[where])} (column {column}); "
            "they should be equal"
        )


def _short(value: Sequence[float] | Values) -> str:
    return f"{float(np.asarray(value)):g}"


_DIMENSIONS = {"states": "state_dim", "next_states": "next_state_dim", "joint_acts": "joint_act_dim"}


def write_nerd(
    path: Path,
    states: npt.NDArray[np.floating],
    joint_acts: npt.NDArray[np.floating] | None = None,
    *,
    env: str,
    dt: float,
    extra: Mapping[str, npt.NDArray[np.floating]] | None = None,
    lengths: Int64 | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write `states` (B, T + 1, S), `joint_acts` (B, T, A) and `extra` arrays (B, T, ..) as float32.

    `dt` is in seconds. `lengths` (B,) are the steps of each trajectory, T by default; later steps are padding.
    Stored time-major: states, next_states (T, B, S). Raises StorageError when writing fails.
    """
    # Arrays
    count, steps = states.shape[0], states.shape[1] - 1
    arrays = {"states": states[:, :-1], "next_states": states[:, 1:]}
    if joint_acts is not None:
        arrays["joint_acts"] = joint_acts
    arrays |= dict(extra or {})
    for name, values in arrays.items():
        assert values.shape[:2] == (count, steps), (name, values.shape)

    # Attributes, as NeRD's loader expects them
    transitions = count * steps if lengths is None else int(lengths.sum())
    attrs = {"env": env, "mode": "trajectory", "dt": dt, "num_contacts_per_env": 0}
    attrs |= {"total_trajectories": count, "total_transitions": transitions}
    attrs |= {_DIMENSIONS[name]: values.shape[2] for name, values in arrays.items() if name in _DIMENSIONS}
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group(GROUP)
        for name, values in arrays.items():
            group.create_dataset(name, data=_as_time_major(values))
        if lengths is not None:
            group.create_dataset(LENGTHS, data=lengths)
        group.attrs.update(attrs | dict(attributes or {}))


def _as_time_major(values: npt.NDArray[np.floating]) -> Float32:
    return np.ascontiguousarray(values.swapaxes(0, 1), dtype=np.float32)
