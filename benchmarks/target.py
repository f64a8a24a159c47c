"""Time until a search holds a configuration that is good on fresh seeds, against Tune + OptunaSearch + ASHA.

    python -m benchmarks.target --results DIR     # resumes: a side of a repetition that has a file is not run again

The plain side is written as Ray documents it (https://docs.ray.io/en/latest/tune/examples/tune-pytorch-cifar.html):
`OptunaSearch`, `ASHAScheduler(grace_period=1, reduction_factor=2)`, a training function that reports at each
validation, one seed a trial; `plain, reuse_actors` is the same without a new process for each trial. Its loop is that
of `benchmarks.plain`: nn.Linear, DataLoader, one thread, the same budget a configuration, the same validation rollouts.
Ours is `ensemble tune` with its defaults, 32 configurations x 3 seeds, and again with `race: true`.

The space is that of `tables/space.yaml`, 64 configurations, since its table holds what each of them is truly worth: the
mean of ten seeds that no side sees here. At any moment a side stands on the configuration that it would call best:
ours on the best mean over its seeds among those that were not stopped, the plain one on the lowest last report
(`get_best_result`). Time to target is when that configuration is first one of the best tenth (or twentieth); optimism
is the winner's true mean minus what the side believed. First both trainers are compared on equal configurations.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ensemble.study.cluster import LOOPBACK, QUIET, connected, needs, slots

os.environ.update(QUIET | LOOPBACK | {"RAY_AUTH_MODE": "token"})  # Ray reads them when it is imported

import numpy as np
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.plain import PlainGPT, PlainTrainer, WindowDataset, statistics_of, wrap
from ensemble.config import Experiment, load
from ensemble.config.loading import ExperimentFile
from ensemble.data.splits import split_episodes
from ensemble.data.trajectories import read_trajectories
from ensemble.data.windows import Windows
from ensemble.evaluation.rollout import rollout_metrics, squared_errors
from ensemble.evaluation.state import StateLayout, error_scale, state_moments
from ensemble.schema import VALIDATION_ROLLOUT
from ensemble.store import read_json, read_table, write_json
from ensemble.study.plan import make_plan, write_plan
from ensemble.study.prepare import PreparedData, prepare
from ensemble.study.runner import Runner

TABLES = Path(__file__).parent / "tables"
SEEDS = [100, 101, 102]  # of our search; the table holds seeds 0 to 9
TRIALS = 32
STEPS, EVERY, HISTORY, HORIZON = 1200, 60, 5, 10
LOGGERS = "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"
NAMES = {"width": "model.n_embd", "batch": "train.batch_size", "lr": "train.optimizer.lr"}
CHOICES: dict[str, list[Any]] = {
    "width": [4, 8, 16, 32],
    "batch": [16, 64],
    "lr": [1e-3, 5e-3, 1.5e-2, 4e-2],
    "schedule": ["constant", "cosine"],
}

Key = tuple[int, int, float, str]  # width, batch size, learning rate, schedule
Moment = tuple[float, Key, float]  # seconds since the start, the configuration now held best, its value as believed


# The plain side ----------------------------------------------------------------------------------------------------


def write_archive(shards: Path, experiment: Experiment, path: Path) -> None:
    """Write the training episodes, and the windows and scale of the validation rollouts, as a user's npz."""
    data = read_trajectories(shards)
    splits = split_episodes(data, experiment.data.split, HISTORY)
    rows = np.concatenate([data.rows[:, data.columns(name)] for name in ("states", "gravity_dir")], axis=1)
    train = splits["train"]
    length = int(train.points[0])
    assert (train.points == length).all()
    inputs = np.stack([rows[first : first + length] for first in train.first])
    windows = Windows(data, splits["validation"], HISTORY + HORIZON - 1)
    points = windows.gather(windows.fixed(experiment.train.rollout.windows)).numpy()
    points = np.concatenate([points[..., data.columns(name)] for name in ("states", "gravity_dir")], axis=-1)
    scale = error_scale(state_moments(data, train).variance)
    angles = np.array(data.feature("states").angles)
    states = np.ascontiguousarray(inputs[..., : len(angles)])
    np.savez(path, states=states, inputs=inputs, angles=angles, points=points, scale=scale)


