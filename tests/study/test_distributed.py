"""Trials with several Ray Train workers: the same numbers as one process, and free resources however they end."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from ensemble.run_directory import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Tiny = Callable[..., Path]


def ensemble(directory: Path, *arguments: str) -> str:
    """Run the command and return what it printed."""
    return python(directory, "-m", "ensemble", *arguments)


def python(directory: Path, *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=kept, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def curve(run: Path, metric: str) -> dict[tuple[int, int], float]:
    rows = pq.read_table(run / "curves.parquet").to_pylist()
    return {(row["seed"], row["step"]): row["value"] for row in rows if row["metric"] == metric}


def test_two_workers_train_a_pack_of_four_as_one_process_does(tiny: Tiny, tmp_path: Path) -> None:
    tiny(("n_layer: 1", "n_layer: 1, dropout: 0.1"))
    common = ("--set", "train.optimizer.lr=1e-3", "--set", "ensemble.seeds=4", "--set", "resources.pack=4")
    ensemble(tmp_path, "train", "--config", "tiny.yaml", "--results", "one", *common)
    said = ensemble(
        tmp_path, "train", "--config", "tiny.yaml", "--results", "two", *common, "--set", "resources.workers=2"
    )
    assert "2 workers of 1 CPU each" in said
    one, two = tmp_path / "one" / "tiny", tmp_path / "two" / "tiny"
    rows = pq.read_table(two / "members.parquet").to_pylist()
    assert [(row["status"], row["world_size"], row["pack"]) for row in rows] == [("completed", 2, 4)] * 4
    for metric in ("train/loss", "validation/loss", "validation/rollout_rmse"):
        expected, found = curve(one, metric), curve(two, metric)
        assert expected.keys() == found.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    for row in rows:
        name = f"{row['config_hash']}-s{row['seed']}"
        expected = load_file(RunDirectory(one).member(name).weights)
        for parameter, weights in load_file(RunDirectory(two).member(name).weights).items():
            np.testing.assert_allclose(weights, expected[parameter], atol=1e-5, err_msg=parameter)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("title", ["ray::ImplicitFunc", "ray::TrainController", "ray::RayTrainWorker"])
def test_a_trial_that_is_killed_gives_its_workers_back_even_beside_another_ray(
    tiny: Tiny, tmp_path: Path, title: str
) -> None:
    tiny()
    script = Path(__file__).parent / "killed_trial.py"
    said = python(tmp_path, str(script), str(tmp_path), title)
    assert "failed" in said
    assert said.splitlines()[-1] == "free cores: 2.0"


POLICY = """\
experiment: policy
data: {source: inverted_pendulum, simulate: {episodes: 30, steps: 40}, starts: [0, 3, 9, 20]}
model: {chunk: 8, n_layer: 1, n_head: 2, n_embd: 16, n_inner: 32, dropout: 0.1, %s}
train: {steps: 20, batch_size: 16, validate_every: 10, validation_windows: 32, rollout: {windows: 16}}
ensemble: {seeds: 2}
resources: {pack: 2}
"""
TOKENS = "tokenizer: {kind: tiny, scale: 10, vocabulary: 200, max_length: 12}"


@pytest.mark.parametrize("family", ["family: pi0", f"family: pi0_fast, {TOKENS}"])
def test_two_workers_train_a_policy_as_one_process_does(tmp_path: Path, family: str) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY % family)
    for workers in (1, 2):
        command = ("train", "--config", "policy.yaml", "--results", f"r{workers}")
        ensemble(tmp_path, *command, "--set", f"resources.workers={workers}")
    one, two = tmp_path / "r1" / "policy", tmp_path / "r2" / "policy"
    for metric in ("train/loss", "validation/loss", "validation/action_mae"):
        expected, found = curve(one, metric), curve(two, metric)
        assert expected.keys() == found.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    for row in pq.read_table(two / "members.parquet").to_pylist():
        assert row["world_size"] == 2
        name = f"{row['config_hash']}-s{row['seed']}"
        expected = load_file(RunDirectory(one).member(name).weights)
        for parameter, weights in load_file(RunDirectory(two).member(name).weights).items():
            counted = np.ones(weights.shape, bool)
            if parameter.endswith("in_proj_bias"):
                counted[..., 16:32] = False  # of keys: their true gradient is zero
            np.testing.assert_allclose(weights[counted], expected[parameter][counted], atol=1e-5, err_msg=parameter)
