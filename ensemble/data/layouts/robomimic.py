"""robomimic, MimicGen and LIBERO: a group per demonstration, with `actions` and `obs/<key>`.

Source: robomimic docs/datasets/overview.md, LIBERO scripts/create_dataset.py. The last row of `next_obs` is the
episode's last point; without `next_obs` the last observation has no successor. Without `obs` the simulator's `states`
are used. Images are left out.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import ArrayInfo, Container, Values, missing_key
from ensemble.data.layouts.grouped import (
    Groups,
    Loader,
    demonstrations,
    grouped_recording,
    lengths_text,
    matrix,
    sample,
    typical_group,
    usable_groups,
    without,
)
from ensemble.data.layouts.recording import Recording, check_declared, raw_feature
from ensemble.data.layouts.refused import TWO_SPLITS, Refused, refusal
from ensemble.data.layouts.robosuite import states_without_time
from ensemble.errors import DataError
from ensemble.text import plural

TITLE = "robomimic"
GROUP = "data"
_COUNT = "num_samples"
_MASKS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}
_LOWEST_IMAGE_RANK = 3  # (N, H, W) and more


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    demos = demonstrations(container, GROUP)
    first = typical_group(container, demos) if demos else f"{GROUP}/demo_0"
    observed = container.has(f"{first}/obs") or container.has(f"{first}/states")
    return {first: bool(demos), f"{first}/actions": container.has(f"{first}/actions"), f"{first}/obs": observed}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent."""
    # Demonstrations and their arrays
    demos = demonstrations(container, GROUP)
    if not demos:
        raise DataError(f"{container.path}: holds 0 episodes: no group in '{GROUP}'")
    typical = typical_group(container, demos)
    observed, notices = _observed(container, typical)
    lacking = [key for key in observed if not container.has(f"{typical}/next_{key}")]
    followed = not lacking and observed != ["states"]
    if len(lacking) not in (0, len(observed)):
        notices.append(f"next_obs is not used, since it lacks {', '.join(lacking)}: episodes end at their last row")
    following = [f"next_{key}" for key in observed] if followed else []
    notices += _occasional(container, demos, observed)
    usable = usable_groups(container, demos, [*observed, "actions", *following], declared=_COUNT)
    notices += _check_total(container, usable)
    masks = _masks(container)
    notices += masks.notices(demos)
    overlapping = masks.overlapping(usable.names)
    if len(overlapping) == len(usable.names):
        raise refusal(container.path, overlapping, len(overlapping))
    usable = without(usable, overlapping)
    infos = usable.arrays

    # Features
    dt = _control_period(container)
    if observed == ["states"]:
        states, time, more = states_without_time(container, usable.names, infos["states"][0])
        loaders, dt, notices = [states], dt or time, [*notices, *more]
    else:
        loaders = [_observation(container, key, infos[key][0], followed) for key in observed]
    loaders.append(_actions(container, infos["actions"][0], followed))

    # Description
    points = usable.rows + followed
    summary = f"{TITLE}: {len(usable.names)} demonstrations of {lengths_text(points)}"
    names = [_name(demo) for demo in usable.names]
    given, others = [masks.split(name) for name in names], [masks.others(name) for name in names]
    return grouped_recording(
        container,
        "robomimic",
        summary,
        usable.names,
        names,
        points,
        loaders,
        given,
        dt,
        notices,
        usable.refused,
        others if any(others) else (),
    )


def _observed(container: Container, demo: str) -> tuple[list[str], list[str]]:
    """Return the observation keys that are vectors, and notices on the others."""
    keys = [f"obs/{name}" for name in container.names(f"{demo}/obs") if container.is_array(f"{demo}/obs/{name}")]
    if not keys:
        if not container.has(f"{demo}/states"):
            raise missing_key(container, f"{demo}/obs", "robomimic", demo)
        return ["states"], ["no obs in the file: the simulator's states are the state"]
    images = [key for key in keys if len(container.array(f"{demo}/{key}").shape) >= _LOWEST_IMAGE_RANK]
    vectors = [key for key in keys if key not in images]
    if not vectors:
        raise DataError(f"{container.path}: {demo}/obs holds only images ({', '.join(images)}), which are not read")
    return vectors, [f"images left out: {', '.join(images)}"] if images else []


