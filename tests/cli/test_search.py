"""A search as a user runs it, killed, interrupted, resumed and extended; each time with a Ray of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pyarrow.parquet as pq
import pytest

from ensemble.search_log import planned_trials
from ensemble.store import read_record, write_record

pytestmark = pytest.mark.ray

Run = Callable[..., subprocess.CompletedProcess[str]]

SPACE = """\
# Which learning rate?
experiment: hunt
data: {source: double_pendulum, simulate: {episodes: 20, steps: 30}}
model: {n_layer: 1, n_head: {choice: [1, 2, 3]}, n_embd: {choice: [8, 12]}, history: 5, block_size: 8}
train:
  steps: 400
  batch_size: 8
  validate_every: 20
  checkpoint_every: 40
  optimizer: {name: adam, lr: {log_uniform: [1e-4, 3e-2]}}
  rollout: {horizon: 5, windows: 16}
search: {trials: 6, seeds: 2, order: sync, lag: 2, startup: 3, grace: 40}
ensemble: {finalists: 2, seeds: 2}
logging: {tensorboard: false}
"""
HOW = {"seconds", "samples_per_second", "pack", "versions", "git_commit"}  # columns on how a row came about


def table(run: Path, name: str) -> list[dict[str, Any]]:
    return list(pq.read_table(run / name, partitioning=None).to_pylist())


def members(run: Path) -> dict[tuple[str, int], dict[str, Any]]:
    rows = [{k: v for k, v in row.items() if k not in HOW} for row in table(run, "members.parquet")]
    return {(row["config_hash"], row["seed"]): row for row in rows}


def validations(run: Path) -> Counter[tuple[str, int]]:
    """How often each member was validated at each step, from the logs."""
    found: Counter[tuple[str, int]] = Counter()
    for log in run.glob("members/*/train.log"):
        found.update((log.parent.name, int(step)) for step in re.findall(r"step +(\d+) +train/loss", log.read_text()))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the experiment file, in which one run after the other shares the data."""
    directory = tmp_path_factory.mktemp("place")
    (directory / "hunt.yaml").write_text(SPACE)
    return directory


@pytest.fixture(scope="module")
def whole(place: Path, run_in: Run) -> Path:
    """The undisturbed search."""
    result = run_in(place, "tune", "--space", "hunt.yaml", "--results", "whole")
    assert result.returncode == 0, result.stderr
    return place / "whole" / "hunt"


