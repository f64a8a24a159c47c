"""Checkpoints of one member: safetensors, JSON and Parquet, nothing that is ever unpickled.

    members/<id>/checkpoints/step-00000500/
        members.safetensors   arena, the optimizer's moments, the best weights so far (each (1, P)), step (1,)
        state.json            the layout of a row and the few counters that keyed streams need
        curves.parquet        the member's curve up to here
        MANIFEST.json         sizes and sha256 of the others, written last

A directory without a whole manifest is not a checkpoint. Two are kept; the newest whole one is used. They are written
per member, since a member does not depend on its pack: a resumed pack may be composed differently.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from ensemble.errors import StorageError
from ensemble.store import sha256_file, write_bytes, write_json, write_table
from ensemble.training.arena import Slot

_KEPT = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a member needs to continue to the bit."""

    tensors: dict[str, Tensor]  # each (1, P), and step (1,)
    state: dict[str, Any]
    curves: pa.Table


def layout_json(layout: tuple[Slot, ...]) -> list[list[Any]]:
    """Describe a row for state.json."""
    return [[slot.name, slot.offset, list(slot.shape)] for slot in layout]


def save(directory: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint under `directory`, whole or not at all, and keep the newest two.

    Raises:
        StorageError: the disk is full or not writable; the older checkpoints stay.
    """
    target = directory / f"step-{step:08d}"
    partial = directory / f"step-{step:08d}.partial"
    for leftover in (partial, target):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    contiguous = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    write_bytes(partial / "members.safetensors", serialize(contiguous))
    write_json(partial / "state.json", checkpoint.state)
    write_table(partial / "curves.parquet", checkpoint.curves)
    files = sorted(partial.iterdir())
    manifest = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in files}
    write_json(partial / "MANIFEST.json", manifest)
    partial.rename(target)
    for old in _listed(directory)[_KEPT:]:
        shutil.rmtree(old)
    return target


def is_whole(directory: Path, step: int) -> bool:
    """Say whether the checkpoint of a step is there."""
    return (directory / f"step-{step:08d}" / "MANIFEST.json").is_file()


def load_newest(directory: Path, layout: tuple[Slot, ...], device: torch.device | str = "cpu") -> Checkpoint | None:
    """Read the newest whole checkpoint under `directory`, or None; a damaged one is passed over with a warning.

    Raises:
        StorageError: a whole checkpoint holds other parameters than `layout`.
    """
    for path in _listed(directory):
        fault = _fault(path)
        if fault is None:
            return _load(path, layout, device)
        _log.warning("checkpoint %s is damaged (%s); trying the one before", path, fault)
    return None


def _listed(directory: Path) -> list[Path]:
    """Return the checkpoints with a manifest, newest first."""
    found = directory.glob("step-????????") if directory.is_dir() else []
    return sorted((path for path in found if (path / "MANIFEST.json").is_file()), reverse=True)


def _fault(path: Path) -> str | None:
    """Say what is wrong with a checkpoint: a file, what was expected and what is there."""
    try:
        manifest: Mapping[str, Mapping[str, Any]] = json.loads((path / "MANIFEST.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return f"MANIFEST.json: {error}"
    for name, expected in manifest.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, expected {expected['bytes']}"
        if (actual := sha256_file(file)) != expected["sha256"]:
            return f"{name} has sha256 {actual}, expected {expected['sha256']}"
    return None


def _load(path: Path, layout: tuple[Slot, ...], device: torch.device | str) -> Checkpoint:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["layout"] != layout_json(layout):
        raise StorageError(f"{path}: holds other parameters than this model; use --overwrite to start again")
    return Checkpoint(
        tensors=load_file(path / "members.safetensors", device=str(device)),
        state=state,
        curves=pq.read_table(path / "curves.parquet"),
    )
