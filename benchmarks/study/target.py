"""Time until a search holds a configuration that is good on fresh seeds, against Tune + OptunaSearch + ASHA.

    python -m benchmarks target --results DIR     # resumes: a side of a repetition that has a file is not run again

The plain side is written as Ray documents it (https://docs.ray.io/en/latest/tune/examples/tune-pytorch-cifar.html):
`OptunaSearch`, `ASHAScheduler(grace_period=1, reduction_factor=2)`, a training function that reports at each
validation, one seed a trial; `plain, reuse_actors` is the same without a new process for each trial. Its loop is
`plain_search.py`: nn.Linear, DataLoader, one thread, the same budget a configuration, the same validation rollouts.
Ours is `ensemble tune` with its defaults, 32 configurations x 3 seeds, and again with `race: true`.

The space is that of `tables/space.yaml`, 64 configurations, since its table holds the true value of each: the mean of
ten seeds that no side sees here. At any moment a side has an incumbent, the configuration that it would return: ours
the best mean over its seeds among those that were not stopped, the plain one the lowest last report
(`get_best_result`). Time to target is when the incumbent is first one of the best tenth (or twentieth); optimism is the
winner's true mean minus the side's own estimate. With `--check` both trainers are first compared on equal
configurations. `--quick` trains 40 steps, so its values are far from the table's.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.command import Parser, announce, equivalence, row, say
from benchmarks.study.plain_search import VALIDATIONS, train_plain, trainable, validation_interval, write_archive
from benchmarks.study.sides import rows_of, run_ours, run_plain
from ensemble.config import load
from ensemble.config.loading import ExperimentFile
from ensemble.schema import VALIDATION_ROLLOUT
from ensemble.store import read_json, read_table, write_json
from ensemble.study.cluster import ClusterNode, connected
from ensemble.study.prepare import PreparedData, prepare
from ensemble.text import plural

TABLES = Path(__file__).parents[1] / "tables"
SEEDS = [100, 101, 102]  # of our search; the table holds seeds 0 to 9
STEPS = 1200  # of the table
NAMES = {"width": "model.n_embd", "batch": "train.batch_size", "lr": "train.optimizer.lr"}
CHOICES: dict[str, list[Any]] = {
    "width": [4, 8, 16, 32],
    "batch": [16, 64],
    "lr": [1e-3, 5e-3, 1.5e-2, 4e-2],
    "schedule": ["constant", "cosine"],
}

Key = tuple[int, int, float, str]  # width, batch size, learning rate, schedule
Moment = tuple[float, Key, float]  # seconds since the start, the incumbent, its value as the side estimates it


class Incumbents(tune.Callback):
    """Records each trial that ends better, by its last report, than those before."""

    def __init__(self, steps: int) -> None:
        self._interval = validation_interval(steps)
        self.start = time.perf_counter()
        self.moments: list[Moment] = []
        self.trials = 0
        self.steps = 0
        self.first = math.nan

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record one end."""
        value, config = trial.last_result["rollout_rmse"], trial.config
        now = time.perf_counter() - self.start
        self.first = now if not self.trials else self.first
        self.trials += 1
        self.steps += self._interval * trial.last_result["training_iteration"]
        if math.isfinite(value) and (not self.moments or value < self.moments[-1][2]):
            key = (config["width"], config["batch"], config["lr"], config["schedule"])
            self.moments.append((now, key, value))


# The sides ---------------------------------------------------------------------------------------------------------


def plain(folder: Path, archive: Path, size: argparse.Namespace, reuse: bool, seed: int) -> dict[str, Any]:
    """Search as Ray documents it."""
    watch = Incumbents(size.steps)
    space = {name: tune.choice(values) for name, values in CHOICES.items()}
    results, seconds = run_plain(
        trainable,
        space | {"data": str(archive), "steps": size.steps},
        folder,
        watch,
        metric="rollout_rmse",
        mode="min",
        search_alg=OptunaSearch(seed=seed),
        scheduler=ASHAScheduler(max_t=VALIDATIONS, grace_period=1, reduction_factor=2),
        num_samples=size.samples,
        reuse_actors=reuse,
    )
    assert results.get_best_result().metrics["rollout_rmse"] == watch.moments[-1][2]
    return _record(seconds, watch.moments, watch.first, watch.trials, watch.trials, watch.steps)


