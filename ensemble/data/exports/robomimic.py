"""Trajectories as a robomimic file: a group for each episode, with its next observations.

Source: robomimic docs/datasets/overview.md, robomimic/utils/{dataset,file_utils}.py. An episode of T points has T - 1
samples, and the last point is the last row of `next_obs`. Controls are the columns of `actions`; every other feature is
an observation of its name.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ensemble.data.layouts.described import KEY, Described
from ensemble.data.layouts.robomimic import GROUP
from ensemble.data.trajectories import Trajectories
from ensemble.errors import UsageError
from ensemble.schema import Feature
from ensemble.store import atomic_file

_MASKS = {"train": "train", "validation": "valid", "test": "test"}
_ACTIONS = "actions"


def write_robomimic(out: Path, data: Trajectories, task: str) -> list[str]:
    """Write a file and return what it cannot hold, one notice a thing; `task` is its environment's name.

    Raises UsageError without a state or a control, StorageError when the disk cannot be written.
    """
    controls = [feature for feature in data.features if feature.role == "control"]
    observed = [feature for feature in data.features if feature.role != "control"]
    for role, found in (("state", observed), ("control", controls)):
        if not found:
            raise UsageError(f"no feature has the role {role}, which robomimic needs: give --role NAME={role}")
    with atomic_file(out) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group(GROUP)
        for number in range(len(data.episodes)):
            _write_demo(group.create_group(f"demo_{number}"), number, data, observed, controls)
        kwargs = {} if data.dt is None else {"control_freq": 1 / data.dt}
        group.attrs["total"] = len(data.rows) - len(data.episodes)
        group.attrs["env_args"] = json.dumps({"env_name": task, "type": 1, "env_kwargs": kwargs})
        group.attrs[KEY] = json.dumps([each.to_json() for each in _described(data, controls)])
        for mask, names in _masks(data.given).items():
            file[f"mask/{mask}"] = np.array(names, dtype="S")
    return _notices(data, observed, controls)


def _write_demo(
    demo: h5py.Group, number: int, data: Trajectories, observed: Sequence[Feature], controls: Sequence[Feature]
) -> None:
    first, points = int(data.episodes.first[number]), int(data.episodes.points[number])
    rows = data.rows[first : first + points]
    for feature in observed:
        values = rows[:, data.columns(feature.name)]
        demo[f"obs/{feature.name}"], demo[f"next_obs/{feature.name}"] = values[:-1], values[1:]
    demo[_ACTIONS] = np.concatenate([rows[:-1, data.columns(feature.name)] for feature in controls], axis=1)
    demo["rewards"] = np.zeros(points - 1)
    demo["dones"] = (np.arange(points - 1) == points - 2).astype(np.int64)
    demo.attrs["num_samples"] = points - 1


def _described(data: Trajectories, controls: Sequence[Feature]) -> list[Described]:
    """Return where each feature is, in the order of the features."""
    firsts = np.cumsum([0, *(feature.width for feature in controls)]).tolist()
    columns = {feature.name: first for feature, first in zip(controls, firsts, strict=False)}
    described = []
    for number, feature in enumerate(data.features):
        # As the reader calls an observation whose name is that of the controls.
        observation = f"obs.{_ACTIONS}" if feature.name == _ACTIONS else feature.name
        stored = _ACTIONS if feature.name in columns else observation
        described.append(Described.of(feature, number, stored, columns.get(feature.name, 0)))
    return described


def _masks(given: Sequence[str | None]) -> dict[str, list[str]]:
    """Return the names of the demonstrations of each given split."""
    masks: dict[str, list[str]] = {}
    for number, split in enumerate(given):
        if split is not None:
            masks.setdefault(_MASKS.get(split, split), []).append(f"demo_{number}")
    return masks


def _notices(data: Trajectories, observed: Sequence[Feature], controls: Sequence[Feature]) -> list[str]:
    """Return what the file cannot hold, and what stands there instead."""
    notices = ["rewards are in no shard: they are 0 here, and every episode is done at its last sample"]
    if [feature.name for feature in controls] != [_ACTIONS]:
        notices.append(f"actions holds {', '.join(feature.name for feature in controls)}, in this order")
    others = [feature.name for feature in observed if feature.role != "state"]
    if others:
        notices.append(f"robomimic knows no roles: {', '.join(others)} are observations as the others")
    if data.dt is None:
        notices.append("the time step is unknown, so env_args has no control_freq (--dt gives it)")
    notices.append("env_args names no environment that exists: robomimic trains on the file, and cannot roll out")
    notices.append("episodes are called demo_0, demo_1, ..: their names are not kept")
    return notices
