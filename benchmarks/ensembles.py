"""Ten seeds end to end: one `ensemble train` against ten runs of the plain script, two at a time on two cores.

Whole processes, from the shell's point of view, on the same trajectories: ours starts Ray, maps the shards, trains ten
members, measures each on the test split and writes the table; the plain script only trains and prints. For a model of
50 k parameters in full. For 2.7 M parameters two seeds of 50 and of 10 steps, so that start-up and time per step come
apart and ten full runs can be extrapolated; the extrapolation is printed as such.
With `--nested` also the pattern that Ray documents, a Tune trial that builds one TorchTrainer per seed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml

from ensemble.config.data import DataConfig, SimulateConfig
from ensemble.data.convert import convert
from ensemble.data.trajectories import read_trajectories
from ensemble.simulation.double_pendulum import simulate

CORES = 2
SMALL = {"n_layer": 2, "n_head": 4, "n_embd": 44, "head": {"layer_sizes": [64]}}
LARGE = {"n_layer": 6, "n_head": 12, "n_embd": 192, "head": {"layer_sizes": [64]}}


def prepare(folder: Path) -> tuple[Path, Path]:
    """Simulate 1,000 episodes; return the shards, and the same trajectories as the npz that the plain script reads."""
    source = simulate(SimulateConfig(), folder / "pendulum.h5")
    shards = folder / "shards"
    convert([source], shards, DataConfig(path=str(source)))
    data = read_trajectories(shards)
    states = data.rows[:, data.columns("states")]
    gravity = data.rows[:, data.columns("gravity_dir")]
    episodes = len(data.episodes)
    shape = (episodes, len(data.rows) // episodes, -1)
    inputs = np.concatenate([states, gravity], axis=1).reshape(shape)
    archive = folder / "pendulum.npz"
    angles = np.array(data.feature("states").angles)
    np.savez(archive, states=np.ascontiguousarray(inputs[..., :4]), inputs=inputs, angles=angles)
    return shards, archive


def ours(folder: Path, shards: Path, model: dict, seeds: int, steps: int, batch: int, every: int) -> float:
    """Run `ensemble train`; return its seconds."""
    file = folder / "ours.yaml"
    tree = {
        "experiment": "ours",
        "data": {"path": str(shards)},
        "model": model,
        "train": {"steps": steps, "batch_size": batch, "validate_every": every},
        "ensemble": {"seeds": seeds},
        "logging": {"tensorboard": False},
    }
    file.write_text(yaml.safe_dump(tree))
    results = folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    command = [sys.executable, "-m", "ensemble", "train", "--config", str(file), "--results", str(results)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    seconds = time.perf_counter() - start
    rows = pq.read_table(results / "ours" / "members.parquet").to_pandas()
    loss = rows["last/validation/loss"]
    print(f"    ours: {len(rows)} members, validation loss {loss.mean():.4f} +- {loss.std():.4f}, {seconds:.1f} s")
    return seconds


def plain(archive: Path, model: dict, seeds: int, steps: int, batch: int, every: int) -> float:
    """Run the plain script once per seed, as many at a time as there are cores, one thread each; return the seconds."""
    options = {
        "data": archive, "steps": steps, "batch-size": batch, "width": model["n_embd"], "layers": model["n_layer"],
        "validate-every": every, "heads": model["n_head"], "head": model["head"]["layer_sizes"][0],
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def run(seed: int) -> float:
        command = [sys.executable, "-m", "benchmarks.plain", *words, "--seed", str(seed)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(output.rsplit("validation ", 1)[1].split()[0])

    start = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        losses = list(pool.map(run, range(seeds)))
    seconds = time.perf_counter() - start
    print(f"    plain: {seeds} seeds, loss on fixed windows {np.mean(losses):.4f}, {seconds:.1f} s")
    return seconds


def nested(archive: Path, model: dict, seeds: int, steps: int, batch: int) -> float:
    """Run one nested TorchTrainer per seed in a process of its own; return the seconds."""
    command = [sys.executable, "-m", "benchmarks.nested", "--data", str(archive), "--seeds", str(seeds)]
    command += ["--steps", str(steps), "--batch-size", str(batch), "--width", str(model["n_embd"])]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    print(f"    one nested TorchTrainer per seed: {seconds:.1f} s")
    return seconds


def small(folder: Path, shards: Path, archive: Path, arguments: argparse.Namespace) -> None:
    print(f"50 k parameters, 10 seeds, {arguments.steps} steps of batch 128, {arguments.rounds} rounds")
    ratios, nested_ratios = [], []
    for _ in range(arguments.rounds):
        theirs = plain(archive, SMALL, 10, arguments.steps, 128, arguments.steps // 20)
        mine = ours(folder, shards, SMALL, 10, arguments.steps, 128, arguments.steps // 20)
        ratios.append(theirs / mine)
        if arguments.nested:
            nested_ratios.append(nested(archive, SMALL, 10, arguments.steps, 128) / mine)
    print(f"  ten plain runs / ours: {np.median(ratios):.2f}x")
    if nested_ratios:
        print(f"  ten nested TorchTrainers / ours: {np.median(nested_ratios):.2f}x")


def large(folder: Path, shards: Path, archive: Path, arguments: argparse.Namespace) -> None:
    print("2.7 M parameters, 2 seeds of 10 and of 50 steps of batch 512, one thread each")
    seconds = {}
    for steps in (10, 50):
        seconds["plain", steps] = plain(archive, LARGE, 2, steps, 512, steps)
        seconds["ours", steps] = ours(folder, shards, LARGE, 2, steps, 512, steps)
    per_step = {who: (seconds[who, 50] - seconds[who, 10]) / 40 for who in ("plain", "ours")}
    ratio = seconds["plain", 50] / seconds["ours", 50]
    print(f"  measured, 50 steps with start-up: plain / ours {ratio:.2f}x")
    print(f"  per step of two seeds side by side: plain {per_step['plain']:.2f} s, ours {per_step['ours']:.2f} s")
    total = {who: 5 * (seconds[who, 50] + (1000 - 50) * per_step[who]) for who in per_step}
    print(f"  extrapolated to ten seeds of 1,000 steps: plain / ours {total['plain'] / total['ours']:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--nested", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--small", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--large", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards, archive = prepare(folder)
        if arguments.small:
            small(folder, shards, archive, arguments)
        if arguments.large:
            large(folder, shards, archive, arguments)


if __name__ == "__main__":
    main()