def search_space(size: argparse.Namespace, *more: str) -> ExperimentFile:
    """Return the space of the table as a search with the defaults of `search:`."""
    search = ("search.sampler=tpe", "search.pruner=asha", f"search.trials={size.trials}", f"search.seeds={SEEDS}")
    others = ("ensemble.finalists=0", "resources.pack=auto", "logging.tensorboard=true", f"train.steps={size.steps}")
    return load(TABLES / "space.yaml", [*search, *others, *more])


def ours(
    folder: Path, data: PreparedData, nodes: Sequence[ClusterNode], size: argparse.Namespace, race: bool, seed: int
) -> dict[str, Any]:
    """Search with `ensemble tune`'s own parts, in the Ray that is there."""
    file = search_space(size, f"search.seed={seed}", f"search.race={str(race).lower()}")
    study = run_ours(file, folder / f"{time.monotonic_ns()}", data, nodes)
    rows = rows_of(study)
    started = file.first.search.race_start if race else len(SEEDS)
    moments = list(_incumbents(rows, started, race))
    trials = len({row["config_hash"] for _, row in rows})
    return _record(study.seconds, moments, rows[0][0], trials, len(rows), sum(row["steps"] for _, row in rows))


def _incumbents(rows: Sequence[tuple[float, dict[str, Any]]], started: int, race: bool) -> Iterator[Moment]:
    """Yield the first of the ranking whenever it changes: most seeds first in a race, then the best mean."""
    values: dict[Key, list[float]] = {}
    before = None
    for when, member in rows:
        if member["status"] == "completed":
            values.setdefault(_key(member), []).append(member[VALIDATION_ROLLOUT])
        whole = {key: each for key, each in values.items() if len(each) >= started}
        if not whole:
            continue
        best = min(whole, key=lambda key: (-len(whole[key]) if race else 0, statistics.mean(whole[key])))
        now = (best, statistics.mean(whole[best]))
        if now != before:
            yield when, *now
        before = now


def _key(values: Mapping[str, Any]) -> Key:
    return (*(values[name] for name in NAMES.values()), values["train.schedule.name"])


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
    for point in read_table(TABLES / "curves.parquet").to_pylist():
        if point["step"] == STEPS:
            value = point[VALIDATION_ROLLOUT]
            found.setdefault(_key(point), []).append(math.inf if math.isnan(value) else value)
    return found


def compare_trainers(archive: Path, table: Mapping[Key, Sequence[float]], seeds: int, steps: int) -> None:
    """Train some configurations with the plain loop, and print both sides' means and deviations."""
    say(f"equal configurations by the plain loop ({plural(seeds, 'seed')}, {steps} steps) and in the table (10 seeds)")
    for key in ((32, 64, 1.5e-2, "cosine"), (16, 64, 5e-3, "constant"), (8, 16, 5e-3, "cosine")):
        config = dict(zip(CHOICES, key, strict=True)) | {"data": str(archive), "steps": steps}
        values = []
        start = time.process_time()
        for seed in range(seeds):
            reports: list[dict[str, float]] = []
            train_plain({**config, "seed": seed}, reports.append)
            values.append(reports[-1]["rollout_rmse"])
        spent = (time.process_time() - start) / seeds
        known = table[key]
        equivalence(
            f"{key!s:34s} plain {statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}, table "
            f"{statistics.mean(known):.4f} +- {statistics.stdev(known):.4f}; plain {spent:.1f} s of processor a seed"
        )


def time_to(record: Mapping[str, Any], means: Mapping[Key, float], target: float) -> float:
    """Return when the incumbent first meets the target; infinity if never."""
    return min((when for when, key, _ in record["moments"] if means[tuple(key)] <= target), default=math.inf)