@torch.no_grad()
def rollout_rmse(trainer: PlainTrainer, points: Tensor, scale: np.ndarray, layout: StateLayout) -> float:
    """Measure open-loop rollouts as ours does: points (n, seen + H, D)."""
    s, width = trainer.statistics, len(layout.columns)
    points = points.clone()
    truth = points[:, HISTORY:, :width].numpy().copy()
    for step in range(HISTORY, HISTORY + HORIZON):
        x = points[:, step - HISTORY : step].clone()
        x[..., :width] = torch.where(trainer.angles, wrap(x[..., :width]), x[..., :width])
        out = trainer.model((x - s["mean"]) / torch.sqrt(s["variance"] + 1e-5))[:, -1]
        change = out * torch.sqrt(s["target_variance"] + 1e-5) + s["target_mean"]
        points[:, step, :width] = x[:, -1, :width] + change
    total = squared_errors(points[:, HISTORY:, :width].numpy(), truth, layout)
    return float(rollout_metrics(total, len(points), scale, layout, "validation")[VALIDATION_ROLLOUT])


def train_plain(config: Mapping[str, Any], report: Callable[[dict[str, float]], object]) -> None:
    """Train one seed and report each validation."""
    torch.set_num_threads(1)
    torch.manual_seed(config.get("seed", int.from_bytes(os.urandom(4), "little")))
    file = np.load(config["data"])
    states, inputs, angles = file["states"], file["inputs"], file["angles"]
    loader = DataLoader(WindowDataset(states, inputs, HISTORY), config["batch"], shuffle=True, drop_last=True)
    model = PlainGPT(inputs.shape[-1], states.shape[-1], config["width"], 1, 2, 16, 32)
    trainer = PlainTrainer(model, statistics_of(states, inputs, angles), torch.from_numpy(angles), config["lr"])
    width = len(angles)
    layout = StateLayout(tuple(range(width)), tuple(map(str, range(width))), tuple(map(bool, angles)))
    points = torch.from_numpy(file["points"])
    step = 0
    while True:
        for batch in loader:
            r = step / STEPS
            trainer.step(
                batch, config["lr"] * (0.5 * (1 + math.cos(math.pi * r)) if config["schedule"] == "cosine" else 1)
            )
            step += 1
            if step % EVERY == 0:
                report({"rollout_rmse": rollout_rmse(trainer, points, file["scale"], layout)})
            if step == STEPS:
                return


def trainable(config: Mapping[str, Any]) -> None:
    """Train under Tune."""
    train_plain(config, tune.report)


class Incumbents(tune.Callback):
    """Notes whenever a trial has ended that is better, by its last report, than those before."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.moments: list[Moment] = []
        self.trials = 0
        self.steps = 0
        self.first = math.nan

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Take in one end."""
        value, config = trial.last_result["rollout_rmse"], trial.config
        now = time.perf_counter() - self.start
        self.first = now if not self.trials else self.first
        self.trials += 1
        self.steps += EVERY * trial.last_result["training_iteration"]
        if math.isfinite(value) and (not self.moments or value < self.moments[-1][2]):
            key = (config["width"], config["batch"], config["lr"], config["schedule"])
            self.moments.append((now, key, value))


def plain(folder: Path, archive: Path, seed: int, samples: int, reuse: bool) -> dict[str, Any]:
    """Search as Ray documents it."""
    watch = Incumbents()
    os.environ[LOGGERS] = "0"
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={name: tune.choice(values) for name, values in CHOICES.items()} | {"data": str(archive)},
        tune_config=tune.TuneConfig(
            metric="rollout_rmse",
            mode="min",
            search_alg=OptunaSearch(seed=seed),
            scheduler=ASHAScheduler(max_t=STEPS // EVERY, grace_period=1, reduction_factor=2),
            num_samples=samples,
            max_concurrent_trials=2,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            name=f"plain-{time.monotonic_ns()}", storage_path=str(folder / "plain"), verbose=0, callbacks=[watch]
        ),
    ).fit()
    seconds = time.perf_counter() - watch.start
    os.environ[LOGGERS] = "1"
    assert not results.errors
    assert results.get_best_result().metrics["rollout_rmse"] == watch.moments[-1][2]
    return _record(seconds, watch.moments, watch.first, watch.trials, watch.trials, watch.steps)


# Our side ----------------------------------------------------------------------------------------------------------


