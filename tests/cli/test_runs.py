"""The main job as a user runs it, each time with a Ray of its own: data, trials, rows, table; and what goes wrong."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ensemble.study.removal import foreign_files

pytestmark = pytest.mark.ray

Run = Callable[..., subprocess.CompletedProcess[str]]
HERE = Path(__file__).parent

TINY = """\
# Does the learning rate matter?
# ensemble tune --space tiny.yaml; seconds.
experiment: tiny
data: {source: double_pendulum, simulate: {episodes: 20, steps: 30}}
model: {n_layer: 1, n_head: 2, n_embd: 8, history: 5, block_size: 8, head: {layer_sizes: [8]}}
train:
  steps: 20
  batch_size: 8
  optimizer: {name: adam, lr: {choice: [1e-3, 1e-2]}}
  rollout: {horizon: 5, windows: 16}
search: {sampler: grid, pruner: none, seeds: 2}
ensemble: {finalists: 0}
logging: {tensorboard: false}
"""


def members(run: Path) -> list[dict[str, object]]:
    return list(pq.read_table(run / "members.parquet", partitioning=None).to_pylist())


def weights(run: Path) -> dict[tuple[object, object], object]:
    return {(row["config_hash"], row["seed"]): row["weights_sha256"] for row in members(run)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the experiment file, in which one run after the other shares the data."""
    directory = tmp_path_factory.mktemp("place")
    (directory / "tiny.yaml").write_text(TINY)
    return directory


SECRETS = {
    "AWS_ACCESS_KEY_ID": "canary-aws-id",
    "AWS_SECRET_ACCESS_KEY": "canary-aws-secret",
    "AWS_SESSION_TOKEN": "canary-aws-session",
    "HF_TOKEN": "canary-hugging-face",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow",
    "RAY_AUTH_TOKEN": "canary-ray-of-32-characters-at-least",
    "WANDB_API_KEY": "canary-wandb",
}