def _occasional(container: Container, demos: Sequence[str], observed: Sequence[str]) -> list[str]:
    """Return a notice on observations that are not in the typical demonstration but in others."""
    some = sample(demos)
    names = Counter(name for demo in some for name in container.names(f"{demo}/obs") if f"obs/{name}" not in observed)
    others = {name: count for name, count in names.items() if count < len(some)}
    listed = ", ".join(f"{name} (in {count} of {len(some)} looked at)" for name, count in others.items())
    return [f"observations that most demonstrations lack are left out: {listed}"] if others else []


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


def _check_total(container: Container, usable: Groups) -> list[str]:
    """Compare the file's total with its demonstrations; a notice where each of them has a count of its own.

    Raises DataError for a wrong total that nothing else explains: the writer was stopped.
    """
    total, found = container.attribute(GROUP, "total"), int(usable.rows.sum())
    if not isinstance(total, int) or total == found or usable.refused:
        return []
    if all(container.attribute(demo, _COUNT) is not None for demo in usable.names):
        return [
            f"the file declares {total} samples in all, its {len(usable.names)} demonstrations declare and hold "
            f"{found}: some were deleted or added without correcting the total"
        ]
    check_declared(container, "samples", total, found)
    return []


def _control_period(container: Container) -> float | None:
    """Return 1 / control_freq (s) from the environment's arguments, or None."""
    text = container.attribute(GROUP, "env_args")
    try:
        arguments = json.loads(text) if isinstance(text, str) else {}
    except json.JSONDecodeError:
        return None
    settings = arguments.get("env_kwargs") if isinstance(arguments, dict) else None
    frequency = settings.get("control_freq") if isinstance(settings, dict) else None
    return 1.0 / frequency if isinstance(frequency, int | float) and frequency > 0 else None


@dataclass(frozen=True, slots=True)
class _Masks:
    """The lists of demonstrations in `mask/`, by their names."""

    members: dict[str, frozenset[str]]

    def splits(self, demo: str) -> list[str]:
        """Return the masks of splits (train, valid, test) that a demonstration is in."""
        return [mask for mask, names in self.members.items() if mask in _MASKS and demo in names]

    def split(self, demo: str) -> str | None:
        """Return its split."""
        return next((_MASKS[mask] for mask in self.splits(demo)), None)

    def others(self, demo: str) -> tuple[str, ...]:
        """Return the further masks that it is in."""
        return tuple(mask for mask, names in self.members.items() if mask not in _MASKS and demo in names)

    def overlapping(self, demos: Sequence[str]) -> list[Refused]:
        """Return the demonstrations that are in two splits."""
        refused = []
        for demo in demos:
            masks = self.splits(_name(demo))
            if len({_MASKS[mask] for mask in masks}) > 1:
                text = " and ".join(f"mask/{mask}" for mask in masks)
                refused.append(Refused(demo, TWO_SPLITS, f"is in {text}, which overlap"))
        return refused

    def notices(self, demos: Sequence[str]) -> list[str]:
        """Name the masks that are no splits, and count names that are not in the file."""
        present = {_name(demo) for demo in demos}
        sizes = {mask: len(names & present) for mask, names in self.members.items()}
        others = [f"{mask} ({size})" for mask, size in sizes.items() if mask not in _MASKS]
        lines = [f"masks, for data.split by name: {', '.join(others)}"] if others else []
        absent = {mask: len(names) - sizes[mask] for mask, names in self.members.items()}
        return lines + [
            f"mask/{mask} names {plural(count, 'demonstration')} that the file does not hold"
            for mask, count in absent.items()
            if count
        ]


def _masks(container: Container) -> _Masks:
    names = [mask for mask in container.names("mask") if container.is_array(f"mask/{mask}")]
    return _Masks({mask: frozenset(container.text(f"mask/{mask}")) for mask in names})


def _name(demo: str) -> str:
    return demo.removeprefix(f"{GROUP}/")
