"""robomimic, MimicGen and LIBERO: a group per demonstration, `actions` and `obs/<key>` in each.

Source: robomimic docs/datasets/overview.md, LIBERO scripts/create_dataset.py. Where `next_obs` is stored its last row
is the episode's last point; without it the last observation has no successor. Without `obs` the simulator's `states`
are used. Images are left out.
"""

import json
from collections.abc import Sequence

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import ArrayInfo, Container, Values, missing_key
from ensemble.data.layouts.grouped import Loader, grouped_recording, lengths_text, matrix, survey
from ensemble.data.layouts.recording import Recording, check_declared, natural_order, raw_feature, same_rows
from ensemble.data.layouts.robosuite import states_without_time
from ensemble.errors import DataError
from ensemble.schema import Int64

TITLE = "robomimic"
GROUP = "data"
_MASKS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}
_LOWEST_IMAGE_RANK = 3  # (N, H, W) and more


def wanted(container: Container) -> dict[str, bool]:
    """Return what this layout needs and whether it is there."""
    demos = demonstrations(container)
    first = demos[0] if demos else f"{GROUP}/demo_0"
    observed = container.has(f"{first}/obs") or container.has(f"{first}/states")
    return {first: bool(demos), f"{first}/actions": container.has(f"{first}/actions"), f"{first}/obs": observed}


def demonstrations(container: Container) -> list[str]:
    """Return the groups of the demonstrations in natural order."""
    names = natural_order(container.names(GROUP))
    return [f"{GROUP}/{name}" for name in names if not container.is_array(f"{GROUP}/{name}")]


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Understand a file of this layout; DataError where it contradicts itself."""
    demos = demonstrations(container)
    if not demos:
        raise DataError(f"{container.path}: holds 0 episodes: no group in '{GROUP}'")
    observed, notices = _observed(container, demos[0])
    followed = all(container.has(f"{demos[0]}/next_{key}") for key in observed) and observed != ["states"]
    following = [f"next_{key}" for key in observed] if followed else []
    infos = survey(container, "robomimic", demos, [*observed, "actions", *following])
    steps = _steps(container, demos, infos)
    _check_counts(container, demos, steps)
    dt = _control_period(container)
    if observed == ["states"]:
        states, time, said = states_without_time(container, demos, infos["states"][0])
        loaders, dt, notices = [states], dt or time, [*notices, *said]
    else:
        loaders = [_observation(container, key, infos[key][0], followed) for key in observed]
    loaders.append(_actions(container, infos["actions"][0], followed))
    points = steps + followed
    summary = f"{TITLE}: {len(demos)} demonstrations of {lengths_text(points)}"
    names = [demo.removeprefix(f"{GROUP}/") for demo in demos]
    given = _given(container, names)
    return grouped_recording(container, "robomimic", summary, demos, names, points, loaders, given, dt, notices)


def _observed(container: Container, demo: str) -> tuple[list[str], list[str]]:
    """Return the observation keys that are vectors, and what to say of the others."""
    keys = [f"obs/{name}" for name in container.names(f"{demo}/obs") if container.is_array(f"{demo}/obs/{name}")]
    if not keys:
        if not container.has(f"{demo}/states"):
            raise missing_key(container, f"{demo}/obs", "robomimic", demo)
        return ["states"], []
    images = [key for key in keys if len(container.array(f"{demo}/{key}").shape) >= _LOWEST_IMAGE_RANK]
    vectors = [key for key in keys if key not in images]
    if not vectors:
        raise DataError(f"{container.path}: {demo}/obs holds only images ({', '.join(images)}), which are not read")
    return vectors, [f"images left out: {', '.join(images)}"] if images else []


def _observation(container: Container, key: str, info: ArrayInfo, followed: bool) -> Loader:
    def load(group: str) -> Values:
        values = matrix(container.read(f"{group}/{key}"))
        if not followed:
            return values
        return np.concatenate([values, matrix(container.read(f"{group}/next_{key}", slice(-1, None)))])

    return Loader(raw_feature(key.removeprefix("obs/"), info.width(), info.dtype, "state"), load)


def _actions(container: Container, info: ArrayInfo, followed: bool) -> Loader:
    def load(group: str) -> Values:
        values = matrix(container.read(f"{group}/actions"))
        return np.concatenate([values, values[-1:]]) if followed else values

    return Loader(raw_feature("actions", info.width(), info.dtype, "control", successor=not followed), load)


def _steps(container: Container, demos: Sequence[str], infos: dict[str, list[ArrayInfo]]) -> Int64:
    """Return the rows of each demonstration, which all of its arrays share."""
    steps = [
        same_rows(container, {key: found[i].shape[0] for key, found in infos.items()}, demo)
        for i, demo in enumerate(demos)
    ]
    return np.array(steps, dtype=np.int64)


def _check_counts(container: Container, demos: Sequence[str], steps: Int64) -> None:
    for demo, found in zip(demos, steps, strict=True):
        check_declared(container, f"samples in {demo}", container.attribute(demo, "num_samples"), int(found))
    check_declared(container, "samples", container.attribute(GROUP, "total"), int(steps.sum()))


def _control_period(container: Container) -> float | None:
    """Return 1 / control_freq of the environment's arguments, where they say so."""
    text = container.attribute(GROUP, "env_args")
    try:
        arguments = json.loads(text) if isinstance(text, str) else {}
    except json.JSONDecodeError:
        return None
    settings = arguments.get("env_kwargs") if isinstance(arguments, dict) else None
    frequency = settings.get("control_freq") if isinstance(settings, dict) else None
    return 1.0 / frequency if isinstance(frequency, int | float) and frequency > 0 else None


def _given(container: Container, names: Sequence[str]) -> list[str | None]:
    """Return the split that `mask/train` and its like give each demonstration."""
    split: dict[str, str] = {}
    for mask in container.names("mask"):
        if mask in _MASKS:
            split.update(dict.fromkeys(container.text(f"mask/{mask}"), _MASKS[mask]))
    return [split.get(name) for name in names]
