"""ManiSkill: a group `traj_i` for each episode, with `actions` and `obs` or `env_states`.

Source: haosulab/ManiSkill, docs/source/user_guide/datasets/demos.md. Observations and simulator states have one row
more than actions. Files of observation mode `none` have no `obs`: the states of actors and articulations are the
state then, and auxiliary otherwise. The JSON file of the same name is optional; its lengths must agree.
"""

from typing import Any

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import Container, require
from ensemble.data.layouts.grouped import typical_group
from ensemble.data.layouts.recording import Recording, check_declared, natural_order, period
from ensemble.data.layouts.rollouts.rollout import Column, json_beside, rollout_recording
from ensemble.data.layouts.vectors import vectors_in
from ensemble.errors import DataError

TITLE = "ManiSkill"
_PREFIX = "traj_"
_SIMULATOR = "env_states"


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    episodes = _episodes(container)
    first = typical_group(container, episodes) if episodes else f"{_PREFIX}0"
    states = container.has(f"{first}/obs") or container.has(f"{first}/{_SIMULATOR}")
    return {f"{first}/actions": container.has(f"{first}/actions"), f"{first}/obs": states}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent with itself or with its JSON file."""
    # Trajectories and their arrays
    episodes = _episodes(container)
    if not episodes:
        raise DataError(f"{container.path}: holds 0 episodes: no group {_PREFIX}0")
    typical = typical_group(container, episodes)
    require(container, [f"{typical}/actions"], "maniskill")
    observed = vectors_in(container, typical, ["obs"] if container.has(f"{typical}/obs") else [])
    simulated = vectors_in(container, typical, [_SIMULATOR])
    if not observed.keys and not simulated.keys:
        raise DataError(f"{container.path}: {typical} has no vectors in obs or {_SIMULATOR}: {observed.reasons}")

    # Features
    states, others = (observed.keys, simulated.keys) if observed.keys else (simulated.keys, [])
    columns = [Column(key, "state") for key in states]
    columns.append(Column("actions", "control", per_step=True))
    columns += [Column(key, "auxiliary") for key in others]
    notices = observed.notices + simulated.notices
    if not observed.keys:
        notices.append(f"no observations in the file: the simulator's {_SIMULATOR} are the state")
    described = json_beside(container.path.with_suffix(".json"))
    recording = rollout_recording(
        container,
        "maniskill",
        TITLE,
        episodes,
        episodes,
        columns,
        last_point=True,
        dt=_control_period(described),
        notices=notices,
    )
    _check_lengths(container, recording, described)
    return recording


def _episodes(container: Container) -> list[str]:
    """Return the groups of the trajectories, traj_2 before traj_10."""
    return natural_order([name for name in container.names() if name.startswith(_PREFIX)])


def _control_period(described: dict[str, Any]) -> float | None:
    """Return 1 / control_freq (s) from the environment's arguments, or None."""
    found = described
    for name in ("env_info", "env_kwargs", "sim_config"):
        inner = found.get(name)
        found = inner if isinstance(inner, dict) else {}
    return period(found.get("control_freq"))


def _check_lengths(container: Container, recording: Recording, described: dict[str, Any]) -> None:
    """Compare trajectories and steps of a file without refused episodes with its JSON file."""
    entries = described.get("episodes")
    entries = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    if recording.refused or not entries:
        return
    check_declared(container, "trajectories", len(entries), len(recording.keys))
    declared = {f"{_PREFIX}{entry.get('episode_id')}": entry.get("elapsed_steps") for entry in entries}
    for episode, points in zip(recording.keys, recording.points.tolist(), strict=True):
        check_declared(container, f"steps in {episode}", declared.get(episode), points - 1)
