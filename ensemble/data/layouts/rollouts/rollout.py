"""An episode as one group of observations and actions: the common part of Minari, ManiSkill and MoCapAct, and ALOHA.

Observations have one row a point. Actions have one row a step, one less, or in files without the last observation one
row a point, of which the last is unused. Each array of an episode is read once, however many features it holds.

ALOHA and ACT (tonyzhaozh/act, record_sim_episodes.py and utils.py) have a file for each episode, which is the group
itself. The name of the file is the key of the episode; several files, or their folder, are one data set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import ArrayInfo, Container, Values, path_in, require
from ensemble.data.layouts.grouped import equal_rows, lengths_text, matrix, usable_groups
from ensemble.data.layouts.names import distinct_names
from ensemble.data.layouts.recording import RawFeature, Recording, raw_feature
from ensemble.data.layouts.vectors import vectors_in
from ensemble.errors import DataError
from ensemble.schema import FeatureRole
from ensemble.text import parse_json, plural

ALOHA = "ALOHA"
_REQUIRED = ("observations/qpos", "action")
_STATES = ("observations/qpos", "observations/qvel")
_CONTROLS = ("action", "base_action")  # the second one of a mobile base


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of a rollout: an array of the episode's group, or some columns of it."""

    key: str  # of its array, inside the episode's group
    role: FeatureRole
    per_step: bool = False  # one row a step, one less than points where the file has a last observation
    name: str = ""  # the last part of the key by default
    columns: tuple[int, ...] | None = None  # all by default


def rollout_recording(
    container: Container,
    layout: str,
    title: str,
    groups: Sequence[str],
    names: Sequence[str],
    columns: Sequence[Column],
    *,
    last_point: bool,
    declared: str | None = None,
    dt: float | None = None,
    notices: Sequence[str] = (),
) -> Recording:
    """Return the recording of the usable ones of some groups; `last_point`: observations have a row more than actions.

    `names` are the keys of all groups; `declared` names the attribute of a group with its steps.
    Episodes that lack an array or have other numbers of rows are refused, with reasons.
    """
    # Episodes
    shorter = {column.key for column in columns if column.per_step}
    keys = list(dict.fromkeys(column.key for column in columns))

    def steps_of(rows: Mapping[str, int]) -> int | None:
        return equal_rows({key: count - (last_point and key not in shorter) for key, count in rows.items()})

    usable = usable_groups(container, groups, keys, steps_of, declared)
    points = usable.rows + last_point
    number = {group: i for i, group in enumerate(groups)}
    which = [number[group] for group in usable.names]

    # Features
    plain = [_feature(column, usable.arrays[column.key][0], last_point) for column in columns]
    features, renamed = distinct_names(plain, [_path(column) for column in columns])

    def read(first: int, last: int) -> dict[str, Values]:
        episodes = [_read(container, usable.names[i], columns, int(points[i])) for i in range(first, last)]
        return {feature.name: np.concatenate([each[i] for each in episodes]) for i, feature in enumerate(features)}

    return Recording(
        layout=layout,
        summary=f"{title}: {plural(len(which), 'episode')} of {lengths_text(points)}",
        features=tuple(features),
        keys=tuple(names[i] for i in which),
        points=points,
        given=(None,) * len(which),
        dt=dt,
        notices=(*notices, *renamed),
        read=read,
        refused=usable.refused,
    )


def aloha_wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    return {key: container.is_array(key) for key in _REQUIRED}


def open_aloha(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent."""
    require(container, _REQUIRED, "aloha")
    observed = vectors_in(container, "", ["observations"])
    controls = vectors_in(container, "", [key for key in _CONTROLS if container.is_array(key)])
    columns = [Column(key, "state") for key in _STATES if key in observed.keys]
    columns += [Column(key, "control", per_step=True) for key in controls.keys]
    columns += [Column(key, "auxiliary") for key in observed.keys if key not in _STATES]  # efforts, as measured
    name = container.path.stem
    return rollout_recording(
        container, "aloha", ALOHA, [""], [name], columns, last_point=False, notices=observed.notices + controls.notices
    )


def json_beside(path: Path) -> dict[str, Any]:
    """Return the JSON file that describes a file of episodes, {} without one; DataError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        described = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}") from error
    return described if isinstance(described, dict) else {}


def _feature(column: Column, info: ArrayInfo, last_point: bool) -> RawFeature:
    width = info.width() if column.columns is None else len(column.columns)
    name = column.name or column.key.rpartition("/")[2]
    return raw_feature(name, width, info.dtype, column.role, successor=not (column.per_step and last_point))


def _path(column: Column) -> str:
    """Return the name for a feature whose own is not free: its path in the episode, or beside its array."""
    return f"{column.key}/{column.name}" if column.columns is not None else column.key


def _read(container: Container, group: str, columns: Sequence[Column], points: int) -> list[Values]:
    """Read the features of one episode, each (points, width); a missing last row repeats the one before."""
    arrays = {key: matrix(container.read(path_in(group, key))) for key in dict.fromkeys(c.key for c in columns)}
    values = [arrays[c.key] if c.columns is None else arrays[c.key][:, list(c.columns)] for c in columns]
    return [each if len(each) >= points else np.concatenate([each, each[-1:]]) for each in values]
