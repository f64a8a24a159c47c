"""The content of a file before any conversion: layout, episodes, features, ranges, and a first experiment file.

Values are read as they are in the file, in one pass over blocks. Bad values are counted, not refused.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from ensemble.config.data import DataConfig
from ensemble.config.experiment import Experiment
from ensemble.data.blocks import READ_ROWS, plan_blocks, read_usable
from ensemble.data.jumps import Jump, cut_at_jumps, jump_notices, jumps_in
from ensemble.data.layouts import pairs
from ensemble.data.layouts.container import Values
from ensemble.data.layouts.detect import Match, detect, open_container, open_recording, without_arrays
from ensemble.data.layouts.folder import expanded, source_bytes
from ensemble.data.layouts.recording import RawFeature, Recording, safe_name
from ensemble.data.layouts.refused import Refused, listing, share_text
from ensemble.data.manifest import Manifest
from ensemble.data.survey import Proposal, Survey, survey, table
from ensemble.data.trajectories import read_episodes
from ensemble.errors import DataError
from ensemble.schema import Int64
from ensemble.store import write_text
from ensemble.text import byte_size, command, plural

_LISTED_CONSTANTS = 12
_LONGEST_NAME = 100  # of an experiment
_HEAD = ("feature", "width", "type", "role", "angles", "not finite", "constant", "range")
_NOT_READING = {"source", "path", "simulate", "starts", "split", "validation"}  # the other options say how to read


@dataclass
class FeatureView:
    """One feature of the file: ranges of its finite values, and the number of other values."""

    feature: RawFeature
    not_finite: int = 0
    minimum: npt.NDArray[np.float64] = field(init=False)  # (width,)
    maximum: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.minimum = np.full(self.feature.width, np.inf)
        self.maximum = np.full(self.feature.width, -np.inf)

    def add(self, values: Values) -> None:
        """Add rows (n, width)."""
        # Minimum and maximum pass NaN and infinity on, so whole files without them need no pass of isfinite.
        low, high = values.min(axis=0), values.max(axis=0)
        if not np.isfinite(low + high.astype(np.float64)).all():
            finite = np.isfinite(values)
            self.not_finite += int(values.size - finite.sum())
            low = np.where(finite, values, np.inf).min(axis=0)
            high = np.where(finite, values, -np.inf).max(axis=0)
        self.minimum = np.minimum(self.minimum, low)
        self.maximum = np.maximum(self.maximum, high)

    @property
    def constant(self) -> list[str]:
        """Labels of columns that never change."""
        same = np.flatnonzero(self.minimum == self.maximum)
        return [self.feature.labels[i] for i in same]


@dataclass(frozen=True)
class Inspection:
    """The content of a file. `recording` is None when no layout fits; then `survey` and `best` explain it."""

    path: Path
    bytes: int
    data: DataConfig
    recording: Recording | None
    features: tuple[FeatureView, ...]
    survey: Survey | None
    best: Match
    refused: tuple[Refused, ...] = ()  # episodes that cannot be used
    files: int = 1  # of a folder, of which the first is described

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        head = f"{self.path}: {byte_size(self.bytes)}"
        if self.files > 1:
            head += f" in {self.files} files, of which this is the first"
        if self.recording is None:
            assert self.survey is not None
            best = f"{self.best.layout.name} is nearest and also needs {', '.join(self.best.missing)}"
            return [
                head,
                f"of no known layout{f' ({best})' if self.best.present else ''}",
                *self.survey.lines(),
                "map its arrays to features: --map state=ARRAY --map control=ARRAY (or data.map and data.roles)",
            ]

        # Layout, episodes and time step
        recording, points = self.recording, self.recording.points
        lines = [
            head,
            f"looks like {recording.summary}",
            _lengths(points),
            _size(recording),
            *_splits(recording.given, recording.masks),
        ]
        lines.append(f"time step {recording.dt:g} s" if recording.dt else "time step unknown (data.dt gives it)")

        # Features
        lines += table([_HEAD, *(_row(view) for view in self.features)])
        lines += [f"note: {notice}" for notice in recording.notices]

        # Episodes that cannot be used, constant columns and bad values
        if self.refused:
            share = share_text(self.refused, len(points) + len(recording.refused))
            lines.append(f"{share}; drop_bad_episodes leaves them out:")
            lines += listing(self.path, self.refused)
        constant = [label for view in self.features for label in view.constant]
        if constant:
            more = f" and {len(constant) - _LISTED_CONSTANTS} more" if len(constant) > _LISTED_CONSTANTS else ""
            lines.append(f"constant: {', '.join(constant[:_LISTED_CONSTANTS])}{more}")
        bad = sum(view.not_finite for view in self.features)
        if bad:
            lines.append(f"{bad} values are NaN or infinite; drop_bad_episodes leaves out the episodes that have them")
        return lines

    @property
    def proposal(self) -> Proposal | None:
        """A map that may read a file of no known layout."""
        return None if self.survey is None else self.survey.proposal()


def inspect_file(path: Path, data: DataConfig | None = None) -> Inspection:
    """Read a file once and return its content; DataError when it cannot be opened or is inconsistent."""
    data = data or DataConfig(path=str(path))
    sources = expanded([path])
    container = open_container(sources[0], data.follow_links)
    size = sum(source_bytes(source) for source in sources)
    try:
        best = detect(container)[0]
        if data.layout == "auto" and not data.map and best.missing:
            found = survey(container)
            if found.empty:
                raise without_arrays(container, found.unread, found.reasons)
            return Inspection(path, size, data, None, (), found, best, files=len(sources))
        recording = open_recording(container, data)
        views = tuple(FeatureView(feature) for feature in recording.features)
        if data.cut_at_jumps:
            recording = cut_at_jumps(recording, list(plan_blocks(recording.points, READ_ROWS)))
        refused, jumps = list(recording.refused), list[Jump]()
        for first, last in plan_blocks(recording.points, READ_ROWS):
            numbers, values, unreadable = read_usable(recording, first, last)
            refused += unreadable
            keys = [recording.keys[i] for i in numbers]
            jumps += jumps_in(recording.features, values, recording.points[numbers], keys)
            for view in views:
                if len(values[view.feature.name]):
                    view.add(values[view.feature.name])
        recording = replace(recording, notices=(*recording.notices, *jump_notices(jumps)))
        return Inspection(path, size, data, recording, views, None, best, tuple(refused), len(sources))
    finally:
        container.close()


def describe_data_set(directory: Path, manifest: Manifest) -> list[str]:
    """Return what a converted data set holds, as lines of text: episodes, splits and features, as `Inspection` does."""
    episodes = read_episodes(directory)
    points = episodes["points"].to_numpy().astype(np.int64)
    rows = []
    for feature in manifest.features:
        known = manifest.statistics[feature.name]
        low, high = np.array(known.min), np.array(known.max)
        same = int((low == high).sum())
        row = (feature.name, str(feature.width), feature.source_dtype, feature.role, _count(sum(feature.angles)))
        rows.append((*row, str(same), f"{low.min(initial=np.inf):.4g} .. {high.max(initial=-np.inf):.4g}"))
    head = tuple(name for name in _HEAD if name != "not finite")
    return [_lengths(points), *_splits(episodes["split"].to_pylist()), *table([head, *rows])]


def write_experiment(inspection: Inspection, path: Path) -> None:
    """Write an experiment file that trains a small model on the inspected file.

    Raises DataError when the layout is unknown, or without a state to predict.
    """
    recording = inspection.recording
    if recording is None:
        raise DataError(f"{inspection.path}: of no known layout, so no experiment can be proposed; map it first")
    if not any(feature.role == "state" for feature in recording.features):
        raise DataError(f"{inspection.path}: no feature has the role state; data.roles gives roles")
    tree = {"experiment": _name(path), **_experiment(inspection, recording)}
    # Validated before it is written: a proposed file must be accepted by `ensemble train`.
    Experiment.model_validate(tree)
    opening = (
        f"# Question: how well does a small model predict {inspection.path.name}?\n"
        f"# {recording.summary}\n"
        f"# Command: {command('ensemble', 'train', '--config', path.name)}\n"
        "# Cost: a few minutes on a laptop\n\n"
    )
    write_text(path, opening + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def _name(path: Path) -> str:
    return safe_name(path.stem).lstrip("_-.")[:_LONGEST_NAME] or "experiment"


def _experiment(inspection: Inspection, recording: Recording) -> dict[str, Any]:
    longest = int(recording.points.max()) // inspection.data.decimate
    # At most a quarter of the longest episode: a window is a history and a rollout of as many steps.
    history = max(1, min(10, longest // 4))
    data = {"path": str(inspection.path.absolute()), **_data_options(inspection.data, recording)}
    groups = [name for name in ("train", "validation", "test") if name in recording.given]
    if "train" in groups and len(groups) > 1:
        data["split"] = {name: [name] for name in groups}
    # Pairs have no states after the first point: only a policy, with windows from the first point, can learn from them.
    if recording.layout == pairs.NAME:
        return {
            "data": {**data, "starts": [0]},
            "model": {"family": "pi0", "chunk": longest - 1, "dropout": 0.0},
            "train": {"steps": 1000, "batch_size": 128, "schedule": {"name": "cosine", "warmup_steps": 50}},
            "ensemble": {"seeds": 3},
        }
    return {
        "data": data,
        "model": {"history": history, "block_size": max(16, history), "n_layer": 2, "n_head": 4, "n_embd": 64},
        "train": {"steps": 1000, "batch_size": 64, "rollout": {"horizon": history}},
        "ensemble": {"seeds": 3},
    }


def _data_options(data: DataConfig, recording: Recording) -> dict[str, Any]:
    """Return the options of the reading, with all roles and angles written out for editing."""
    given = data.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_READING)
    given["layout"] = recording.layout
    given["roles"] = {feature.name: feature.role for feature in recording.features}
    angles = [f"{f.name}[{i}]" for f in recording.features for i in range(f.width) if f.angles[i]]
    if angles:
        given["angles"] = angles
    return given


def _lengths(points: Int64) -> str:
    if not len(points):
        return "0 episodes"
    low, middle, high = int(points.min()), float(np.median(points)), int(points.max())
    size = f"{plural(len(points), 'episode')}, {plural(points.sum(), 'point')}"
    return f"{size}; length min {low}, median {middle:g}, max {high}"


def _size(recording: Recording) -> str:
    return f"{byte_size(float(recording.points.sum()) * recording.width * 4)} as float32"


def _splits(given: Sequence[str | None], masks: Sequence[Sequence[str]] = ()) -> list[str]:
    counts = [f"{name} {given.count(name)}" for name in sorted({name for name in given if name})]
    named = Counter(mask for each in masks for mask in each)
    lines = [f"given splits: {', '.join(counts)}"] if counts else []
    return lines + ([f"masks: {', '.join(f'{name} {count}' for name, count in named.items())}"] if named else [])


def _count(number: int) -> str:
    return str(number) if number else ""


def _row(view: FeatureView) -> tuple[str, ...]:
    feature = view.feature
    low, high = view.minimum.min(initial=np.inf), view.maximum.max(initial=-np.inf)
    return (
        feature.name,
        str(feature.width),
        feature.dtype,
        feature.role,
        _count(sum(feature.angles)),
        str(view.not_finite),
        str(len(view.constant)),
        f"{low:.4g} .. {high:.4g}",
    )
