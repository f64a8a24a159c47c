"""A builder of run directories with genuine files and invented, deterministic numbers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.schema import CURVE_COLUMNS, MEMBER_COLUMNS

EXPERIMENT = """\
# Does a wider network predict the double pendulum better?
# ensemble train --config search_spaces/wide.yaml
experiment: wide
data:
  source: double_pendulum
  split: {train: 0.8, validation: 0.1, test: 0.1}
train:
  rollout: {horizon: 10}
search:
  metric: validation/rollout_rmse
  mode: min
"""
NARROW, WIDE = "aaaaaaaaaaa0", "bbbbbbbbbbb1"
HORIZON = 10
STEPS = np.arange(20, 2001, 20)
VERSIONS = json.dumps({"torch": "2.13.0", "ensemble": "0.1.0"})


def member(
    config_hash: str, seed: int, *, status: str = "completed", role: str = "ensemble", **values: Any
) -> dict[str, Any]:
    """Return a row of members.parquet; `test/rollout_rmse` follows from the hash and the seed unless given."""
    random = np.random.default_rng([int(config_hash, 16) % 2**32, seed])
    error = float(values.pop("error_level", 0.12) * random.lognormal(0, 0.12))
    ok = status == "completed"
    metrics = {
        "validation/loss": error**2 * 1.1,
        "validation/rollout_rmse": error * 1.02,
        "test/loss": error**2,
        "test/rollout_rmse": error,
        "test/rollout_rmse/q0 [rad]": error * 0.7,
        "last/validation/loss": error**2 * 1.2,
        **{f"test/rollout_rmse@{k}": error * k / HORIZON * random.uniform(0.95, 1.05) for k in range(1, HORIZON + 1)},
    }
    row = {
        "experiment": "wide",
        "config_hash": config_hash,
        "config": "{}",
        "seed": seed,
        "role": role,
        "status": status,
        "error": None if ok else "loss is NaN at step 420",
        "parameters": 2_743_812 + int(config_hash, 16) % 1000,
        "steps": 2000 if ok else 420,
        "samples": 1_024_000,
        "best_step": 1900 if ok else 400,
        "seconds": 61.0 + seed,
        "samples_per_second": 9000.0,
        "device": "cpu",
        "world_size": 1,
        "threads": 1,
        "pack": 3,
        "weights_sha256": f"{seed:064x}",
        "versions": VERSIONS,
        "git_commit": "8ed9e29",
        "data_fingerprint": "f1d2d2f924e9",
    }
    return {**row, **{k: (v if ok else float("nan")) for k, v in metrics.items()}, **values}


def two_configurations() -> list[dict[str, Any]]:
    """Return two configurations with three seeds each; a seed of the second diverged."""
    narrow = [member(NARROW, s, **{"model.n_embd": 192, "train.optimizer.lr": 1e-3}) for s in range(3)]
    settings = {"model.n_embd": 384, "train.optimizer.lr": 1e-3, "error_level": 0.08}
    wide = [member(WIDE, s, **settings) for s in range(2)]
    lost = member(WIDE, 2, status="diverged", **settings)
    return [*narrow, *wide, lost]


def write_members(run: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    extra = [name for name in names if name not in MEMBER_COLUMNS.names]
    columns = {n: pa.array([r.get(n) for r in rows], MEMBER_COLUMNS.field(n).type) for n in MEMBER_COLUMNS.names}
    columns |= {n: pa.array([r.get(n) for r in rows]) for n in extra}
    pq.write_table(pa.table(columns), run / "members.parquet", write_page_checksum=True)


def write_curves(run: Path, rows: list[dict[str, Any]]) -> None:
    lines: list[tuple[Any, ...]] = []
    for row in rows:
        random = np.random.default_rng([int(row["config_hash"], 16) % 2**32, row["seed"], 1])
        end = row["validation/loss"] if row["status"] == "completed" else 0.02
        for i, step in enumerate(STEPS[row["steps"] >= STEPS]):
            loss = end + 0.9 * np.exp(-step / 250)
            lost = row["status"] == "diverged" and step > 300
            noisy = loss * random.lognormal(0, 0.15) * (10.0 ** ((step - 300) / 20) if lost else 1.0)
            lines.append((*_key(row), int(step), "train/loss", float("nan") if step == 420 and lost else noisy))
            if i % 5 == 4:
                lines.append((*_key(row), int(step), "validation/loss", loss * random.lognormal(0.05, 0.05)))
                error = float(np.sqrt(loss) * random.lognormal(0.0, 0.05))
                lines.append((*_key(row), int(step), "validation/rollout_rmse", error))
    names = CURVE_COLUMNS.names
    table = pa.Table.from_pylist([dict(zip(names, line, strict=True)) for line in lines], schema=CURVE_COLUMNS)
    pq.write_table(table, run / "curves.parquet")


def write_rollouts(run: Path, row: dict[str, Any], windows: int = 12) -> None:
    folder = run / "members" / f"{row['config_hash']}-s{row['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([row["seed"], 7])
    steps = np.arange(-9, HORIZON * 4 + 1)
    window, step = (grid.ravel() for grid in np.meshgrid(np.arange(windows), steps, indexing="ij"))
    parts = []
    for i, label in enumerate(("q0 [rad]", "q1 [rad]", "qd0 [rad/s]", "qd1 [rad/s]")):
        true = (1 + 0.3 * i) * np.sin(0.15 * step * (1 + 0.4 * i) + window) + 2.0 * (label == "q0 [rad]") * 0.05 * step
        true = (true + np.pi) % (2 * np.pi) - np.pi if i == 0 else true
        drift = random.normal(0, 0.001 * (1 + np.arange(windows)), windows)[window] * np.maximum(step, 0) ** 1.4
        parts.append((label, true, true + drift))
    columns = {
        "split": pa.array(["test"] * (step.size * 4)),
        "window": pa.array(np.tile(window, 4), pa.int32()),
        "step": pa.array(np.tile(step, 4), pa.int32()),
        "label": pa.array([label for label, *_ in parts for _ in range(step.size)]),
        "true": pa.array(np.concatenate([true for _, true, _ in parts]), pa.float32()),
        "predicted": pa.array(np.concatenate([predicted for *_, predicted in parts]), pa.float32()),
    }
    pq.write_table(pa.table(columns), folder / "rollouts.parquet")


def write_baselines(run: Path, hashes: Iterable[str]) -> None:
    rows = []
    for config_hash in hashes:
        for name, level in (("no change", 0.91), ("linear least squares", 0.162)):
            rows.append({"baseline": name, "config_hash": config_hash, "metric": "test/rollout_rmse", "value": level})
            for k in range(1, HORIZON + 1):
                metric = f"test/rollout_rmse@{k}"
                rows.append({"baseline": name, "config_hash": config_hash, "metric": metric, "value": level * k / 10})
    pq.write_table(pa.Table.from_pylist(rows), run / "baselines.parquet")


def build_run(
    folder: Path, rows: list[dict[str, Any]] | None = None, experiment: str = EXPERIMENT, complete: bool = True
) -> Path:
    """Write a run directory; `complete` adds curves, rollouts and baselines to the members."""
    rows = two_configurations() if rows is None else rows
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(experiment)
    write_members(folder, rows)
    if complete:
        write_curves(folder, rows)
        write_baselines(folder, sorted({row["config_hash"] for row in rows}))
        for row in rows:
            if row["status"] == "completed":
                write_rollouts(folder, row)
    return folder


def _key(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["config_hash"], row["seed"], row["role"]
