"""Ten seeds end to end: one `ensemble train` against ten runs of the plain script, two at a time on two cores.

    python -m benchmarks ensembles [--steps 1000] [--no-nested] [--no-small | --no-large]

Whole processes, from the shell's point of view, on the same trajectories: ours starts Ray, maps the shards, trains ten
members, measures each on the test split and writes the table; the plain script only trains and prints. For a model of
50 k parameters in full. For 2.7 M parameters two seeds of 50 and of 10 steps, so that start-up and time per step come
apart and ten full runs can be extrapolated; the extrapolation is printed as such. With `--nested` also the pattern
that Ray documents, a Tune trial that builds one TorchTrainer per seed. `--quick` has two seeds, two and four steps.

`training_step` checks that a step of both is the same; here only losses are listed: ours on the validation episodes,
the plain script's on the first of all windows.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from benchmarks.command import Parser, announce, say
from benchmarks.timing import ratio, take_turns
from ensemble.config.data import DataConfig, SimulateConfig
from ensemble.data.convert import convert
from ensemble.data.trajectories import read_trajectories
from ensemble.simulation.double_pendulum import simulate
from ensemble.text import plural

CORES = 2
SMALL: dict[str, Any] = {"n_layer": 2, "n_head": 4, "n_embd": 44, "head": {"layer_sizes": [64]}}
LARGE: dict[str, Any] = {"n_layer": 6, "n_head": 12, "n_embd": 192, "head": {"layer_sizes": [64]}}


@dataclass(frozen=True)
class Task:
    """What both sides train."""

    model: dict[str, Any]
    seeds: int
    steps: int
    batch: int
    every: int  # steps between validations


def prepare(folder: Path, episodes: int) -> tuple[Path, Path]:
    """Simulate; return the shards, and the same trajectories as the npz that the plain script reads."""
    source = simulate(SimulateConfig(episodes=episodes), folder / "pendulum.h5")
    shards = folder / "shards"
    convert([source], shards, DataConfig(path=str(source)))
    data = read_trajectories(shards)
    states = data.rows[:, data.columns("states")]
    gravity = data.rows[:, data.columns("gravity_dir")]
    shape = (episodes, len(data.rows) // episodes, -1)
    inputs = np.concatenate([states, gravity], axis=1).reshape(shape)
    archive = folder / "pendulum.npz"
    angles = np.array(data.feature("states").angles)
    np.savez(archive, states=np.ascontiguousarray(inputs[..., :4]), inputs=inputs, angles=angles)
    return shards, archive


def ours(folder: Path, shards: Path, task: Task) -> str:
    """Run `ensemble train`; return the loss of its members."""
    file = folder / "ours.yaml"
    tree = {
        "experiment": "ours",
        "data": {"path": str(shards)},
        "model": task.model,
        "train": {"steps": task.steps, "batch_size": task.batch, "validate_every": task.every},
        "ensemble": {"seeds": task.seeds},
        "logging": {"tensorboard": False},
    }
    file.write_text(yaml.safe_dump(tree))
    results = folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    run(["ensemble", "train", "--config", str(file), "--results", str(results)])
    rows = pq.read_table(results / "ours" / "members.parquet").to_pylist()
    assert len(rows) == task.seeds
    assert {row["status"] for row in rows} == {"completed"}
    return loss_of([row["last/validation/loss"] for row in rows])


def plain(archive: Path, task: Task) -> str:
    """Run the plain script once per seed, as many at a time as there are cores, one thread each; return their loss."""
    model = task.model
    options = {
        "data": archive, "steps": task.steps, "batch-size": task.batch, "width": model["n_embd"],
        "layers": model["n_layer"], "validate-every": task.every, "heads": model["n_head"],
        "head": model["head"]["layer_sizes"][0],
    }  # fmt: skip
    words = ["benchmarks.training.plain", *words_of(options)]

    def train(seed: int) -> float:
        return float(run([*words, "--seed", str(seed)]).rsplit("validation ", 1)[1].split()[0])

    with ThreadPoolExecutor(CORES) as pool:
        return loss_of(list(pool.map(train, range(task.seeds))))


def nested(archive: Path, task: Task) -> str:
    """Run one nested TorchTrainer per seed in a process of its own."""
    options = {
        "data": archive, "seeds": task.seeds, "steps": task.steps, "batch-size": task.batch,
        "width": task.model["n_embd"],
    }  # fmt: skip
    run(["benchmarks.training.nested", *words_of(options)])
    return "no loss"


def words_of(options: dict[str, object]) -> list[str]:
    """Return options as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def run(words: list[str]) -> str:
    """Run a module of Python to its end; return its output, or end with what it said."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"python -m {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def loss_of(losses: list[float]) -> str:
    """Render the mean and the deviation of the members."""
    return f"loss {np.mean(losses):.4f} +- {np.std(losses, ddof=1):.4f} over {plural(len(losses), 'seed')}"


def measure(sides: dict[str, Callable[[], str]], rounds: int) -> dict[str, list[float]]:
    """Let the sides take turns, and print their losses; return the seconds of whole processes."""
    turns = take_turns(sides, rounds)
    for name, each in turns.items():
        say(f"    {name}: {each[-1].value}")
    return {name: [turn.seconds for turn in each] for name, each in turns.items()}


def small(folder: Path, shards: Path, archive: Path, options: argparse.Namespace) -> None:
    """Compare ensembles of a small model in full."""
    task = Task(SMALL, options.seeds, options.steps, 128, max(1, options.steps // 20))
    say(f"50 k parameters, {plural(task.seeds, 'seed')}, {plural(task.steps, 'step')} of batch {task.batch}")
    sides = {"plain runs": partial(plain, archive, task), "ours": partial(ours, folder, shards, task)}
    if options.nested:
        sides["nested TorchTrainers"] = partial(nested, archive, task)
    seconds = measure(sides, options.rounds)
    for name in [side for side in sides if side != "ours"]:
        say(f"  {task.seeds} {name} / ours: {ratio(seconds[name], seconds['ours'])}")


def large(folder: Path, shards: Path, archive: Path, options: argparse.Namespace) -> None:
    """Compare two seeds of a large model for a few steps, and extrapolate."""
    few, more = options.large_steps
    say(f"2.7 M parameters, 2 seeds of {few} and of {more} steps of batch 512, one thread each")
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for steps in (few, more):
        task = Task(LARGE, 2, steps, 512, steps)
        sides = {"plain": partial(plain, archive, task), "ours": partial(ours, folder, shards, task)}
        for name, each in measure(sides, 1).items():
            seconds[name] += each
    whole = {name: each[1] for name, each in seconds.items()}
    per_step = {name: (each[1] - each[0]) / (more - few) for name, each in seconds.items()}
    say(f"  measured, {more} steps with start-up: plain / ours {whole['plain'] / whole['ours']:.2f}x")
    say(f"  per step of two seeds side by side: plain {per_step['plain']:.2f} s, ours {per_step['ours']:.2f} s")
    total = {name: 5 * (whole[name] + (1000 - more) * per_step[name]) for name in whole}
    say(f"  extrapolated to ten seeds of 1,000 steps: plain / ours {total['plain'] / total['ours']:.2f}x")


def main() -> None:
    parser = Parser(__doc__, quick={"steps": 4, "seeds": 2, "large_steps": [2, 4], "episodes": 20})
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--large-steps", type=int, nargs=2, default=[10, 50], help="steps of the large model")
    parser.add_argument("--episodes", type=int, default=1000, help="to simulate")
    for part in ("nested", "small", "large"):
        parser.add_argument(f"--{part}", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse()
    count = options.small * options.rounds * (1 + options.nested) + options.large * 2
    announce(options, f"Ensembles end to end against plain scripts, each time from nothing, {plural(count, 'Ray')}", 9)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards, archive = prepare(folder, options.episodes)
        if options.small:
            small(folder, shards, archive, options)
        if options.large:
            large(folder, shards, archive, options)


if __name__ == "__main__":
    main()
