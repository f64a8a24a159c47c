"""A builder of run directories with genuine files and invented, deterministic numbers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.schema import CURVE_COLUMNS, IMPORTANCE_COLUMNS, MEMBER_COLUMNS, RUNG_COLUMNS, TRIAL_COLUMNS

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


SEARCH = """\
# Which optimizer, width and batch predict the double pendulum best?
# ensemble tune --space search_spaces/search.yaml
experiment: searched
data: {source: double_pendulum}
model:
  n_layer: 1
  n_head: 2
  n_embd: {choice: [32, 64, 128]}
  dropout: {uniform: [0.0, 0.3]}
train:
  steps: 2000
  validate_every: 200
  batch_size: {int: [64, 256], step: 64}
  optimizer:
    choice:
    - {name: adamw, lr: {log_uniform: [1.0e-4, 1.0e-2]}, weight_decay: {log_uniform: [1.0e-6, 1.0e-1]}}
    - {name: sgd, lr: {log_uniform: [1.0e-3, 1.0]}, momentum: {choice: [0.0, 0.9]}}
  rollout: {horizon: 10}
search:
  sampler: tpe
  trials: 24
  seeds: 3
  metric: validation/rollout_rmse
  mode: min
ensemble: {seeds: 10, finalists: 3}
"""
RUNGS = (200, 600, 2000)


def suggested(number: int) -> dict[str, Any]:
    """Return the parameters of a trial, by name as suggested; those of the other optimizer are absent."""
    random = np.random.default_rng([number, 11])
    found: dict[str, Any] = {
        "model.n_embd": int(random.choice([32, 64, 128])),
        "model.dropout": float(random.uniform(0, 0.3)),
        "train.batch_size": int(random.choice([64, 128, 192, 256])),
        "train.optimizer": "sgd" if random.random() < 0.3 else "adamw",
    }
    if found["train.optimizer"] == "sgd":
        found["train.optimizer[sgd].lr"] = float(10 ** random.uniform(-3, 0))
        found["train.optimizer[sgd].momentum"] = float(random.choice([0.0, 0.9]))
    else:
        found["train.optimizer[adamw].lr"] = float(10 ** random.uniform(-4, -2))
        found["train.optimizer[adamw].weight_decay"] = float(10 ** random.uniform(-6, -1))
    return found


def quality(parameters: dict[str, Any]) -> float:
    """Return the error that a configuration tends to: adamw near 1e-3, wide and with little dropout is best."""
    sgd = parameters["train.optimizer"] == "sgd"
    rate = np.log10(
        parameters["train.optimizer[sgd].lr"] / 0.1 if sgd else parameters["train.optimizer[adamw].lr"] / 1e-3
    )
    width = np.log2(128 / parameters["model.n_embd"])
    return float(0.08 * (1 + 0.6 * rate**2 + 0.25 * width + parameters["model.dropout"] + 0.8 * sgd))


def hash_of(number: int) -> str:
    return f"{(number + 1) * 0x9E3779B97F4A7C15 % 16**12:012x}"


def search_rows(
    trials: int = 24, seeds: int = 3, finalists: int = 3, fresh: int = 10
) -> dict[str, list[dict[str, Any]]]:
    """Return members, trials, rungs and importances of a search with successive halving, and its finalists."""
    every = [(number, suggested(number)) for number in range(trials)]
    order = sorted(every, key=lambda each: quality(each[1]))
    stops = {number: RUNGS[0] for number, _ in order[trials // 2 :]} | {
        n: RUNGS[1] for n, _ in order[trials // 3 : trials // 2]
    }
    states = {number: "pruned" if number in stops else "completed" for number, _ in every}
    states |= {order[-1][0]: "diverged", order[-2][0]: "failed"} if trials > 6 else {}
    members, rows, rungs = [], [], []
    for number, parameters in every:
        found = [
            search_member(number, parameters, s, states[number], stops.get(number, RUNGS[-1])) for s in range(seeds)
        ]
        members += found
        rungs += rungs_of(number, found, states[number], stops.get(number, RUNGS[-1]))
        values = [each["validation/rollout_rmse"] for each in found if each["status"] == "completed"]
        rows.append(
            {
                "number": number,
                "config_hash": hash_of(number),
                "state": states[number],
                "value": float(np.mean(values)) if len(values) == seeds else None,
                "steps": sum(each["steps"] for each in found),
                "seeds": seeds,
                "parameters": json.dumps(parameters),
                "objectives": json.dumps({"validation/rollout_rmse": float(np.mean(values))} if values else {}),
            }
        )
    best = [number for number, _ in order[:finalists]]
    for number in best:
        members += [
            search_member(number, suggested(number), s, "completed", RUNGS[-1], "finalist")
            for s in range(seeds, seeds + fresh)
        ]
    names = list(dict.fromkeys(name for _, parameters in every for name in parameters))
    shares = [0.5 / 2**i for i in range(len(names))]
    importances = [
        {"parameter": n, "importance": s / sum(shares), "method": "PED-ANOVA", "trials": trials // 3}
        for n, s in zip(names, shares, strict=True)
    ]
    return {
        "members": members,
        "trials": rows,
        "rungs": rungs,
        "importances": importances,
        "finalists": [{"hash": hash_of(n)} for n in best],
    }


def search_member(
    number: int, parameters: dict[str, Any], seed: int, state: str, end: int, role: str = "search"
) -> dict[str, Any]:
    """Return a member; of a diverged or failed trial the last seed is lost, and equal seeds share their luck."""
    lost = state in ("diverged", "failed") and seed % 3 == 2
    status = state if lost or state == "pruned" else "completed"
    luck = np.random.default_rng([seed, 5]).normal(0, 0.06) + np.random.default_rng([number, seed]).normal(0, 0.03)
    level = quality(parameters) * float(np.exp(luck))
    hyper = {f"train.optimizer.{k.rpartition('.')[2]}" if "[" in k else k: v for k, v in parameters.items()}
    hyper["train.optimizer.name"] = hyper.pop("train.optimizer")
    row = member(hash_of(number), seed, status=status, role=role, experiment="searched", **hyper)
    measured = {
        "validation/rollout_rmse": 1.02 * level,
        "test/rollout_rmse": level,
        "test/loss": level**2,
        "validation/loss": level**2,
    }
    row |= measured if status == "completed" else {}
    return row | {"steps": end if status in ("completed", "pruned") else row["steps"], "train.steps": RUNGS[-1]}


def rungs_of(number: int, members: list[dict[str, Any]], state: str, end: int) -> list[dict[str, Any]]:
    """Return what the judge was told: the error falls to the member's own over the rungs."""
    found = []
    for step in (rung for rung in RUNGS[:-1] if rung <= end and state not in ("diverged", "failed")):
        for each in members:
            luck = np.random.default_rng([number, each["seed"], step]).normal(0, 0.04)
            value = quality(suggested(number)) * (1 + 300 / step) * float(np.exp(luck))
            kept = not (state == "pruned" and step == end)
            found.append(
                {
                    "number": number,
                    "config_hash": hash_of(number),
                    "step": step,
                    "seed": each["seed"],
                    "value": value,
                    "kept": kept,
                }
            )
    return found