def start(place: Path, results: Path, space: str = "hunt.yaml") -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-u", "-m", "ensemble", "tune", "--space", space, "--results", str(results)]
    return subprocess.Popen(
        command, cwd=place, env=environment | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ray_processes(mark: str) -> list[str]:
    """The command lines of processes that work for the run directory or Ray session of a killed driver."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (directory / "environ").read_bytes(), (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in environment and int(directory.name) != os.getpid():
            found.append(command.replace(b"\0", b" ").decode())
    return found


def test_a_search_ends_with_finalists_on_seeds_it_never_used(whole: Path) -> None:
    facts = json.loads((whole / "search.json").read_text())
    trials = table(whole, "trials.parquet")
    assert [row["number"] for row in trials] == list(range(6))
    assert {row["state"] for row in trials} <= {"completed", "pruned"}
    assert facts["finished"]
    assert facts["infeasible"] >= 0
    rows = members(whole)
    finalists = {key for key, row in rows.items() if row["role"] == "finalist"}
    assert {seed for _, seed in finalists} == {2, 3}
    assert {identity for identity, _ in finalists} == set(facts["finalists"])
    assert len(table(whole, "planned.parquet")) == len(rows)
    best = min((row for row in trials if row["state"] == "completed"), key=lambda row: row["value"])
    assert best["config_hash"] == facts["finalists"][0]
    seeds = [rows[best["config_hash"], seed]["validation/rollout_rmse"] for seed in (0, 1)]
    assert best["value"] == pytest.approx(sum(seeds) / 2)
    for name in ("report.html", "rungs.parquet", "importances.parquet", "optuna.journal"):
        assert (whole / name).is_file(), name


SMALL = """\
experiment: small
data: {source: double_pendulum, simulate: {episodes: 20, steps: 30}}
model: {n_layer: 1, n_head: 2, n_embd: {choice: [8, 12, 16]}, history: 5, block_size: 8}
train: {steps: 20, batch_size: 8, validate_every: 10, rollout: {horizon: 5, windows: 16}}
search: {trials: 5, seeds: 2, pruner: none}
ensemble: {finalists: 1, seeds: 2}
logging: {tensorboard: false}
"""


def test_a_space_smaller_than_its_trials_has_one_size_everywhere(place: Path, run_in: Run) -> None:
    """Three possible configurations, five trials: plan, tune, log, tables, report and dashboard count three."""
    (place / "small.yaml").write_text(SMALL)
    plan = run_in(place, "plan", "small.yaml").stdout
    assert re.search(r"search +3 trials x 2 seeds = 6 members", plan)
    tuned = run_in(place, "tune", "--space", "small.yaml", "--results", "small")
    run = place / "small" / "small"
    assert tuned.returncode == 0, tuned.stderr
    assert "3 configurations by tpe, x 2 seeds, then 1 finalist x 2 fresh seeds" in tuned.stdout
    assert "search.trials: 5 are asked for, the space holds 3 configurations" in tuned.stdout
    assert "3 of 3 trials" in tuned.stdout
    assert not re.search(r"\b5 (trials|configurations)|of 5\b", tuned.stdout)
    assert planned_trials(run / "search.log") == 3
    facts = json.loads((run / "search.json").read_text())
    assert (facts["trials_planned"], len(table(run, "trials.parquet")), facts["finished"]) == (3, 3, True)
    assert "3 of 3 planned: 3 completed" in (run / "report.md").read_text()
    backend = optuna.storages.journal.JournalFileBackend(str(run / "optuna.journal"))
    study = optuna.load_study(study_name="small", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3


def in_the_search(run: Path) -> bool:
    return len(list(run.glob("members/*/checkpoints/step-*/MANIFEST.json"))) > 2


def between_search_and_finalists(run: Path) -> bool:
    return (run / "search.json").is_file()


def in_the_finalists(run: Path) -> bool:
    return any(run.glob("members/*-s[23]/checkpoints/step-*/MANIFEST.json"))


def while_the_summary_is_written(run: Path) -> bool:
    return (run / "members.parquet").is_file() and (run / "summary.parquet").is_file()


def at_random(run: Path) -> bool:
    return (run / "search.log").is_file() and len((run / "search.log").read_bytes().splitlines()) > 23


MOMENTS = [in_the_search, between_search_and_finalists, in_the_finalists, while_the_summary_is_written, at_random]
IN_CI = (in_the_search,)


@pytest.mark.parametrize(
    "moment", [pytest.param(each, marks=() if each in IN_CI else (pytest.mark.slow,)) for each in MOMENTS]
)
def test_a_killed_search_is_resumed_to_the_same_table(
    whole: Path, place: Path, run_in: Run, moment: Callable[[Path], bool]
) -> None:
    results = place / moment.__name__
    run = results / "hunt"
    process = start(place, results)
    wait_for(lambda: moment(run), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while left := ray_processes(str(results)):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    finished = {file: file.stat().st_mtime_ns for file in run.glob("members/*/member.parquet")}
    before = validations(run)
    resumed = run_in(place, "resume", str(run))
    assert resumed.returncode == 0, resumed.stderr
    assert members(run) == members(whole)
    for name in ("trials.parquet", "rungs.parquet", "planned.parquet", "importances.parquet"):
        assert table(run, name) == table(whole, name), name
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in finished.items())
    again = [key for key, count in validations(run).items() if count > 1]
    assert before
    by_member = Counter(member for member, _ in again)
    assert all(count <= 2 for count in by_member.values())  # a checkpoint interval is two validations
    assert len(by_member) <= 4  # two trials of two seeds were running


def test_a_second_driver_leaves_at_once_and_names_the_first(place: Path, run_in: Run) -> None:
    results = place / "two"
    process = start(place, results)
    try:
        wait_for(lambda: (results / "hunt" / "search.log").is_file(), process)
        second = run_in(place, "tune", "--space", "hunt.yaml", "--results", str(results))
        assert second.returncode == 2
        assert f"is being written by process {process.pid} on " in second.stderr
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_ctrl_c_saves_and_twice_leaves_at_once(whole: Path, place: Path, run_in: Run) -> None:
    results = place / "interrupted"
    run = results / "hunt"
    process = start(place, results)
    wait_for(lambda: in_the_search(run), process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopping: running trials save their members" in output
    assert f"ensemble resume {run}" in output
    assert "Traceback" not in errors
    resumed = run_in(place, "resume", str(run))
    assert resumed.returncode == 0, resumed.stderr
    assert members(run) == members(whole)
    assert not [key for key, count in validations(run).items() if count > 1]  # nothing was done again


def test_more_trials_and_more_seeds_extend_a_finished_search(whole: Path, place: Path, run_in: Run) -> None:
    before = members(whole)
    more = run_in(place, "resume", str(whole), "--trials", "+2", "--seeds", "3")
    assert more.returncode == 0, more.stderr
    after = members(whole)
    assert before.items() <= after.items()
    assert len(table(whole, "trials.parquet")) == 8
    facts = json.loads((whole / "search.json").read_text())
    assert {seed for (identity, seed), row in after.items() if row["role"] == "finalist"} == {2, 3, 4}
    assert all((identity, 4) in after for identity in facts["finalists"])
    again = run_in(place, "resume", str(whole))
    assert again.returncode == 0
    assert "is finished" in again.stdout


def test_a_run_of_other_versions_is_not_continued_unless_forced(whole: Path, place: Path, run_in: Run) -> None:
    notes = read_record(whole / "data.json")
    notes["versions"]["torch"] = "2.0.0"
    write_record(whole / "data.json", notes)
    refused = run_in(place, "resume", str(whole), "--trials", "+1")
    assert refused.returncode == 2
    assert "torch was 2.0.0, is " in refused.stderr
    assert "--force" in refused.stderr


FAULTS = """\
# What goes wrong in one trial stays there.
experiment: faults
data: {source: double_pendulum, simulate: {episodes: 20, steps: 30}}
model: {n_layer: 1, n_head: 2, n_embd: {choice: [8, 100000]}, history: 5, block_size: 8, head: {layer_sizes: []}}
train:
  steps: 40
  batch_size: 8
  optimizer: {name: sgd, lr: {choice: [1e-3, 2e-3, 1e30]}}
  init_from: {choice: [null, TORN]}
  rollout: {horizon: 5, windows: 16}
search: {sampler: grid, trials: 12, seeds: 2, order: sync, lag: 1, CONSTRAINTS}
ensemble: {finalists: 1, seeds: 2}
logging: {tensorboard: false}
"""


def faults(place: Path, *constraints: str) -> str:
    torn = place / "torn"
    torn.mkdir(exist_ok=True)
    (torn / "model.json").write_text("{torn")
    quoted = ", ".join(f'"{each}"' for each in constraints)
    text = FAULTS.replace("TORN", str(torn)).replace("CONSTRAINTS", f"constraints: [{quoted}]")
    (place / "faults.yaml").write_text(text)
    return "faults.yaml"


def test_nan_an_exception_and_no_memory_are_a_row_each_and_never_the_best(place: Path, run_in: Run) -> None:
    small, tame, own = "model.n_embd == 8", "train.optimizer.lr < 1", "train.init_from == None"
    space = faults(place, f"{small} or {tame}", f"{small} or {own}", f"{tame} or {own}")  # one fault at a time
    refused = run_in(place, "tune", "--space", space, "--results", "faults")
    assert refused.returncode == 2
    assert "n_embd=100000" in refused.stdout + refused.stderr
    result = run_in(place, "tune", "--space", space, "--results", "faults", "--yes")
    assert result.returncode == 0, result.stderr
    run = place / "faults" / "faults"
    states = Counter(row["state"] for row in table(run, "trials.parquet"))
    assert states["diverged"] == 1
    assert states["failed"] == 4
    assert states["completed"] >= 1
    errors = [row["error"] for row in table(run, "members.parquet") if row["status"] == "failed"]
    assert sum(error.startswith("out of memory (try train.batch_size=4") for error in errors) == 4
    assert "diverged" in result.stdout
    facts = json.loads((run / "search.json").read_text())
    best = {row["config_hash"]: row["state"] for row in table(run, "trials.parquet")}
    assert [best[identity] for identity in facts["finalists"]] == ["completed"]


@pytest.mark.slow
def test_a_search_in_which_everything_diverges_has_its_exit_code_and_no_finalists(place: Path, run_in: Run) -> None:
    space = faults(place, "train.optimizer.lr > 1", "model.n_embd < 9", "train.init_from == None")
    result = run_in(place, "tune", "--space", space, "--results", "diverged")
    assert result.returncode == 3, result.stderr
    assert "no member finished" in result.stderr
    assert "smallest learning rate tried 1e+30" in result.stderr
    rows = table(place / "diverged" / "faults", "members.parquet")
    assert {row["status"] for row in rows} == {"diverged"}


@pytest.mark.slow
def test_a_race_gives_more_seeds_to_fewer_configurations(place: Path, run_in: Run) -> None:
    settings = ("search.race=true", "search.seeds=5", "search.pruner=none", "train.steps=100", "ensemble.finalists=0")
    overrides = [f"--set={each}" for each in (*settings, "experiment=race", "search.trials=5")]
    result = run_in(place, "tune", "--space", "hunt.yaml", "--results", "race", *overrides)
    assert result.returncode == 0, result.stderr
    run = place / "race" / "race"
    seeds = Counter(row["config_hash"] for row in table(run, "members.parquet"))
    assert min(seeds.values()) < max(seeds.values())
    assert sum(seeds.values()) < 5 * 5
    assert len(table(run, "planned.parquet")) == sum(seeds.values())


@pytest.mark.slow
def test_a_grid_with_many_finalist_trials_is_interrupted_and_resumed_whole(place: Path, run_in: Run) -> None:
    text = SPACE.replace("hunt", "grid").replace("{log_uniform: [1e-4, 3e-2]}", "1e-3")
    text = text.replace("n_embd: {choice: [8, 12]}", "n_embd: 12")
    sampled = "{trials: 6, seeds: 2, order: sync, lag: 2, startup: 3, grace: 40}"
    text = text.replace(sampled, "{sampler: grid, seeds: 2, pruner: none}")
    text = text.replace("finalists: 2, seeds: 2", "finalists: 3, seeds: 4")
    (place / "grid.yaml").write_text(text)
    process = start(place, place / "results", "grid.yaml")
    run = place / "results" / "grid"
    wait_for(lambda: in_the_search(run), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    result = run_in(place, "resume", str(run))
    assert result.returncode == 0, result.stderr
    rows = table(run, "members.parquet")
    assert Counter((row["role"], row["status"]) for row in rows) == {
        ("search", "completed"): 6,
        ("finalist", "completed"): 12,
    }