def space(*more: str) -> ExperimentFile:
    """Return the space of the table as a search with the defaults of `search:`."""
    seeds = f"search.seeds={SEEDS}"
    search = ("search.sampler=tpe", "search.pruner=asha", f"search.trials={TRIALS}", "ensemble.finalists=0")
    return load(TABLES / "space.yaml", [*search, seeds, "resources.pack=auto", "logging.tensorboard=true", *more])


def ours(folder: Path, data: PreparedData, nodes: Sequence[Any], seed: int, *more: str) -> dict[str, Any]:
    """Search with `ensemble tune`'s own parts, in the Ray that is there."""
    file = space(f"search.seed={seed}", *more)
    plan = make_plan(file, folder / f"{time.monotonic_ns()}")
    start, clock = time.perf_counter(), time.time()
    write_plan(plan, {})
    request = needs(file.first.resources, list(nodes), "cpu")
    Runner(plan, data, request, slots(request, list(nodes)), lambda line: None).run()
    seconds = time.perf_counter() - start
    files = plan.run.glob("members/*/member.parquet")
    rows = sorted(((f.stat().st_mtime - clock, read_table(f).to_pylist()[0]) for f in files), key=lambda row: row[0])
    started = file.first.search.race_start if file.first.search.race else len(SEEDS)
    moments = list(_incumbents(rows, started, file.first.search.race))
    trials = len({row["config_hash"] for _, row in rows})
    return _record(seconds, moments, rows[0][0], trials, len(rows), sum(row["steps"] for _, row in rows))


def _incumbents(rows: Sequence[tuple[float, dict[str, Any]]], started: int, race: bool) -> Iterator[Moment]:
    """Yield what leads the ranking whenever that changes: most seeds first in a race, then the best mean."""
    values: dict[Key, list[float]] = {}
    before = None
    for when, row in rows:
        if row["status"] == "completed":
            key = (*(row[name] for name in NAMES.values()), row["train.schedule.name"])
            values.setdefault(key, []).append(row[VALIDATION_ROLLOUT])
        whole = {key: each for key, each in values.items() if len(each) >= started}
        if not whole:
            continue
        best = min(whole, key=lambda key: (-len(whole[key]) if race else 0, statistics.mean(whole[key])))
        now = (best, statistics.mean(whole[best]))
        if now != before:
            yield when, *now
        before = now


def _record(
    seconds: float, moments: Sequence[Moment], first: float, trials: int, members: int, steps: int
) -> dict[str, Any]:
    return {
        "seconds": seconds, "moments": list(moments), "first": first, "trials": trials, "members": members,
        "steps": steps,
    }  # fmt: skip


# What it amounts to ------------------------------------------------------------------------------------------------


def truth() -> dict[Key, list[float]]:
    """Return the final rollout error of each configuration of the table, seed by seed."""
    found: dict[Key, list[float]] = {}
    for row in read_table(TABLES / "curves.parquet").to_pylist():
        if row["step"] == STEPS:
            key = (*(row[name] for name in NAMES.values()), row["train.schedule.name"])
            value = row[VALIDATION_ROLLOUT]
            found.setdefault(key, []).append(math.inf if math.isnan(value) else value)
    return found


def compare_trainers(archive: Path, table: Mapping[Key, Sequence[float]], seeds: int) -> None:
    """Train some configurations with the plain loop, and print both sides' means and deviations."""
    print(f"the same configurations by the plain loop ({seeds} seeds) and in the table (10 seeds):")
    for key in ((32, 64, 1.5e-2, "cosine"), (16, 64, 5e-3, "constant"), (8, 16, 5e-3, "cosine")):
        config = dict(zip(CHOICES, key, strict=True)) | {"data": str(archive)}
        values = []
        start = time.process_time()
        for seed in range(seeds):
            reports: list[dict[str, float]] = []
            train_plain({**config, "seed": seed}, reports.append)
            values.append(reports[-1]["rollout_rmse"])
        spent = (time.process_time() - start) / seeds
        mean, std = statistics.mean(values), statistics.stdev(values)
        print(
            f"  {key!s:34s} plain {mean:.4f} +- {std:.4f}, table {statistics.mean(table[key]):.4f} +- "
            f"{statistics.stdev(table[key]):.4f}; plain {spent:.1f} s of processor a seed",
            flush=True,
        )


