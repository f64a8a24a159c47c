"""Commands that need no Ray: exit codes, messages, and what is loaded for them."""

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ensemble import __version__
from ensemble.data.notes import has_manifest
from ensemble.lock import held_beside

Run = Callable[..., subprocess.CompletedProcess[str]]

HEAVY = ("torch", "ray", "mujoco", "matplotlib", "optuna")
SPACE = "data: {source: double_pendulum}\ntrain: {optimizer: {name: adam, lr: {choice: [1e-3, 1e-2]}}}\n"


def loaded(result: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the heavy packages that a run with -X importtime loaded."""
    names = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    return names & set(HEAVY)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["schema"], ["schema", "--json"], ["tune", "--help"], ["tnue"]]
)
def test_light_commands_load_nothing_heavy(run: Run, arguments: list[str]) -> None:
    result = run(*arguments, python=("-X", "importtime"))
    assert loaded(result) == set()
    assert result.returncode == (2 if arguments == ["tnue"] else 0)


def test_a_mistake_in_the_file_is_told_with_its_place_before_anything_is_loaded(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("data: {source: double_pendulum}\ntrain:\n  stepss: 3\n  batch_size: many\n")
    result = run("tune", "--space", "bad.yaml", python=("-X", "importtime"))
    assert result.returncode == 2
    assert "bad.yaml:3:3: train.stepss: unknown key 'stepss'; did you mean 'steps'?" in result.stderr
    assert "train.batch_size" in result.stderr
    assert "Traceback" not in result.stderr
    assert loaded(result) == set()
    assert list(tmp_path.iterdir()) == [tmp_path / "bad.yaml"]


def test_typos_are_met_with_the_nearest_name(run: Run, tmp_path: Path) -> None:
    assert "Did you mean 'tune'?" in run("tnue").stderr
    assert "--space" in run("tune", "--spcae", "x").stderr
    missing = run("tune", "--space", "quickstrat.yaml")
    assert missing.returncode == 2
    assert "quickstart" in missing.stderr


def test_the_version_is_the_package_s(run: Run) -> None:
    assert run("--version").stdout.split()[-1] == __version__


def test_train_refuses_what_is_left_to_choose_and_points_to_tune(run: Run, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    result = run("train", "--config", "space.yaml")
    assert result.returncode == 2
    assert "train.optimizer.lr is a distribution; `ensemble tune --space space.yaml`" in result.stderr


def test_a_trial_that_this_machine_cannot_hold_is_refused_before_data_are_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    result = run("tune", "--space", "space.yaml", "--set", "resources.cpus_per_worker=999")
    assert result.returncode == 2
    assert "needs 999 CPU" in result.stderr
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("resources.cpus_per_worker=999", 2),
        ("search.metric=validation/los", 2),
        ("train.init_from=nowhere", 2),
        ("data={path: nowhere.h5}", 4),
        ("data={path: bad.h5}", 4),
    ],
)
def test_a_run_that_is_refused_leaves_nothing(run: Run, tmp_path: Path, override: str, code: int) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "bad.h5").write_text("no HDF5")
    short = ("--set", "train.steps=20", "--set", override)
    result = run("tune", "--space", "space.yaml", "--results", "my/results", *short)
    assert result.returncode == code, result.stderr
    made = ["my"] if "metric" in override else []  # data, which say what can be measured; the next run uses them
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.h5", *made, "space.yaml"]
    assert [path.name for path in tmp_path.glob("my/*")] == ["shards"] * len(made)
    assert list(tmp_path.glob("my/shards/.*")) == []


def test_inside_a_job_a_relative_results_directory_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    result = run("tune", "--space", "space.yaml", RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
    assert result.returncode == 2
    assert "absolute --results" in result.stderr


def test_a_file_simulated_inspected_and_converted_becomes_a_data_set(run: Run, tmp_path: Path) -> None:
    made = run("simulate", "double_pendulum", "--episodes", "12", "--steps", "20", "--torques", "--out", "dp.h5")
    assert made.returncode == 0
    assert made.stdout.splitlines()[-1] == "next: ensemble inspect dp.h5"
    assert run("simulate", "double_pendulum", "--out", "dp.h5").returncode == 2
    seen = run("inspect", "dp.h5", "--write", "mine.yaml")
    assert seen.returncode == 0
    assert "12 episodes" in seen.stdout
    assert (tmp_path / "mine.yaml").is_file()
    converted = run("convert", "dp.h5", "--out", "shards/dp")
    assert converted.returncode == 0
    assert "12 episodes, 252 points" in converted.stdout
    assert has_manifest(tmp_path / "shards" / "dp")


def copied(text: str) -> list[str]:
    """The words that a shell makes of the command in a line of output, behind `next:` or in backquotes."""
    line = text.splitlines()[-1]
    quoted = re.search(r"`(.+?)`", line)
    return shlex.split(quoted[1] if quoted else line.removeprefix("next: "))


def test_a_printed_command_can_be_copied_whatever_is_in_its_paths(run: Run, tmp_path: Path) -> None:
    made = run("simulate", "double_pendulum", "--episodes", "12", "--steps", "20", "--out", "my data.h5")
    assert copied(made.stdout) == ["ensemble", "inspect", "my data.h5"]
    assert copied(run("inspect", "my data.h5").stdout)[1:3] == ["inspect", "my data.h5"]
    written = run("inspect", "my data.h5", "--write", "my space.yaml")
    assert copied(written.stdout) == ["ensemble", "train", "--config", "my space.yaml"]
    assert "# Command: ensemble train --config 'my space.yaml'\n" in (tmp_path / "my space.yaml").read_text()
    converted = run("convert", "my data.h5", "--out", "my shards/dp")
    again = ["--set", "data.path=my shards/dp"]
    assert copied(converted.stdout)[:2] == again
    planned = run("plan", "my space.yaml", *again)
    assert planned.returncode == 0, planned.stderr
    assert copied(planned.stdout)[:5] == ["ensemble", "plan", "my space.yaml", *again]
    (tmp_path / "a search.yaml").write_text(SPACE)
    assert copied(run("train", "--config", "a search.yaml").stderr) == ["ensemble", "tune", "--space", "a search.yaml"]
    assert copied(run("evaluate", "my run", "--table-only").stderr)[-3:] == ["ensemble", "evaluate", "my run"]


def test_bad_data_and_missing_runs_have_their_exit_codes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.h5").write_bytes(b"not HDF5 at all")
    broken = run("convert", "broken.h5", "--out", "shards/broken")
    assert broken.returncode == 4
    assert "broken.h5" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert run("inspect", "nowhere.h5").returncode == 4
    assert run("report", "results/nowhere").returncode == 2
    assert run("resume", "results/nowhere").returncode == 2
    wrong = run("convert", "broken.h5", "--out", "x", "--map", "state")
    assert wrong.returncode == 2
    assert "--map state: needs NAME=VALUE" in wrong.stderr
    (tmp_path / "file").write_text("")
    full = run("tune", "--space", "quickstart.yaml", "--results", "file/results")
    assert full.returncode == 5


def test_the_doctor_closes_an_open_token_file(run: Run, tmp_path: Path) -> None:
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret-canary")
    token.chmod(0o644)
    result = run("doctor", HOME=str(tmp_path))
    assert result.returncode == 0
    assert "fixed to 0600" in result.stdout
    assert token.stat().st_mode & 0o777 == 0o600
    assert "secret-canary" not in result.stdout + result.stderr
    for word in ("python", "torch", "cores", "bf16", "disk"):
        assert word in result.stdout


def test_the_doctor_lists_every_package_that_a_command_may_need_later(run: Run, tmp_path: Path) -> None:
    required = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
    at_once = {"click", "pydantic", "pyyaml", "rich"}  # without which no command would begin
    names = {re.match(r"[a-z0-9]+", text)[0] for text in required} - at_once
    listed = {line.split()[0] for line in run("doctor", HOME=str(tmp_path)).stdout.splitlines()}
    assert {"gymnasium", "mujoco", "tokenizers", "pillow"} < names
    assert names <= listed


def rollouts(path: Path) -> Path:
    """Write two short episodes as flat npz rollouts."""
    starts = np.zeros(40, bool)
    starts[[0, 20]] = True
    obs = np.linspace(0, 1, 120).reshape(40, 3)
    np.savez(path, obs=obs, actions=obs[:, :1], rewards=obs[:, 0], episode_starts=starts)
    return path


def test_no_command_writes_over_files_that_are_not_its_own(run: Run, tmp_path: Path) -> None:
    data = rollouts(tmp_path / "data.npz")
    before = data.read_bytes()
    written = run("inspect", "data.npz", "--write", "data.npz", "--overwrite")
    assert (written.returncode, data.read_bytes()) == (2, before)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "shard-thesis.parquet").write_text("precious")
    converted = run("convert", "data.npz", "--out", "mine")
    assert converted.returncode == 2
    assert "mine holds other files (shard-thesis.parquet)" in converted.stderr
    (tmp_path / "space.yaml").write_text("data: {source: double_pendulum}\n")
    trained = run("train", "--config", "space.yaml", "--results", ".", "--set", "experiment=mine", "--overwrite")
    assert trained.returncode == 2
    assert "exists and is no run directory" in trained.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["shard-thesis.parquet"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.path=[]", "data.path"),
        ("data.split.train=[]", "data.split.train"),
        ("train.optimizer.betas=[0.9]", "train.optimizer.betas"),
        ("train.checkpoint_every=7", "checkpoint_every 7 is no multiple of validate_every 100"),
    ],
)
def test_values_of_the_wrong_length_are_refused_in_words(run: Run, tmp_path: Path, override: str, said: str) -> None:
    (tmp_path / "space.yaml").write_text("data: {source: double_pendulum}\n")
    result = run("train", "--config", "space.yaml", "--set", override)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_feature_mapped_twice_is_refused(run: Run, tmp_path: Path) -> None:
    rollouts(tmp_path / "data.npz")
    result = run("convert", "data.npz", "--out", "s", "--map", "state=obs", "--map", "state=actions")
    assert result.returncode == 2
    assert "state is given twice" in result.stderr


def test_results_in_the_place_of_a_file_are_refused_before_data_are_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("data: {source: double_pendulum}\n")
    (tmp_path / "taken").write_text("")
    result = run("train", "--config", "space.yaml", "--results", "taken/results")
    assert result.returncode == 5
    assert "is a file; results need a directory" in result.stderr
    assert not (tmp_path / "shards").exists()


def test_a_file_that_another_process_writes_is_left_to_it(run: Run, tmp_path: Path) -> None:
    rollouts(tmp_path / "data.npz")
    commands = [("inspect", "data.npz", "--write", "new.yaml"), ("simulate", "inverted_pendulum", "--out", "new.h5")]
    for command in commands:
        with held_beside(tmp_path / command[-1]):
            result = run(*command, "--overwrite")
        assert result.returncode == 2
        assert f"{command[-1]} is being written by process" in result.stderr
        assert not (tmp_path / command[-1]).exists()


def test_a_name_that_is_no_text_is_refused_and_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    rollouts(tmp_path / "data.npz")
    wrong = os.fsdecode(b"d\xffta.npz")
    for name in (wrong, f"folder/{wrong}"):
        try:
            (tmp_path / name).write_bytes((tmp_path / "data.npz").read_bytes())
        except OSError:
            pytest.skip("this file system takes no such name")
    for source, code in ((wrong, 2), ("folder", 4)):
        result = run("convert", source, "--out", "shards")
        assert result.returncode == code
        assert "the name d?ta.npz is no text in UTF-8; rename" in result.stderr
        assert not (tmp_path / "shards").exists()
