"""Minari: `main_data.hdf5` with a group `episode_i` for each episode, and `metadata.json` beside it.

Source: Farama-Foundation/Minari, minari/dataset/_storages/hdf5_storage.py. Observations have one row more than actions.
Spaces may be nested: dictionaries are groups, tuples are groups of `_index_0`, `_index_1`, .. . Attributes and
`metadata.json` declare the counts. Of `infos` the coordinates of the simulator are kept, as D4RL has them.
"""

from typing import Any

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import Container
from ensemble.data.layouts.grouped import typical_group
from ensemble.data.layouts.recording import Recording, check_declared, natural_order, seconds
from ensemble.data.layouts.rollouts.rollout import Column, json_beside, rollout_recording
from ensemble.data.layouts.vectors import vectors_in
from ensemble.errors import DataError

TITLE = "Minari"
METADATA = "metadata.json"
_PREFIX = "episode_"
_INFOS = ("infos/qpos", "infos/qvel", "infos/goal")


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    episodes = _episodes(container)
    first = typical_group(container, episodes) if episodes else f"{_PREFIX}0"
    keys = [f"{first}/{key}" for key in ("observations", "actions", "terminations", "truncations")]
    return {key: container.has(key) for key in keys}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent with itself or with its metadata."""
    # Episodes and their arrays
    episodes = _episodes(container)
    if not episodes:
        raise DataError(f"{container.path}: holds 0 episodes: no group {_PREFIX}0")
    typical = typical_group(container, episodes)
    observed = vectors_in(container, typical, ["observations"])
    acted = vectors_in(container, typical, ["actions"])
    if not observed.keys or not acted.keys:
        empty = observed if not observed.keys else acted
        raise DataError(f"{container.path}: {typical} has no vectors, which alone are read: {empty.reasons}")

    # Features
    columns = [Column(key, "state") for key in observed.keys]
    columns += [Column(key, "control", per_step=True) for key in acted.keys]
    columns += [Column(key, "auxiliary") for key in _INFOS if _has_last_row(container, typical, key, columns[0].key)]
    metadata = json_beside(container.path.with_name(METADATA))
    recording = rollout_recording(
        container,
        "minari",
        TITLE,
        episodes,
        episodes,
        columns,
        last_point=True,
        declared="total_steps",
        dt=seconds(metadata.get("dt")),  # which its owner may have added
        notices=observed.notices + acted.notices,
    )
    _check_totals(container, recording, metadata)
    return recording


def _episodes(container: Container) -> list[str]:
    """Return the groups of the episodes, episode_2 before episode_10."""
    return natural_order([name for name in container.names() if name.startswith(_PREFIX)])


def _has_last_row(container: Container, episode: str, key: str, observed: str) -> bool:
    """Return whether an array of `infos` exists with a row for every observation."""
    path = f"{episode}/{key}"
    rows = container.array(f"{episode}/{observed}").shape[:1]
    return container.is_array(path) and container.array(path).shape[:1] == rows


def _check_totals(container: Container, recording: Recording, metadata: dict[str, Any]) -> None:
    """Compare the episodes and steps of a file without refused episodes with those that it and its metadata declare."""
    if recording.refused:
        return
    steps = int((recording.points - 1).sum())
    for declared in (container.attribute("", "total_steps"), metadata.get("total_steps")):
        check_declared(container, "steps", declared, steps)
    for declared in (container.attribute("", "total_episodes"), metadata.get("total_episodes")):
        check_declared(container, "episodes", declared, len(recording.keys))