def time_to(record: Mapping[str, Any], means: Mapping[Key, float], target: float) -> float:
    """Return when the configuration held best is first one that meets the target; infinity if never."""
    return min((when for when, key, _ in record["moments"] if means[tuple(key)] <= target), default=math.inf)


def summarize(records: Mapping[str, Sequence[Mapping[str, Any]]], table: Mapping[Key, Sequence[float]]) -> None:
    """Print medians side by side."""
    means = {key: statistics.mean(values) for key, values in table.items()}
    order = sorted(means.values())
    targets = {"best tenth": order[len(order) // 10], "best twentieth": order[len(order) // 20]}
    median = statistics.median
    print(f"targets: {', '.join(f'{name} <= {value:.4f}' for name, value in targets.items())}; best {order[0]:.4f}")
    for side, runs in records.items():
        ends = [(run["moments"][-1][2], means[tuple(run["moments"][-1][1])]) for run in runs]
        optimism = [true - believed for believed, true in ends]
        print(
            f"  {side:22s} {len(runs)} runs: {median(r['seconds'] for r in runs):.0f} s whole, first trial "
            f"{median(r['first'] for r in runs):.1f} s, {median(r['trials'] for r in runs):.0f} configurations, "
            f"{median(r['members'] for r in runs):.0f} members, {median(r['steps'] for r in runs) / 1e3:.0f} k steps"
        )
        for name, target in targets.items():
            times = sorted(time_to(run, means, target) for run in runs)
            met = sum(end[1] <= target for end in ends)
            shown = " ".join(f"{seconds:.0f}" for seconds in times)
            print(f"    {name}: median {median(times):.1f} s ({shown}); winner meets it in {met} of {len(runs)}")
        print(
            f"    winner: believed {median(e[0] for e in ends):.4f}, ten other seeds {median(e[1] for e in ends):.4f}; "
            f"optimism {median(optimism):+.4f}, mean {statistics.mean(optimism):+.4f}; "
            f"rank {' '.join(str(1 + order.index(e[1])) for e in ends)} of {len(order)}"
        )
    _ratios(records, means, targets)


def _ratios(
    records: Mapping[str, Sequence[Mapping[str, Any]]], means: Mapping[Key, float], targets: Mapping[str, float]
) -> None:
    for name, target in targets.items():
        times = {side: statistics.median(time_to(run, means, target) for run in runs) for side, runs in records.items()}
        for mine in [side for side in times if side.startswith("ours")]:
            for theirs in [side for side in times if side.startswith("plain")]:
                print(f"  {name}: {theirs} / {mine}: {times[theirs] / times[mine]:.2f}x (medians)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("/tmp/ensemble-target"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2 * TRIALS, help="configurations of the plain side")
    parser.add_argument("--check", type=int, default=0, help="seeds to compare the trainers with before")
    parser.add_argument("--sides", nargs="*", help="some of them")
    arguments = parser.parse_args()
    folder = arguments.results.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    table = truth()
    first = space().first
    data = prepare(first.data, TABLES, folder, print)
    archive = folder / "pendulum.npz"
    if not archive.is_file():
        write_archive(data.main, first, archive)
    if arguments.check:
        compare_trainers(archive, table, arguments.check)
    with connected("local", workers=False) as nodes:
        sides: dict[str, Callable[[int], dict[str, Any]]] = {
            "ours": partial(ours, folder, data, nodes),
            "plain": lambda seed: plain(folder, archive, seed, arguments.samples, reuse=False),
            "ours, race": lambda seed: ours(folder, data, nodes, seed, "search.race=true"),
            "plain, reuse_actors": lambda seed: plain(folder, archive, seed, arguments.samples, reuse=True),
        }
        chosen = {side: run for side, run in sides.items() if side in (arguments.sides or sides)}
        records: dict[str, list[dict[str, Any]]] = {side: [] for side in chosen}
        for seed in range(arguments.rounds):
            for side, run in chosen.items():
                path = folder / f"{side.replace(', ', '-')}-{seed}.json"
                if not path.is_file():
                    print(
                        f"  {time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.1f}: {side}, seed {seed}", flush=True
                    )
                    write_json(path, run(seed))
                records[side].append(read_json(path))
    summarize(records, table)


if __name__ == "__main__":
    main()
