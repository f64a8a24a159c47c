"""A run that commit 1beb6e2 left, killed while its finalist was trained: read, reported and finished by the code here.

`tests/fixtures/make_run_1beb6e2.py` says how it was made. Three configurations were searched on seeds 0 and 1, two of
them were stopped early; of the finalist's fresh seeds 2 has a checkpoint, and 3 has not come as far.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import ensemble

Run = Callable[..., subprocess.CompletedProcess[str]]

LEFT = Path(__file__).parents[1] / "fixtures" / "run_1beb6e2"
BEST, STOPPED = "1d2cad4e1e8b", ("6894a1147177", "edcd9b83cccd")
STATES = ("q0", "q1", "qd0", "qd1")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder as it was when the run was killed, moved to where the test is."""
    shutil.copytree(LEFT, tmp_path, dirs_exist_ok=True)
    notes = tmp_path / "results" / "earlier" / "data.json"
    notes.write_text(notes.read_text().replace("/PLACE", str(tmp_path)))
    return tmp_path


def table(file: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(file, partitioning=None).to_pylist())


def ended(run: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Each member that has ended, by its own row."""
    rows = [row for file in run.glob("members/*/member.parquet") for row in table(file)]
    return {(row["config_hash"], row["seed"]): row for row in rows}


def files_of_ended(run: Path) -> dict[Path, bytes]:
    """Everything in the folders of members that have ended."""
    folders = [file.parent for file in run.glob("members/*/member.parquet")]
    return {file: file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()}


def test_its_report_has_the_configurations_of_the_search_and_who_is_missing(place: Path, run_in: Run) -> None:
    result = run_in(place, "report", "results/earlier")
    assert result.returncode == 0, result.stderr
    assert "seeds 2, 3 not finished" in result.stdout
    assert "0.105 ± 0.050 validation/rollout_rmse over 2 seeds" in " ".join(result.stdout.split())
    run = place / "results" / "earlier"
    report = (run / "report.md").read_text()
    lines = {line[2:4]: line for line in report.split("## All 3 configurations")[1].splitlines() if line[:3] == "| #"}
    assert list(lines) == ["#0", "#1", "#2"]
    assert "0.172 ± 0.055" in lines["#0"]
    assert "n_head=2, optimizer=adam, lr=9.867e-3 | 0 | 2 | 2 |" in lines["#1"]
    assert "0.148 at 240" in lines["#1"]
    assert "0.135 at 60" in lines["#2"]
    rows = table(run / "members.parquet")
    assert Counter(row["status"] for row in rows) == {"completed": 2, "pruned": 4}
    assert "configurations: 3 of 3 planned: 1 completed, 2 pruned" in report
    for name in ("report.html", "report.csv", "report.tex", "comparisons.csv", "summary.parquet"):
        assert (run / name).is_file(), name


def test_where_its_rows_came_from_is_explained(place: Path, run_in: Run) -> None:
    result = run_in(place, "explain", "results/earlier", "#0")
    assert result.returncode == 0, result.stderr
    assert f"configuration {BEST}   #0 n_head=1, optimizer=adamw" in result.stdout
    assert "trial #0: completed, validation/rollout_rmse 0.1053" in result.stdout
    assert "code        git commit 1beb6e2" in result.stdout
    for (identity, _), row in ended(place / "results" / "earlier").items():
        assert (f"weights_sha256 {row['weights_sha256']}" in result.stdout) == (identity == BEST)
    assert "warning" not in result.stdout  # its command is read back as that very configuration
    for number, identity in enumerate(STOPPED, 1):
        result = run_in(place, "explain", "results/earlier", identity[:6], "1")
        assert result.returncode == 0, result.stderr
        assert f"configuration {identity}   #{number} " in result.stdout
        assert "It was stopped at step" in result.stdout


def test_its_members_predict_what_they_predicted(place: Path, run_in: Run) -> None:
    run = place / "results" / "earlier"
    assert run_in(place, "report", "results/earlier", "--no-figures").returncode == 0  # collects the rows
    members = ensemble.load(run)
    assert (members.config_hash, members.seeds, members.state) == (BEST, (0, 1), STATES)
    for index, seed in enumerate(members.seeds):
        rows = table(run / "members" / f"{BEST}-s{seed}" / "rollouts.parquet")
        shape = (len({row["window"] for row in rows}), len({row["step"] for row in rows}), len(STATES))
        true, predicted = (np.array([row[name] for row in rows]).reshape(shape) for name in ("true", "predicted"))
        seen = sum(step <= 0 for step in {row["step"] for row in rows})
        gravity = np.tile([0.0, 0.0, -1.0], (*shape[:2], 1))
        found = members.rollout({"states": true[:, :seen], "gravity_dir": gravity}, shape[1] - seen)[index]
        np.testing.assert_allclose(found, predicted[:, seen:], rtol=1e-4, atol=1e-4)


def test_its_shards_are_found_where_a_run_would_make_them(place: Path, run_in: Run) -> None:
    shards = next(path.name for path in (place / "shards").iterdir())
    result = run_in(place, "plan", "results/earlier/space.yaml")
    assert result.returncode == 0, result.stderr
    assert f"shards/{shards}: 12 episodes, 300 points" in result.stdout


def test_other_code_does_not_go_on_with_it_unless_asked_and_says_so_before_ray(place: Path, run_in: Run) -> None:
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    result = run_in(place, "resume", "results/earlier", python=("-X", "importtime"))
    assert result.returncode == 2
    assert re.search(r"\w+ was .+, is .+ since the run began; results may differ\. --force", result.stderr)
    names = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert not names & {"ray", "torch"}
    assert {file: file.read_bytes() for file in place.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("results", ["/proc/results", "space.yaml/results"])
def test_results_that_cannot_be_written_are_named_before_ray(place: Path, run_in: Run, results: str) -> None:
    shutil.copy(place / "results" / "earlier" / "space.yaml", place)
    result = run_in(place, "tune", "--space", "space.yaml", "--results", results, python=("-X", "importtime"))
    assert result.returncode == 5
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert results.split("/")[-2 if "yaml" in results else -1] in last
    names = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert not names & {"ray", "torch"}


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (os.mkdir, (str(self._file),))


def plant_pickles(run: Path) -> Path:
    """Put pickles where Ray Tune and torch have theirs, and return what appears when one of them is read."""
    canary = run.parents[1] / "canary"
    content = pickle.dumps(Canary(canary))
    pickle.loads(pickle.dumps(Canary(run.parents[1] / "tried")))  # the bait works
    assert (run.parents[1] / "tried").exists()
    names = ["tuner.pkl", "trainable.pkl", "searcher-state-1.pkl", "search_gen_state-1.json", "experiment_state-1.json"]
    for role in ("search", "finalist"):
        (run / "ray" / role).mkdir(parents=True)
        for name in names:
            (run / "ray" / role / name).write_bytes(content)
    for name in ("members.pt", "model.pkl"):
        (next(run.glob("members/*/checkpoints/step-*")) / name).write_bytes(content)
    return canary


@pytest.mark.ray
def test_resumed_it_ends_as_planned_and_what_had_ended_stays(place: Path, run_in: Run) -> None:
    run = place / "results" / "earlier"
    rows, files = ended(run), files_of_ended(run)
    canary = plant_pickles(run)
    log = run / "members" / f"{BEST}-s2" / "train.log"
    before = log.read_text()
    resumed = run_in(place, "resume", "results/earlier", "--force")  # other versions of code and libraries
    assert resumed.returncode == 0, resumed.stderr
    assert not canary.exists()  # nothing of a run is unpickled, whoever wrote it
    assert files == {file: file.read_bytes() for file in files}
    after = {(row["config_hash"], row["seed"]): row for row in table(run / "members.parquet")}
    for key, row in rows.items():
        assert row == {name: after[key][name] for name in row}
    planned = {(row["config_hash"], row["seed"]): row["role"] for row in table(run / "planned.parquet")}
    assert {key: row["role"] for key, row in after.items()} == planned
    finalists = {key: after[key] for key in after.keys() - rows.keys()}
    assert set(finalists) == {(BEST, 2), (BEST, 3)}
    assert {(row["role"], row["status"], row["steps"]) for row in finalists.values()} == {
        ("finalist", "completed", 600)
    }
    assert {row["data_fingerprint"] for row in after.values()} == {rows[BEST, 0]["data_fingerprint"]}
    went_on = log.read_text().removeprefix(before)
    assert [int(step) for step in re.findall(r"step +(\d+) +train/loss", went_on)] == [360, 420, 480, 540, 600]
    facts = json.loads((run / "search.json").read_text())
    assert facts["finished"]
    assert facts["finalists"] == [BEST]
    assert "over 2 fresh seeds" in " ".join(resumed.stdout.split())
    again = run_in(place, "resume", "results/earlier")
    assert again.returncode == 0, again.stderr
    assert "is finished" in again.stdout
