"""Every benchmark runs with `--quick`: it exits with 0, prints its rows and its equivalence, and leaves no file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BY_NAME_ONLY, MODULES

pytestmark = pytest.mark.benchmark
ROOT = Path(__file__).parents[2]

ROWS = {  # a name that begins a line, in which a number follows
    "conversion": ["  ours", "  loop", "  cp", "ours against the loop:", "ours against cp:"],
    "windows": ["  memcpy", "  torch.index_select", "  ours", "  numpy strided", "  DataLoader, 2 workers"],
    "training_step": [
        "  plain PyTorch",
        "  ours fp32",
        "  ours bf16",
        "  products alone bf16",
        "  share of our bf16 step",
    ],
    "ensembles": ["    plain runs: loss", "    ours: loss", "  2 plain runs / ours:"],
    "overhead": ["  ours", "  reports once, members", "  a step", "  a step, steady pace: plain / ours"],
    "target": ["  ours, 1 run", "  plain, 1 run", "  ours, race, 1 run", "  plain, reuse_actors, 1 run", "    winner:"],
    "search": ["  best", "  random, none", "  gp, asha", "    race, to its end", "  200 skewed seeds", "  normal"],
    "tokenizer": ["  fit", "  encode", "  decode", "  tiny, 1,000 chunks", "  fast, 1,000 chunks"],
    "policy_training": [
        "  plain, one thread each",
        "  ours, the same recipe",
        "  products alone, bf16",
        "  share of ours",
    ],
    "closed_loop": ["  one process a member", "  ours ", "  ours is faster"],
    "record_search": [" +[0-9]+ s  0 ", " +[0-9]+ s  calm:", " +[0-9]+ s  skewed:"],
    "search_tune": ["  trials", "  largest relative difference"],
}
EQUIVALENCES = {  # checks that both sides do the same, at least; what the other benchmarks compare is not the same
    "conversion": 1, "windows": 2, "training_step": 1, "target": 3, "search": 1, "tokenizer": 2, "policy_training": 1,
    "closed_loop": 1, "search_tune": 2,
}  # fmt: skip


def quick(folder: Path, name: str, *options: str) -> str:
    """Run `python -m benchmarks NAME --quick` in an empty folder; return its output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "benchmarks", name, "--quick", *options]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert not list(folder.iterdir())
    return run.stdout


def check(name: str, output: str) -> None:
    """Assert that the output announces the benchmark, and holds its rows and equivalences."""
    _, heading, announcement, *lines = output.splitlines()
    assert heading == f"== {name}"
    assert announcement.endswith("(--quick: seconds, its numbers mean nothing)")
    missing = [row for row in ROWS[name] if not any(re.match(rf"{row}.*\d", line) for line in lines)]
    assert not missing, output
    assert sum(line.startswith("equivalence: ") for line in lines) >= EQUIVALENCES.get(name, 0)


def test_every_benchmark_is_listed_and_checked_here() -> None:
    sources = [path for path in (ROOT / "benchmarks").glob("*/*.py") if "announce(options" in path.read_text()]
    listed = {**MODULES, **BY_NAME_ONLY}
    assert {f"{path.parent.name}.{path.stem}" for path in sources} == set(listed.values())
    assert ROWS.keys() == listed.keys()


@pytest.mark.parametrize(
    "name", ["conversion", "windows", "training_step", "search", "record_search", "tokenizer", "closed_loop"]
)
def test_a_benchmark_without_a_ray_runs(tmp_path: Path, name: str) -> None:
    check(name, quick(tmp_path, name))


def test_an_epoch_of_a_policy_is_measured(tmp_path: Path) -> None:
    check("policy_training", quick(tmp_path, "policy_training", "--family", "pi0_fast"))


@pytest.mark.slow  # as many processes again
def test_epochs_of_both_policies_are_measured(tmp_path: Path) -> None:
    output = quick(tmp_path, "policy_training")
    check("policy_training", output)
    assert output.count("equivalence: ") == 2


@pytest.mark.ray
def test_the_overhead_of_a_search_is_measured_in_one_ray(tmp_path: Path) -> None:
    check("overhead", quick(tmp_path, "overhead"))


@pytest.mark.ray
def test_an_ensemble_of_a_small_model_is_measured_in_one_ray(tmp_path: Path) -> None:
    check("ensembles", quick(tmp_path, "ensembles", "--no-large", "--no-nested"))


@pytest.mark.slow  # four Rays one after the other
@pytest.mark.ray
def test_ensembles_run_as_a_whole(tmp_path: Path) -> None:
    output = quick(tmp_path, "ensembles")
    check("ensembles", output)
    assert "2 nested TorchTrainers / ours:" in output
    assert "extrapolated to ten seeds" in output


@pytest.mark.slow  # four searches, two of them with a new process for each trial
@pytest.mark.ray
def test_the_time_to_a_target_is_measured(tmp_path: Path) -> None:
    check("target", quick(tmp_path, "target"))


@pytest.mark.slow  # trains 1,200 steps, as the table did
@pytest.mark.ray
def test_a_search_by_ray_tune_agrees_with_its_replay(tmp_path: Path) -> None:
    output = quick(tmp_path, "search_tune")
    check("search_tune", output)
    assert "the same configuration, end and member-steps in 2 of 2 trials" in output


@pytest.mark.slow  # compiling takes a minute or two
def test_a_compiled_training_step_is_measured(tmp_path: Path) -> None:
    assert "  ours fp32 compiled" in quick(tmp_path, "training_step", "--compile")
