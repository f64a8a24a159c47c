"""Checkpoints of one member: safetensors, JSON and Parquet, nothing that is ever unpickled.

    members/<id>/checkpoints/step-00000500/
        members.safetensors   arena, the optimizer's moments, the best weights so far (each (1, P)), step (1,)
        state.json            the layout of a row and the few counters that keyed streams need
        curves.parquet        the member's curve up to here
        MANIFEST.json         sizes and sha256 of the others, written last

A directory without a whole manifest is not a checkpoint. Two are kept; the newest whole one is used. They are written
per member, since a member does not depend on its pack: a resumed pack may be composed differently.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from ensemble.errors import StorageError
from ensemble.store import read_record, read_table, sha256_file, write_bytes, write_json, write_record, write_table
from ensemble.text import plural
from ensemble.training.arena import Slot

_KEPT = 2
_FILES = ("members.safetensors", "state.json", "curves.parquet")
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
    files = [partial / name for name in sorted(_FILES)]
    manifest = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in files}
    write_record(partial / "MANIFEST.json", manifest)
    partial.rename(target)
    # A later one is damaged, since the member went on from an earlier one: it must not count as one of the two.
    kept = [path for path in _listed(directory) if path.name <= target.name]
    for other in {*_listed(directory)} - {*kept[:_KEPT]}:
        shutil.rmtree(other)
    return target


def is_whole(directory: Path, step: int) -> bool:
    """Say whether the checkpoint of a step is there and undamaged."""
    path = directory / f"step-{step:08d}"
    return (path / "MANIFEST.json").is_file() and _fault(path) is None


def load_newest(directory: Path, layout: tuple[Slot, ...], device: torch.device | str = "cpu") -> Checkpoint | None:
    """Read the newest whole checkpoint under `directory`, or None; a damaged one is passed over with a warning.

    Raises:
        StorageError: a whole checkpoint holds other parameters than `layout`.
    """
    path = _newest_whole(directory)
    return None if path is None else _load(path, layout, device)


def load_progress(directory: Path) -> tuple[dict[str, Any], pa.Table] | None:
    """Read the state and the curve of the newest whole checkpoint, whatever its layout; None where there is none."""
    path = _newest_whole(directory)
    return None if path is None else (_state(path), read_table(path / "curves.parquet"))


def damage(directory: Path) -> list[str]:
    """Return what is wrong with each checkpoint that is newer than the newest whole one, a text each."""
    faults = []
    for path in _listed(directory):
        fault = _fault(path)
        if fault is None:
            break
        faults.append(f"{path}: {fault}")
    return faults


def lost_notice(directory: Path) -> str:
    """Return what a row says of a member whose every checkpoint is damaged; empty for others."""
    count = len(_listed(directory))
    lost = count > 0 and len(damage(directory)) == count
    return f"trained again from step 0: its {plural(count, 'checkpoint')} were damaged" if lost else ""


def _newest_whole(directory: Path) -> Path | None:
    for path in _listed(directory):
        fault = _fault(path)
        if fault is None:
            return path
        _log.warning("checkpoint %s is damaged (%s); trying the one before", path, fault)
    return None


def _listed(directory: Path) -> list[Path]:
    """Return the checkpoints with a manifest, newest first."""
    found = directory.glob("step-????????") if directory.is_dir() else []
    return sorted((path for path in found if (path / "MANIFEST.json").is_file()), reverse=True)


def _fault(path: Path) -> str | None:
    """Say what is wrong with a checkpoint: a file, what was expected and what is there."""
    try:
        manifest = read_record(path / "MANIFEST.json")
    except StorageError as error:
        return str(error).removeprefix(f"{path}/")
    for name in _FILES:
        expected, file = manifest.get(name), path / name
        if not isinstance(expected, dict) or not {"bytes", "sha256"} <= set(expected):
            return f"MANIFEST.json does not list {name}"
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size} bytes, expected {expected['bytes']}"
        if (actual := sha256_file(file)) != expected["sha256"]:
            return f"{name} has sha256 {actual}, expected {expected['sha256']}"
    return None


def _state(path: Path) -> dict[str, Any]:
    """Read the counters of a whole checkpoint; StorageError where they are of another shape."""
    state = read_record(path / "state.json", {"layout": list, "member": dict})
    lacking = [key for key in ("layout", "member", "config_hash", "data_fingerprint") if key not in state]
    if lacking:
        raise StorageError(f"{path / 'state.json'}: damaged: no '{lacking[0]}'")
    return state


def _load(path: Path, layout: tuple[Slot, ...], device: torch.device | str) -> Checkpoint:
    state = _state(path)
    if state["layout"] != layout_json(layout):
        raise StorageError(f"{path}: holds other parameters than this model; use --overwrite to start again")
    return Checkpoint(
        tensors=load_file(path / "members.safetensors", device=str(device)),
        state=state,
        curves=read_table(path / "curves.parquet"),
    )