def summarize(records: Mapping[str, Sequence[Mapping[str, Any]]], table: Mapping[Key, Sequence[float]]) -> None:
    """Print medians side by side."""
    means = {key: statistics.mean(values) for key, values in table.items()}
    order = sorted(means.values())
    targets = {"best tenth": order[len(order) // 10], "best twentieth": order[len(order) // 20]}
    say(f"targets: {', '.join(f'{name} <= {value:.4f}' for name, value in targets.items())}; best {order[0]:.4f}")
    for side, runs in records.items():
        _summarize_side(side, runs, means, targets)
    for name, target in targets.items():
        times = {side: statistics.median(time_to(run, means, target) for run in runs) for side, runs in records.items()}
        for mine in [side for side in times if side.startswith("ours")]:
            for theirs in [side for side in times if side.startswith("plain")]:
                met = math.isfinite(min(times[theirs], times[mine]))
                medians = f"{times[theirs] / times[mine]:.2f}x (medians)" if met else "met by neither"
                say(f"  {name}: {theirs} / {mine}: {medians}")


def _summarize_side(
    side: str, runs: Sequence[Mapping[str, Any]], means: Mapping[Key, float], targets: Mapping[str, float]
) -> None:
    """Print what the runs of a side cost, when they met the targets, and what their winners are worth."""
    ends = [(run["moments"][-1][2], means[tuple(run["moments"][-1][1])]) for run in runs]
    whole, first, trials, members, steps = (
        statistics.median(run[name] for run in runs) for name in ("seconds", "first", "trials", "members", "steps")
    )
    row(
        f"{side}, {plural(len(runs), 'run')}",
        f"{whole:.0f} s whole, first trial {first:.1f} s, {trials:.0f} configurations, {members:.0f} members, "
        f"{steps / 1e3:.0f} k steps",
    )
    for name, target in targets.items():
        times = sorted(time_to(run, means, target) for run in runs)
        met = sum(true <= target for _, true in ends)
        shown = " ".join(f"{seconds:.0f}" for seconds in times)
        say(f"    {name}: median {statistics.median(times):.1f} s ({shown}); winner meets it in {met} of {len(runs)}")
    optimism = [true - estimated for estimated, true in ends]
    estimated, true = (statistics.median(each) for each in zip(*ends, strict=True))
    order = sorted(means.values())
    ranks = " ".join(str(1 + order.index(each)) for _, each in ends)
    say(
        f"    winner: estimated {estimated:.4f}, ten other seeds {true:.4f}; optimism "
        f"{statistics.median(optimism):+.4f}, mean {statistics.mean(optimism):+.4f}; rank {ranks} of {len(order)}"
    )


def main() -> None:
    parser = Parser(__doc__, quick={"rounds": 1, "trials": 3, "samples": 3, "steps": 40, "check": 2})
    parser.add_argument("--results", type=Path, default=Path("/tmp/ensemble-target"), help="--quick keeps none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=32, help="configurations of ours")
    parser.add_argument("--samples", type=int, default=64, help="configurations of the plain side")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training; the table has 1,200")
    parser.add_argument("--check", type=int, default=0, help="seeds to compare the trainers with before")
    parser.add_argument("--sides", nargs="*", help="some of them")
    options = parser.parse()
    what = f"Searches of {options.trials} configurations, of {options.samples} on the plain side, until one is good"
    announce(options, f"{what}, {plural(options.rounds, 'round')} of four sides in one Ray", 30)
    with tempfile.TemporaryDirectory() if options.quick else nullcontext(options.results) as name:
        folder = Path(name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        search(folder, options)


def search(folder: Path, options: argparse.Namespace) -> None:
    """Search with each side in turns, keep a file of each search in a folder, and print what they amount to."""
    # Data
    table = truth()
    first = search_space(options).first
    data = prepare(first.data, TABLES, folder / "results", say)
    archive = folder / "pendulum.npz"
    if not archive.is_file():
        write_archive(data.main, first, archive)
    if options.check:
        compare_trainers(archive, table, options.check, options.steps)

    # Turns
    with connected("local", workers=False) as nodes:
        sides: dict[str, Callable[[int], dict[str, Any]]] = {
            "ours": partial(ours, folder, data, nodes, options, False),
            "plain": partial(plain, folder, archive, options, False),
            "ours, race": partial(ours, folder, data, nodes, options, True),
            "plain, reuse_actors": partial(plain, folder, archive, options, True),
        }
        chosen = {side: run for side, run in sides.items() if side in (options.sides or sides)}
        records: dict[str, list[dict[str, Any]]] = {side: [] for side in chosen}
        for seed in range(options.rounds):
            for side, run in chosen.items():
                path = folder / f"{side.replace(', ', '-')}-{seed}.json"
                if not path.is_file():
                    say(f"    {time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:.1f}: {side}, seed {seed}")
                    write_json(path, run(seed))
                records[side].append(read_json(path))

    # Medians
    summarize(records, table)


if __name__ == "__main__":
    main()
