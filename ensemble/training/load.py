"""A finished run as an object: the ensemble of a configuration, or one member, ready to predict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ensemble.config.model import input_features
from ensemble.errors import StorageError, UsageError
from ensemble.models.base import DynamicsModel, build
from ensemble.open_loop.state import StateLayout
from ensemble.run_directory import MemberDirectory, RunDirectory
from ensemble.schema import VALIDATION_ACTION, VALIDATION_ROLLOUT, Feature, Float32
from ensemble.text import plural
from ensemble.training.arena import Arena
from ensemble.training.weights import load_best, load_model_record, read_config, read_features, read_normalization

_SHOWN_SEEDS = 10

Arrays = Mapping[str, npt.ArrayLike]  # feature: (B, points, width)


class Ensemble:
    """Members of one configuration that predict side by side.

    Attributes:
        seeds: one a member, in the order of the first axis of every prediction.
        features: what the arrays handed in are called, and how wide they are; those that the model does not read may
            be left out.
        state: names of the state entries, in the order of the last axis of every prediction.
    """

    def __init__(self, directories: Mapping[int, Path]) -> None:
        records = [load_model_record(path) for path in directories.values()]
        self.seeds = tuple(directories)
        self.features = read_features(records[0])
        self.config_hash: str = records[0]["config_hash"]
        self._directories = dict(directories)
        self._layout = StateLayout.of(self.features)
        self.state = self._layout.labels
        inputs = input_features(read_config(records[0]), self.features)
        read = {name for names in inputs.values() for name in names}
        self._needed = [f.name for f in self.features if f.name in read or f.role == "state"]
        self._module: DynamicsModel = load_pack(tuple(directories.values()))

    def __repr__(self) -> str:
        return describe_members("Ensemble", self.config_hash, self.seeds, self.features)

    def member(self, seed: int) -> "Ensemble":
        """Return one member as an ensemble of one; UsageError names the seeds there are."""
        if seed not in self._directories:
            raise UsageError(f"no member of seed {seed}; there are {', '.join(map(str, self.seeds))}")
        return Ensemble({seed: self._directories[seed]})

    def predict(self, arrays: Arrays) -> Float32:
        """Predict the state after the last point: (members, B, S).

        Args:
            arrays: every feature by name, each (B, T, width): T points, at most the model's history.
        """
        return self.rollout(arrays, 1)[:, :, 0]

    @torch.no_grad()
    def rollout(self, arrays: Arrays, horizon: int) -> Float32:
        """Predict `horizon` states open loop, each from the predicted ones before: (members, B, horizon, S).

        Args:
            arrays: every feature by name: states (B, T, width) for the T points seen, the others (controls and the
                like) (B, at least T + horizon - 1, width), since they are known ahead.
            horizon: steps to predict.

        Raises:
            UsageError: a feature is missing, too short or of another width.
        """
        points, seen = self._points(arrays, horizon)
        packed = points.expand(len(self.seeds), *points.shape).contiguous()
        return self._module.rollout(packed[:, :, :seen], packed, horizon).numpy()

    def _points(self, arrays: Arrays, horizon: int) -> tuple[Tensor, int]:
        """Lay the features side by side: (B, T + horizon, D), and T."""
        batch = len(np.asarray(next(iter(arrays.values()))))
        values = {feature.name: self._array(arrays, feature, batch) for feature in self.features}
        seen = min(values[feature.name].shape[1] for feature in self.features if feature.role == "state")
        length = seen + horizon
        columns = []
        for feature in self.features:
            needed = seen if feature.role == "state" else length - 1
            value = values[feature.name][:, :length]
            if value.shape[1] < needed and feature.name in self._needed:
                raise UsageError(f"{feature.name} has {value.shape[1]} points, {needed} are needed")
            columns.append(np.pad(value, ((0, 0), (0, length - value.shape[1]), (0, 0))))
        return torch.from_numpy(np.concatenate(columns, axis=2)), seen

    def _array(self, arrays: Arrays, feature: Feature, batch: int) -> Float32:
        if feature.name not in arrays and feature.name not in self._needed:
            return np.zeros((batch, 0, feature.width), np.float32)
        if feature.name not in arrays:
            raise UsageError(f"no feature '{feature.name}' given; needed: {', '.join(self._needed)}")
        value = np.asarray(arrays[feature.name], dtype=np.float32)
        if value.ndim != 3 or value.shape[2] != feature.width:
            raise UsageError(f"{feature.name} has shape {value.shape}, not (batch, points, {feature.width})")
        return value


def describe_members(kind: str, config_hash: str, seeds: Sequence[int], features: Sequence[Feature]) -> str:
    """Return what an object shows of itself: `<Ensemble 4f0a..: 3 members (seeds 0, 1, 2) of states (4)>`."""
    shown = ", ".join(map(str, seeds[:_SHOWN_SEEDS])) + (", .." if len(seeds) > _SHOWN_SEEDS else "")
    columns = ", ".join(f"{feature.name} ({feature.width})" for feature in features)
    count = plural(len(seeds), "member")
    return f"<{kind} {config_hash}: {count} (seed{'s' if len(seeds) > 1 else ''} {shown}) of {columns}>"


def load_pack(members: Sequence[Path], device: str = "cpu") -> Any:
    """Build the module of a pack and fill it with the best weights of members of one configuration."""
    record = load_model_record(members[0])
    features, normalization = read_features(record), read_normalization(record)
    module = build(read_config(record), features, len(members), normalization, precision=record["precision"])
    arena = Arena(module, device)
    for row, directory in zip(arena.values.data, members, strict=True):
        row.copy_(load_best(directory, arena.layout))
    return module.eval()


def load(path: str | Path, config_hash: str | None = None) -> Ensemble:
    """Load a run's ensemble of dynamics models: the completed members of one configuration.

    Args:
        path: a run directory, or one member's (`results/<experiment>/members/<id>`).
        config_hash: which configuration; by default the one with the best mean validation rollout error.

    Raises:
        UsageError: no such configuration, or it is a policy's (see `load_policy`).
        StorageError: no finished member there.
    """
    members = find_members(path, config_hash)
    config = read_config(load_model_record(next(iter(members.values()))))
    if config.task == "policy":
        raise UsageError(f"{path}: {config.family} is a policy: load it with ensemble.load_policy")
    return Ensemble(members)


def find_members(path: str | Path, config_hash: str | None = None) -> dict[int, Path]:
    """Return the directories of the completed members of one configuration by seed; see `load`."""
    path = Path(path)
    if MemberDirectory(path).model_file.is_file():
        return {load_model_record(path)["seed"]: path}
    run = RunDirectory(path)
    if not run.members_file.is_file():
        raise StorageError(f"{path}: no finished run there (no {run.members_file.name})")
    by_hash: dict[str, list[dict[str, Any]]] = {}
    for row in run.collected(run.members_file).to_pylist():
        by_hash.setdefault(row["config_hash"], []).append(row)
    by_hash = {name: rows for name, rows in by_hash.items() if any(row["status"] == "completed" for row in rows)}
    if not by_hash:
        raise StorageError(f"{path}: no member finished")
    chosen = config_hash or min(by_hash, key=lambda name: _score(by_hash[name]))
    if chosen not in by_hash:
        raise UsageError(f"no configuration {chosen} in {path}; there are {', '.join(by_hash)}")
    completed = [row for row in by_hash[chosen] if row["status"] == "completed"]
    members = sorted(completed, key=lambda row: int(row["seed"]))
    return {row["seed"]: run.member(f"{chosen}-s{row['seed']}").path for row in members}


def _score(rows: list[dict[str, Any]]) -> tuple[bool, bool, float]:
    """Return what configurations are ranked by: whole first, then the mean validation error; never a test number."""
    metric = VALIDATION_ROLLOUT if VALIDATION_ROLLOUT in rows[0] else VALIDATION_ACTION
    values = [row.get(metric) for row in rows if row["status"] == "completed"]
    mean = float(np.mean([np.nan if value is None else value for value in values]))  # imported members have none
    return any(row["status"] != "completed" for row in rows), not np.isfinite(mean), mean
