"""The row of `members.parquet` that a member leaves, and its curve: written once, when it has ended."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch

from ensemble.config import Experiment, flatten
from ensemble.errors import StorageError
from ensemble.run_directory import MemberDirectory
from ensemble.schema import MEMBER_COLUMNS, MemberRole, Status
from ensemble.store import write_table
from ensemble.training.members import Curve, Member
from ensemble.versions import git_commit, versions


def member_row(
    experiment: Experiment,
    config_hash: str,
    role: MemberRole,
    member: Member,
    status: Status,
    facts: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    """Return a member's row: the fixed columns, the metrics, and every hyperparameter by its dotted name."""
    samples = member.step * experiment.train.batch_size
    config = experiment.model_dump(mode="json", include={"data", "model", "train"})
    return {
        "experiment": experiment.experiment,
        "config_hash": config_hash,
        "config": json.dumps(config, sort_keys=True),
        "seed": member.seed,
        "role": role,
        "status": status,
        "error": member.error,
        "steps": member.step,
        "samples": samples,
        "best_step": member.best_loss.step,
        "seconds": member.seconds,
        "samples_per_second": samples / member.seconds if member.seconds else 0.0,
        "threads": torch.get_num_threads(),
        "versions": json.dumps(versions(), sort_keys=True),
        "git_commit": git_commit(),
        **({"notice": member.notice} if member.notice else {}),
        **facts,
        **metrics,
        **_hyperparameters(config),
    }


def _hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: value for name, value in config["data"].items() if name in ("decimate", "split")}
    return flatten({"data": data, "model": config["model"], "train": config["train"]})


def write_member(directory: MemberDirectory, row: Mapping[str, Any], curve: Curve) -> None:
    """Write the curve, then the row: a member with a row has finished."""
    write_table(directory.curves_file, curve.table())
    write_table(directory.row_file, row_table(row))


def write_failed_member(directory: MemberDirectory, row: Mapping[str, Any], curve: Curve) -> None:
    """Write the row of a member that failed, with its curve where there is room for both."""
    try:
        write_member(directory, row, curve)
    except StorageError:
        write_table(directory.row_file, row_table(row))


def row_table(row: Mapping[str, Any]) -> pa.Table:
    """Return one row as a table: the fixed columns by their schema, numbers as float64, the rest as text."""
    fixed = {field.name: pa.array([row.get(field.name)], field.type) for field in MEMBER_COLUMNS}
    free = {name: _column(value) for name, value in row.items() if name not in fixed}
    return pa.table({**fixed, **free})


def _column(value: Any) -> pa.Array:
    if value is None or isinstance(value, bool | str):
        return pa.array([value])
    if isinstance(value, int):
        return pa.array([value], pa.int64())
    return pa.array([float(value)], pa.float64())
