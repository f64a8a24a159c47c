"""robomimic, MimicGen, LIBERO and Isaac Lab: a group per demonstration, with `actions` and `obs/<key>`.

Source: robomimic docs/datasets/overview.md, LIBERO scripts/create_dataset.py, Isaac Lab's recorder. The last row of
`next_obs` is the episode's last point; without `next_obs` the last observation has no successor. Without `obs` the
simulator's `states` are used, groups inside them included. Images are left out.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import ArrayInfo, Container, Values, missing_key
from ensemble.data.layouts.described import KEY, Described, redescribed
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
from ensemble.data.layouts.recording import Recording, check_declared, period, raw_feature
from ensemble.data.layouts.refused import TWO_SPLITS, Refused, refusal
from ensemble.data.layouts.robosuite import divided_at, states_without_time
from ensemble.data.layouts.vectors import Vectors, vectors_in
from ensemble.errors import DataError
from ensemble.schema import Int64
from ensemble.text import parse_json, plural

TITLE = "robomimic"
GROUP = "data"
_COUNT = "num_samples"
_MASKS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}


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
    observed = _observed(container, typical)
    notices = observed.notices
    if not observed.keys[0].startswith("obs/"):
        notices.append("no obs in the file: the simulator's states are the state")
    following, more = _following(container, typical, observed.keys)
    notices += more + _occasional(container, demos, observed.keys)
    usable = usable_groups(container, demos, [*observed.keys, "actions", *following], declared=_COUNT)
    notices += _check_total(container, usable)
    masks = _masks(container)
    notices += masks.notices(demos)
    overlapping = masks.overlapping(usable.names)
    if len(overlapping) == len(usable.names):
        raise refusal(container.path, overlapping, len(overlapping))
    usable = without(usable, overlapping)
    infos = usable.arrays

    # Features
    dt, followed, resets = _control_period(container), bool(following), list[Int64]()
    if observed.keys == ["states"]:
        states, time, more, resets = states_without_time(container, usable.names, infos["states"][0])
        loaders, dt, notices = [states], dt or time, [*notices, *more]
    else:
        loaders = [_observation(container, key, infos[key][0], followed) for key in observed.keys]
        loaders, more = _previous_actions_marked(container, usable.names[0], loaders)
        notices = [*notices, *more]
    loaders.append(_actions(container, infos["actions"][0], followed))
    loaders.sort(key=lambda loader: loader.feature.role == "auxiliary")

    # Description
    points = usable.rows + followed
    summary = f"{TITLE}: {len(usable.names)} demonstrations of {lengths_text(points)}"
    names = [_name(demo) for demo in usable.names]
    given, others = [masks.split(name) for name in names], [masks.others(name) for name in names]
    recording = grouped_recording(
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
    return redescribed(divided_at(recording, resets), Described.read(_parsed(container.attribute(GROUP, KEY), [])))


def _observed(container: Container, demo: str) -> Vectors:
    """Return the vectors in `obs`, or in `states` where a file has no observations."""
    group = "obs" if container.names(f"{demo}/obs") else "states"
    if not container.has(f"{demo}/{group}"):
        raise missing_key(container, f"{demo}/obs", "robomimic", demo)
    observed = vectors_in(container, demo, [group])
    if not observed.keys:
        raise DataError(f"{container.path}: {demo}/{group} holds no vectors, which alone are read: {observed.reasons}")
    return observed


def _following(container: Container, demo: str, observed: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the keys of the next observations, none unless all are there, and a notice where only some are."""
    keys = [f"next_{key}" for key in observed if key.startswith("obs/")]
    lacking = [key.removeprefix("next_") for key in keys if not container.has(f"{demo}/{key}")]
    if not lacking:
        return keys, []
    if len(lacking) == len(keys):
        return [], []
    return [], [f"next_obs is not used, since it lacks {', '.join(lacking)}: episodes end at their last row"]


def _previous_actions_marked(
    container: Container, demo: str, loaders: Sequence[Loader]
) -> tuple[list[Loader], list[str]]:
    """Return the observations with `obs/actions` as auxiliary where it holds the action of the point before.

    Isaac Lab records it so: it is no state, since the control of a point says what it is at the next one.
    """
    key, at = "obs/actions", [loader.key for loader in loaders]
    if key not in at:
        return list(loaders), []
    before, actions = matrix(container.read(f"{demo}/{key}")), matrix(container.read(f"{demo}/actions"))
    if before.shape[1] != actions.shape[1] or not np.array_equal(before[1 : len(actions)], actions[: len(before) - 1]):
        return list(loaders), []
    marked = list(loaders)
    number = at.index(key)
    marked[number] = replace(marked[number], feature=replace(marked[number].feature, role="auxiliary"))
    return marked, [f"{key} repeats the action of the point before: auxiliary, no state"]


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

    name = key.removeprefix("obs/").removeprefix("states/")
    return Loader(raw_feature(name, info.width(), info.dtype, "state"), load, key)


def _actions(container: Container, info: ArrayInfo, followed: bool) -> Loader:
    def load(group: str) -> Values:
        values = matrix(container.read(f"{group}/actions"))
        return np.concatenate([values, values[-1:]]) if followed else values

    return Loader(raw_feature("actions", info.width(), info.dtype, "control", successor=not followed), load, "actions")


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
    arguments = _parsed(container.attribute(GROUP, "env_args"), {})
    settings = arguments.get("env_kwargs") if isinstance(arguments, dict) else None
    return period(settings.get("control_freq")) if isinstance(settings, dict) else None


def _parsed(text: object, default: Any) -> Any:
    """Return the JSON of an attribute, or the default where there is none."""
    try:
        return parse_json(text) if isinstance(text, str) else default
    except json.JSONDecodeError:
        return default


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