def build_search(
    folder: Path,
    rows: dict[str, list[dict[str, Any]]] | None = None,
    complete: bool = True,
    also: dict[str, str] | None = None,
    experiment: str = SEARCH,
) -> Path:
    """Write the run directory of a search; without finalists among the rows it has none."""
    rows = search_rows() if rows is None else rows
    build_run(folder, rows["members"], experiment, complete=False)
    if complete:
        write_curves(folder, rows["members"])
        write_baselines(folder, sorted({row["config_hash"] for row in rows["members"]}))
    for name, schema in (("trials", TRIAL_COLUMNS), ("rungs", RUNG_COLUMNS), ("importances", IMPORTANCE_COLUMNS)):
        pq.write_table(pa.Table.from_pylist(rows[name], schema=schema), folder / f"{name}.parquet")
    facts = {
        "sampler": "tpe", "pruner": "asha", "order": "async", "metric": "validation/rollout_rmse", "mode": "min",
        "also": also or {}, "trials_planned": len(rows["trials"]), "infeasible": 1, "repeated": 2, "optuna": "5.0.0",
        "budget": None, "race": False, "finalists": [each["hash"] for each in rows["finalists"]],
    }  # fmt: skip
    (folder / "search.json").write_text(json.dumps(facts))
    return folder