@pytest.fixture(scope="module")
def ray_files() -> Iterator[Path]:
    """The directory in which Ray's own files are; its sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="e", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def finished(place: Path, run_in: Run, ray_files: Path) -> subprocess.CompletedProcess[str]:
    """The finished run, and what it printed."""
    return run_in(place, "tune", "--space", "tiny.yaml", RAY_TMPDIR=str(ray_files), **SECRETS)


def test_one_command_simulates_converts_trains_and_shows_a_table(
    finished: subprocess.CompletedProcess[str], place: Path
) -> None:
    lines = finished.stdout.splitlines()
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert "starting Ray" in lines
    assert "\x1b" not in finished.stdout
    assert lines[0].startswith("simulating 20 episodes of double_pendulum to shards/")
    assert any(line.startswith("device cpu, fp32, 1 thread a process") for line in lines)
    assert any(line.startswith("data shards/double_pendulum-") for line in lines)
    assert "2 configurations x 2 seeds (search) to results/tiny" in lines
    assert any("linear least" in line for line in lines)
    assert lines[-1].startswith("next: ")
    run = place / "results" / "tiny"
    assert [row["status"] for row in members(run)] == ["completed"] * 4
    assert {row["role"] for row in members(run)} == {"search"}
    assert (run / "experiment.yaml").read_text().startswith("# Does the learning rate matter?\n")
    for name in ("report.md", "summary.parquet", "curves.parquet", "baselines.parquet", "figures/curves.png"):
        assert (run / name).is_file(), name
    assert list(foreign_files(run)) == []  # --overwrite would find nothing that is not its own


def test_no_secret_of_the_environment_is_in_any_file_of_the_run_or_of_ray(
    finished: subprocess.CompletedProcess[str], place: Path, ray_files: Path
) -> None:
    assert finished.returncode == 0
    logs = [path for path in ray_files.rglob("*") if path.is_file()]
    assert "runtime_env_agent.log" in {path.name for path in logs}
    for path in [*logs, *(path for path in place.rglob("*") if path.is_file())]:
        content = path.read_bytes()
        assert not [name for name, secret in SECRETS.items() if secret.encode() in content], path
    assert [path.stat().st_mode & 0o777 for path in ray_files.iterdir()] == [0o700]


def test_the_same_command_again_shows_the_finished_table_without_ray(
    finished: subprocess.CompletedProcess[str], place: Path, run_in: Run
) -> None:
    before = (place / "results" / "tiny" / "members.parquet").stat().st_mtime_ns
    again = run_in(place, "tune", "--space", "tiny.yaml", python=("-X", "importtime"))
    assert again.returncode == 0
    assert "is finished" in again.stdout
    assert "lr=0.01" in again.stdout
    names = {line.rpartition("|")[2].strip() for line in again.stderr.splitlines()}
    assert not names & {"ray", "torch"}
    assert (place / "results" / "tiny" / "members.parquet").stat().st_mtime_ns == before


def test_another_experiment_of_the_name_is_refused_and_the_run_stays(
    finished: subprocess.CompletedProcess[str], place: Path, run_in: Run
) -> None:
    result = run_in(place, "tune", "--space", "tiny.yaml", "--set", "train.batch_size=16")
    assert result.returncode == 2
    assert "train.batch_size is 8 there, 16 here" in result.stderr
    assert len(members(place / "results" / "tiny")) == 4


def test_how_members_are_packed_and_spread_changes_no_bit(
    finished: subprocess.CompletedProcess[str], place: Path, run_in: Run
) -> None:
    alone = run_in(place, "tune", "--space", "tiny.yaml", "--results", "alone", "--set", "resources.pack=1")
    assert alone.returncode == 0, alone.stderr
    found = weights(place / "results" / "tiny")
    assert weights(place / "alone" / "tiny") == found
    arguments = ("--config", "tiny.yaml", "--results", "fixed", "--set", "train.optimizer.lr=1e-2")
    ensemble = run_in(place, "train", *arguments, "--set", "ensemble.seeds=[1, 0]", "--set", "resources.pack=2")
    assert ensemble.returncode == 0, ensemble.stderr
    spread = weights(place / "fixed" / "tiny")
    assert {row["role"] for row in members(place / "fixed" / "tiny")} == {"ensemble"}
    assert len(spread) == 2
    assert spread.items() <= found.items()


def damaged_member(directory: Path) -> Path:
    """Leave what passes for a trained member until its files are read."""
    directory.mkdir()
    (directory / "model.json").write_text("{torn")
    return directory


def test_a_trial_that_fails_leaves_the_others_alone(place: Path, run_in: Run) -> None:
    torn = damaged_member(place / "torn")
    override = f"train.init_from={{choice: [null, {torn}]}}"
    rate = "train.optimizer.lr=1e-3"
    result = run_in(place, "tune", "--space", "tiny.yaml", "--results", "one", "--set", override, "--set", rate)
    assert result.returncode == 0, result.stderr
    assert "1 failed" in result.stdout
    rows = members(place / "one" / "tiny")
    assert sorted(str(row["status"]) for row in rows) == ["completed", "completed", "failed", "failed"]
    assert all(str(torn) in str(row["error"]) for row in rows if row["status"] == "failed")
    log = next(line for line in result.stdout.splitlines() if line.strip().startswith("log: "))
    assert "Traceback" in (place / log.strip().removeprefix("log: ")).read_text()


def test_a_bug_in_every_trial_stops_after_a_few_and_nothing_finished_has_its_exit_code(
    place: Path, run_in: Run
) -> None:
    paths = ", ".join(str(damaged_member(place / f"torn-{number}")) for number in range(12))
    result = run_in(
        place, "tune", "--space", "tiny.yaml", "--results", "all",
        "--set", f"train.init_from={{choice: [{paths}]}}", "--set", "train.optimizer.lr=1e-3",
    )  # fmt: skip
    assert result.returncode == 3
    assert "stopped: the first trials all failed with one error" in result.stdout
    assert len(members(place / "all" / "tiny")) < 12
    assert "no member finished" in result.stderr


def wait_for_processes_in(directory: Path) -> list[str]:
    """Return the processes that work in a directory and have not ended within 10 s."""
    deadline = time.monotonic() + 10
    while (left := list(processes_in(directory))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def processes_in(directory: Path) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if (process / "cwd").readlink() == directory:
                yield (process / "cmdline").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_resumed_to_the_same_bits(
    finished: subprocess.CompletedProcess[str], place: Path, run_in: Run, number: int, code: int
) -> None:
    results = place / f"interrupted-{code}"
    command = [sys.executable, "-u", "-m", "ensemble", "tune", "--space", "tiny.yaml", "--results", str(results)]
    slow = [f"--set=train.{key}" for key in ("steps=3000", "validate_every=50", "checkpoint_every=50")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [*command, *slow], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run = results / "tiny"
    deadline = time.monotonic() + 120
    while not list(run.glob("members/*/checkpoints/step-*/MANIFEST.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert wait_for_processes_in(place) == []
    assert f"ensemble resume {run}" in output
    assert "Traceback" not in errors
    assert " of 2 trials, 100%" not in output
    if number == signal.SIGINT:
        assert re.search(r"^0 of 2 trials, \d+%, .*, [12] paused$", output, re.MULTILINE), output
    refused = run_in(place, *command[4:], *slow)
    assert refused.returncode == 2
    assert "unfinished" in refused.stderr
    resumed = run_in(place, "resume", str(run))
    assert resumed.returncode == 0, resumed.stderr
    if number == signal.SIGTERM:
        whole = run_in(place, "tune", "--space", "tiny.yaml", "--results", "whole", *slow)
        assert whole.returncode == 0, whole.stderr
        assert weights(place / "whole" / "tiny") == weights(run)
