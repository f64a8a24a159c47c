"""`ensemble plan` as a user runs it."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

SPACE = """\
data: {source: double_pendulum, simulate: {episodes: 12, steps: 24}}
model: {n_layer: 1, n_head: 2, n_embd: {choice: [7, 8, 16]}, history: 5, block_size: 8}
train: {steps: 20, batch_size: 8, rollout: {horizon: 5, windows: 16}, optimizer: {lr: {log_uniform: [1e-4, 1e-2]}}}
search: {trials: 6, seeds: 2, constraints: ["train.optimizer.lr < 1"]}
ensemble: {finalists: 2, seeds: 3}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def packages_loaded(result: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the heavy packages that a run with -X importtime loaded."""
    names = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    return names & {"torch", "ray", "mujoco", "optuna", "numpy"}


@pytest.mark.parametrize("broken", ["model: {n_layers: 3}\n", "search: {constraints: [model.n_lyer > 3]}\n"])
def test_a_bad_file_is_refused_without_anything_heavy(run: Run, tmp_path: Path, broken: str) -> None:
    (tmp_path / "bad.yaml").write_text("data: {source: double_pendulum}\n" + broken)
    result = run("plan", "bad.yaml", python=("-X", "importtime"))
    assert result.returncode == 2
    assert "error: bad.yaml:2:" in result.stderr
    assert "did you mean" in result.stderr
    assert packages_loaded(result) == set()


def test_a_plan_says_what_a_search_amounts_to_and_leaves_nothing(run: Run, space: Path, tmp_path: Path) -> None:
    result = run("plan", "space", python=("-X", "importtime"))
    assert result.returncode == 0, result.stderr
    assert {"ray", "optuna"} & packages_loaded(result) == set()
    out = result.stdout
    for words in (
        "space: infinitely many combinations",
        "7, 8 or 16",
        "what must hold: train.optimizer.lr < 1",
        "% of 500 drawn, for model: n_embd is not divisible by n_head",
        "6 trials x 2 seeds = 12 members",
        "2 x 3 fresh seeds = 6 members",
        "12 episodes, 300 points",
        "smallest",
        "FLOPs of a step",
        "pack that fits",
        "if asha leaves",
    ):
        assert words in out, out
    assert out.splitlines()[-1] == "next: ensemble tune --space space"
    assert list(tmp_path.iterdir()) == [space]


@pytest.mark.slow
def test_a_calibration_makes_the_data_once_and_says_so(run: Run, space: Path, tmp_path: Path) -> None:
    result = run("plan", "space.yaml", "--calibrate")
    assert result.returncode == 0, result.stderr
    assert "--calibrate needs the data" in result.stdout
    assert "simulating 12 episodes" in result.stdout
    assert "calibrated on this machine with" in result.stdout
    assert "a member's step" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"space.yaml", "shards"}
    again = run("plan", "space.yaml", "--set", "search.trials=3")
    assert "3 trials x 2 seeds" in again.stdout
    assert "shards/double_pendulum-" in again.stdout
    assert again.stdout.splitlines()[-1] == (
        "next: ensemble plan space.yaml --set search.trials=3 --calibrate   or   "
        "ensemble tune --space space.yaml --set search.trials=3"
    )


def test_one_of_each_is_singular_in_a_plan(run: Run, space: Path) -> None:
    data = "data={source: double_pendulum, simulate: {episodes: 1, steps: 99}}"
    one = [f"{name}=1" for name in ("search.trials", "search.seeds", "ensemble.finalists", "ensemble.seeds")]
    one += [data, "model.n_embd={choice: [8]}", "train.optimizer.lr={choice: [1e-3]}", "search.constraints=[]"]
    result = run("plan", "space.yaml", *(f"--set={text}" for text in one))
    assert result.returncode == 0, result.stderr
    for words in (
        "space: 1 combination\n",
        "1 trial x 1 seed = 1 member,",
        "1 x 1 fresh seed = 1 member",
        "1 episode, 100 points",
    ):
        assert words in re.sub(r" +\n", "\n", result.stdout), result.stdout


def test_what_does_not_fit_is_named_with_the_first_that_does_not(run: Run, space: Path) -> None:
    result = run("plan", "space.yaml", "--set", "resources.memory=400000000")
    assert result.returncode == 0
    assert "does not fit: n_layer=1 n_head=2 n_embd=16 block_size=8 with batch 8 needs" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("next: leave out what does not fit")


def test_a_trial_that_no_node_holds_is_refused(run: Run, space: Path) -> None:
    result = run("plan", "space.yaml", "--set", "resources.cpus_per_worker=999")
    assert result.returncode == 2
    assert "needs 999 CPU" in result.stderr


def test_a_plain_ensemble_has_a_plan_as_well(run: Run, space: Path) -> None:
    overrides = [f"--set={text}" for text in ("model.n_embd=8", "train.optimizer.lr=1e-3", "ensemble.seeds=4")]
    result = run("plan", "space.yaml", *overrides)
    assert result.returncode == 0, result.stderr
    assert "one configuration x 4 seeds = 4 members" in result.stdout
    assert re.search(r"\d packs? at a time of 1 CPU", result.stdout)
    assert "next: ensemble train --config space.yaml --set model.n_embd=8" in result.stdout


@pytest.mark.ray
def test_at_a_cluster_the_plan_lists_what_each_node_holds(run: Run, space: Path, local_ray: None) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    result = run("plan", "space.yaml", "--address", address, **ray_authentication())
    assert result.returncode == 0, result.stderr
    assert "trials at a time" in result.stdout
    assert "2 trials at a time of 1 CPU" in result.stdout


def ray_authentication() -> dict[str, str]:
    """Return how this process identifies itself to its Ray."""
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}


@pytest.mark.parametrize(
    "override",
    ["search.metric=validation/los", "search.points=[{train.optimizer.lr: 0.5}]", "search.warm_start=[nowhere]"],
)
def test_plan_and_tune_refuse_with_the_same_words(run: Run, space: Path, override: str) -> None:
    plan = run("plan", str(space), "--set", override)
    tune = run("tune", "--space", str(space), "--set", override)
    assert (plan.returncode, tune.returncode) == (2, 2)
    assert plan.stderr.startswith(f"error: {override.partition('=')[0]}")
    assert plan.stderr == tune.stderr
