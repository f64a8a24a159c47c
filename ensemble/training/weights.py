"""A member's finished weights on disk, with all that is needed to use them again.

members/<id>/best.safetensors          best by validation loss: one tensor a parameter, without the member axis
members/<id>/best_rollout.safetensors  best by validation rollout error
members/<id>/model.json                model config, features, normalization, layout, identity
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from ensemble.config import Experiment
from ensemble.config.family import FamilyConfig
from ensemble.config.model import read_model
from ensemble.errors import StorageError, UsageError
from ensemble.models.base import Normalization
from ensemble.run_directory import MemberDirectory, RunDirectory
from ensemble.schema import Feature
from ensemble.store import read_record, write_bytes, write_record
from ensemble.training.arena import Slot
from ensemble.training.checkpoint import layout_json

_RECORD = ("config_hash", "seed", "model", "precision", "features", "normalization")  # keys of a model.json


def weights_sha256(row: Tensor) -> str:
    """Return the sha256 of a member's row (P,) of float32 numbers."""
    return hashlib.sha256(row.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def save_row(path: Path, row: Tensor, layout: tuple[Slot, ...]) -> None:
    """Write a row (P,) as one named tensor a parameter."""
    host = row.detach().cpu()
    tensors = {slot.name: host[slot.offset : slot.offset + slot.size].view(slot.shape).clone() for slot in layout}
    write_bytes(path, serialize(tensors))


def load_row(path: Path, layout: tuple[Slot, ...]) -> Tensor:
    """Read a row (P,) back.

    Raises:
        StorageError: the file is missing, or holds other parameters than `layout`.
    """
    if not path.is_file():
        raise StorageError(f"{path}: no such weights")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path}: damaged: {error}") from error
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {slot.name: slot.shape for slot in layout}
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            raise StorageError(
                f"{path}: {name} is {found.get(name, 'missing')}, the model has {wanted.get(name, 'none')}"
            )
    return torch.cat([tensors[slot.name].reshape(-1) for slot in layout])


def load_best(directory: Path, layout: tuple[Slot, ...]) -> Tensor:
    """Read the row (P,) of a member's best validation, and compare it with the checksum in its model.json.

    Raises:
        StorageError: the weights are missing, of other parameters, or not those that were written.
    """
    path = MemberDirectory(directory).weights
    row = load_row(path, layout)
    expected = load_model_record(directory).get("weights_sha256")
    if expected not in (None, actual := weights_sha256(row)):
        raise StorageError(f"{path}: damaged: its weights have sha256 {actual}, expected {expected}")
    return row


def save_model(
    directory: MemberDirectory,
    experiment: Experiment,
    features: tuple[Feature, ...],
    normalization: Normalization,
    layout: tuple[Slot, ...],
    identity: Mapping[str, Any],
) -> None:
    """Write model.json."""
    statistics = {name: np.asarray(value).tolist() for name, value in vars(normalization).items()}
    record = {
        **identity,
        "model": experiment.model.model_dump(mode="json"),
        "precision": experiment.train.precision,
        "features": [asdict(feature) for feature in features],
        "normalization": statistics,
        "layout": layout_json(layout),
    }
    write_record(directory.model_file, record)


def load_model_record(directory: Path) -> dict[str, Any]:
    """Read model.json, or raise StorageError naming it."""
    path = MemberDirectory(directory).model_file
    if not path.is_file():
        raise StorageError(f"{path}: no such model")
    record = read_record(path, {"model": dict, "features": list, "normalization": dict, "precision": str})
    lacking = [name for name in _RECORD if record.get(name) is None]
    if lacking:
        raise StorageError(f"{path}: damaged: no '{lacking[0]}'")
    return record


def read_config(record: Mapping[str, Any]) -> FamilyConfig:
    """Return the model config of a model.json."""
    with _as_damage(record):
        return read_model(record["model"])


def read_features(record: Mapping[str, Any]) -> tuple[Feature, ...]:
    """Return the features of a model.json."""
    with _as_damage(record):
        return tuple(
            Feature(f["name"], f["width"], f["role"], tuple(f["labels"]), tuple(f["angles"]))
            for f in record["features"]
        )


def read_normalization(record: Mapping[str, Any]) -> Normalization:
    """Return the normalization of a model.json."""
    with _as_damage(record):
        return Normalization(**{name: np.array(v, np.float32) for name, v in record["normalization"].items()})


@contextmanager
def _as_damage(record: Mapping[str, Any]) -> Iterator[None]:
    """Raise StorageError, naming the member, where a model.json holds something else than was written."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        member = f"{record.get('config_hash')}-s{record.get('seed')}"
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise StorageError(f"model.json of {member}: damaged: {reason}") from error


@dataclass(frozen=True)
class InitialWeights:
    """Where `train.init_from` points: a member, or a run with a member for each seed."""

    members: Mapping[int | None, Path]  # by seed; None: for every seed

    @classmethod
    def find(cls, text: str) -> "InitialWeights":
        """Resolve DIR or DIR/members/<id> (DIR/<id> as well).

        Raises:
            UsageError: no trained member there.
        """
        path = Path(text)
        for candidate in (MemberDirectory(path), RunDirectory(path.parent).member(path.name)):
            if candidate.model_file.is_file():
                return cls({None: candidate.path})
        records = {member.path: load_model_record(member.path) for member in RunDirectory(path).trained}
        if not records:
            raise UsageError(f"train.init_from: {text}: no trained member there (a run directory or its members/<id>)")
        hashes = sorted({record["config_hash"] for record in records.values()})
        if len(hashes) > 1:
            raise UsageError(
                f"train.init_from: {text} holds {len(hashes)} configurations ({', '.join(hashes)}); "
                "name one member, members/<id>"
            )
        return cls({record["seed"]: member for member, record in records.items()})

    def of(self, seed: int) -> Path:
        """Return the member directory that `seed` starts from."""
        path = self.members.get(None, self.members.get(seed))
        if path is None:
            seeds = ", ".join(str(s) for s in self.members)
            raise UsageError(f"train.init_from: no member of seed {seed}; it has seeds {seeds}")
        return path


def check_same_question(origin: Path, features: tuple[Feature, ...], model: Mapping[str, Any]) -> None:
    """Raise UsageError unless the member at `origin` is of the same family, features and kind of prediction."""
    record = load_model_record(origin)
    if read_features(record) != features:
        names = ", ".join(f"{feature.name} ({feature.width})" for feature in read_features(record))
        raise UsageError(f"train.init_from: {origin} was trained on other features: {names}")
    for key in ("family", "prediction"):
        if record["model"].get(key) != model.get(key):
            raise UsageError(
                f"train.init_from: {origin} has model.{key} {record['model'].get(key)}, this model {model.get(key)}"
            )
