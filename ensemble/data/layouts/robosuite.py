"""Raw robosuite 0.3 demonstrations: simulator states and joint velocities, before robomimic's processing.

`data/demo_i/{states, joint_velocities, gripper_actuations, right_dpos, right_dquat, left_*}`. The first column of
`states` is the simulation's time, which is no state; arrays of an absent arm have no columns. Where the time falls back
inside a demonstration, it holds several takes, and is divided.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import ArrayInfo, Container, Values
from ensemble.data.layouts.grouped import (
    Loader,
    demonstrations,
    grouped_recording,
    lengths_text,
    matrix,
    typical_group,
    usable_groups,
)
from ensemble.data.layouts.recording import Recording, in_pieces, increases_evenly, median_step, raw_feature
from ensemble.errors import DataError
from ensemble.schema import Int64
from ensemble.text import plural

TITLE = "raw robosuite"
GROUP = "data"
_CONTROLS = ("joint_velocities", "gripper_actuations")
_EVEN = 1e-3  # relative spread below which time steps are equal


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    demos = demonstrations(container, GROUP)
    first = typical_group(container, demos) if demos else f"{GROUP}/demo_1"
    keys = (f"{first}/states", f"{first}/joint_velocities")
    return {first: bool(demos)} | {key: container.has(key) for key in keys}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent."""
    # Demonstrations
    demos = demonstrations(container, GROUP)
    if not demos:
        raise DataError(f"{container.path}: holds 0 episodes: no group in '{GROUP}'")

    # Arrays
    typical = typical_group(container, demos)
    present = [key for key in container.names(typical) if container.is_array(f"{typical}/{key}")]
    empty = [key for key in present if key != "states" and container.array(f"{typical}/{key}").width() == 0]
    others = [key for key in present if key not in empty and key not in ("states", *_CONTROLS)]
    controls = [key for key in _CONTROLS if key in present and key not in empty]
    usable = usable_groups(container, demos, ["states", *controls, *others])
    demos, infos = list(usable.names), usable.arrays

    # Features
    states, dt, notices, resets = states_without_time(container, demos, infos["states"][0])
    loaders = [states]
    loaders += [_loader(container, key, infos[key][0], key in _CONTROLS) for key in [*controls, *others]]
    if empty:
        notices.append(f"arrays without columns left out: {', '.join(empty)}")

    # Description
    summary = f"{TITLE}: {len(demos)} demonstrations of {lengths_text(usable.rows)}"
    names = [demo.removeprefix(f"{GROUP}/") for demo in demos]
    given = [None] * len(demos)
    recording = grouped_recording(
        "robosuite", summary, demos, names, usable.rows, loaders, given, dt, notices, usable.refused
    )
    return divided_at(recording, resets)


def divided_at(recording: Recording, resets: Sequence[Int64]) -> Recording:
    """Return the recording with each demonstration divided after the rows at which its time falls back."""
    if not any(len(rows) for rows in resets):
        return recording
    bounds = [[0, *(rows + 1).tolist(), int(n)] for rows, n in zip(resets, recording.points, strict=True)]
    episode = [number for number, each in enumerate(bounds) for _ in each[1:]]
    points = [count for each in bounds for count in np.diff(each).tolist()]
    count = sum(len(rows) > 0 for rows in resets)
    notice = (
        f"simulation time falls back inside {plural(count, 'demonstration')}, which hold several takes: "
        f"{plural(len(bounds), 'demonstration')} became {plural(len(points), 'episode')}"
    )
    return in_pieces(replace(recording, notices=(*recording.notices, notice)), episode, points)


def states_without_time(
    container: Container, demos: Sequence[str], info: ArrayInfo
) -> tuple[Loader, float | None, list[str], list[Int64]]:
    """Return the loader of `states`, the time step in seconds, notices, and each demonstration's rows before a reset.

    MuJoCo's flattened state begins with the time. Column 0 counts as time, and is left out, when it increases at every
    step of every demonstration, or by about the same at nine steps in ten.
    """
    # A single column is the state itself.
    columns = [container.read(f"{demo}/states", slice(None), slice(0, 1)) for demo in demos] if info.width() > 1 else []
    steps = [np.diff(matrix(column)[:, 0]) for column in columns]
    differences = np.concatenate([np.empty(0), *steps]).astype(np.float64)
    timed = len(differences) > 0 and (bool((differences > 0).all()) or increases_evenly(differences))
    drop = int(timed)

    def load(group: str) -> Values:
        return matrix(container.read(f"{group}/states"))[:, drop:]

    states = Loader(raw_feature("states", info.width() - drop, info.dtype, "state"), load)
    if not timed:
        return states, None, [], []
    resets = [np.flatnonzero(each < 0).astype(np.int64) for each in steps]
    dt, forward = median_step(differences), differences[differences >= 0]
    low, high = forward.min(), forward.max()
    even = high - low <= _EVEN * dt
    spread = "" if even else f"; time steps vary from {low:.4g} to {high:.4g} s, dt is their median"
    return states, dt, [f"states: column 0 is simulation time and is left out (dt {dt:.4g} s{spread})"], resets


def _loader(container: Container, key: str, info: ArrayInfo, control: bool) -> Loader:
    feature = raw_feature(key, info.width(), info.dtype, "control" if control else "auxiliary")
    return Loader(feature, lambda group: matrix(container.read(f"{group}/{key}")), key)
