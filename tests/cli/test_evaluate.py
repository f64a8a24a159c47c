"""`ensemble evaluate` as a user runs it, on two policies that a few steps of training left clueless."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ensemble.closed_loop.episodes import draw_episodes, run_episodes, summarize
from ensemble.closed_loop.load_policy import load_policy
from ensemble.config import Experiment
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.run_directory import RunDirectory
from ensemble.schema import Feature
from ensemble.simulation.pendulum_physics import rollout
from ensemble.training.context import InlineContext
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, run_trial

Run = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("--episodes", "6", "--noise", "0.05", "--noise", "0.01", "--replan", "10")


def balanced(episodes: int = 12, steps: int = 30, states: int = 4) -> Trajectories:
    """The pendulum under a linear law, with `states` of its four columns."""
    rng = np.random.default_rng(0)
    state = rng.uniform(-0.2, 0.2, (episodes, 4))
    rows = np.zeros((episodes, steps + 1, states + 1), np.float32)
    for step in range(steps + 1):
        control = np.clip(3 * state[:, 1] + 0.5 * state[:, 3], -3, 3)
        rows[:, step, :states], rows[:, step, states] = state[:, :states], control * (step < steps)
        state = rollout(state, control[:, None, None])[:, -1]
    flat = rows.reshape(-1, states + 1)
    flat.setflags(write=False)
    lengths = np.full(episodes, steps + 1, np.int64)
    labels = tuple(f"observations[{i}]" for i in range(states))
    features = (
        Feature("observations", states, "state", labels, (False,) * states),
        Feature("actions", 1, "control", ("actions",), (False,)),
    )
    hashes = np.arange(1, episodes + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = tuple(map(str, range(episodes)))
    segments = Segments(np.cumsum(lengths) - lengths, lengths, hashes)
    return Trajectories(flat, features, segments, keys, (None,) * episodes, "fingerprint", 0.04)


def train(run: Path, family: str = "pi0", states: int = 4, seeds: tuple[int, ...] = (0, 1)) -> Path:
    """Leave a finished run of tiny policies."""
    tree = {
        "experiment": run.name,
        "data": {"source": "inverted_pendulum"},
        "model": {"family": family, "chunk": 12, "n_layer": 1, "n_head": 2, "n_embd": 16, "n_inner": 16},
        "train": {"steps": 4, "batch_size": 8, "validate_every": 2, "validation_windows": 8, "rollout": {"windows": 8}},
        "logging": {"tensorboard": False},
    }
    experiment = Experiment.model_validate_json(json.dumps(tree))
    run_trial(Trial(experiment, seeds, "ensemble", run), TrialData(balanced(states=states), {}), InlineContext())
    (run / "experiment.yaml").write_text(json.dumps(experiment.model_dump(mode="json")))
    RunDirectory(run).collect()
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the finished run `tiny`."""
    directory = tmp_path_factory.mktemp("place")
    train(directory / "tiny")
    return directory


@pytest.fixture(scope="module")
def evaluated(place: Path, run_in: Run) -> subprocess.CompletedProcess[str]:
    """What one evaluation printed."""
    outputs = ("--video", "film.gif", "--video-members", "all", "--record", "episodes.h5")
    return run_in(place, "evaluate", "tiny", *QUICK, *outputs)


def rows(run: Path) -> list[dict]:
    return pq.read_table(run / "evaluation.parquet").to_pylist()


def test_members_the_ensemble_and_baselines_drive_the_same_episodes(
    evaluated: subprocess.CompletedProcess[str], place: Path
) -> None:
    assert evaluated.returncode == 0, evaluated.stderr
    lines = evaluated.stdout.splitlines()
    assert lines[0].startswith("device cpu: 2 members of 1 configuration")
    assert "6 episodes of seed 0, the same for all" in lines[1]
    assert lines[-1].startswith("next: ensemble evaluate tiny")
    found = rows(place / "tiny")
    kinds = [row["controller"] for row in found if row["noise"] == 0.05]
    assert sorted(kinds) == ["expert", "mean", "median", "member", "member", "zero"]
    expert, zero = (next(row for row in found if row["controller"] == name) for name in ("expert", "zero"))
    assert expert["success"] == 1
    assert zero["converge_rate"] == 0
    assert zero["episode_length"] < 100
    for name in ("evaluation.md", "evaluation.csv", "figures/closed_loop.png"):
        assert (place / "tiny" / name).stat().st_size > 500
    assert "mean of chunks" in (place / "tiny" / "evaluation.md").read_text()


def test_a_row_says_what_the_closed_loop_in_python_says(
    evaluated: subprocess.CompletedProcess[str], place: Path
) -> None:
    policy = load_policy(place / "tiny")
    outcome = run_episodes(policy.controller("each"), draw_episodes(6), members=2, replan=10, noise=0.05)
    metrics = summarize(outcome)
    members = [row for row in rows(place / "tiny") if row["controller"] == "member" and row["noise"] == 0.05]
    assert [row["seed"] for row in members] == [0, 1]
    for member, row in enumerate(members):
        assert row["episode_steps"] == outcome.steps[member].tolist()
        assert row["episode_length"] == metrics["episode_length"][member]
        assert row["cart_velocity_std"] == pytest.approx(metrics["cart_velocity_std"][member], rel=1e-4)
        assert row["weights_sha256"] in {m["weights_sha256"] for m in pq.read_table(
            place / "tiny" / "members.parquet", columns=["weights_sha256"]).to_pylist()}  # fmt: skip


def test_film_and_recording_hold_what_happened(evaluated: subprocess.CompletedProcess[str], place: Path) -> None:
    with Image.open(place / "film.gif") as film:
        assert film.n_frames > 3
    with h5py.File(place / "episodes.h5") as file:
        first = [row for row in rows(place / "tiny") if row["controller"] == "member" and row["noise"] == 0.01]
        assert len(file["actions"]) == sum(sum(row["episode_steps"]) for row in first)


def test_evaluating_again_replaces_what_was_measured_again_and_keeps_the_rest(
    evaluated: subprocess.CompletedProcess[str], place: Path, run_in: Run, tmp_path: Path
) -> None:
    run = shutil.copytree(place / "tiny", tmp_path / "tiny")
    before = rows(run)
    arguments = ("--episodes", "6", "--replan", "10", "--combine", "none")
    again = run_in(tmp_path, "evaluate", "tiny", *arguments, "--noise", "0.05", "--noise", "0.03")
    assert again.returncode == 0, again.stderr
    after = rows(run)
    assert len(after) == len(before) + 4  # two members and two baselines at noise 0.03
    quiet = [[repr(row) for row in each if row["noise"] == 0.01] for each in (before, after)]  # nan is not nan
    assert quiet[0] == quiet[1]
    steps = [[r["episode_steps"] for r in each if r["noise"] == 0.05 and r["seed"] == 1] for each in (before, after)]
    assert steps[0] == steps[1]


def test_a_member_alone_goes_to_its_run_and_published_figures_stand_beside(
    evaluated: subprocess.CompletedProcess[str], place: Path, run_in: Run, tmp_path: Path
) -> None:
    run = shutil.copytree(place / "tiny", tmp_path / "tiny")
    (run / "evaluation.parquet").unlink()
    member = sorted((run / "members").iterdir())[1]
    published = Path(__file__).parents[2] / "results" / "tables" / "tinypi0_published.csv"
    result = run_in(tmp_path, "evaluate", str(member), *QUICK, "--beside", str(published))
    assert result.returncode == 0, result.stderr
    assert {row["controller"] for row in rows(run)} == {"member", "expert", "zero"}
    assert {row["seed"] for row in rows(run)} == {1, None}
    text = (run / "evaluation.md").read_text()
    assert "| tiny pi0-FAST (published) | 10 | 10 | 1.000 ± 0.000 | 0.787 ± 0.065 |" in text
    assert run_in(tmp_path, "evaluate", "tiny", "--table-only", "--episodes", "6").returncode == 0


def test_a_report_of_policies_ends_with_how_to_let_them_act(place: Path, run_in: Run, tmp_path: Path) -> None:
    shutil.copytree(place / "tiny", tmp_path / "tiny")
    done = run_in(tmp_path, "report", "tiny", "--no-figures")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "next: ensemble evaluate tiny"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere",), 2, "no run directory nowhere"),
        (("tiny", "--config", "zzz"), 2, "no configuration zzz in tiny; there are "),
        (("tiny", "--replan", "13"), 2, "a chunk has 12 actions"),
        (("tiny", "--replan", "0"), 2, "0 is not in the range"),
        (("tiny", "--noise", "-0.1"), 2, "-0.1 is not in the range"),
        (("tiny", "--noise", "nan"), 2, "--noise nan: must be a finite number"),
        (("tiny", "--video", "film.mp4"), 2, "must end in .gif"),
        (("tiny", "--table-only", "--beside", "tiny/members"), 2, "was not evaluated yet"),
    ],
)
@pytest.mark.usefixtures("evaluated")
def test_what_cannot_be_evaluated_is_refused_before_anything_runs(
    place: Path, run_in: Run, arguments: tuple[str, ...], code: int, words: str
) -> None:
    before = (place / "tiny" / "evaluation.parquet").read_bytes()
    result = run_in(place, "evaluate", *arguments)
    assert result.returncode == code
    assert words in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr
    assert (place / "tiny" / "evaluation.parquet").read_bytes() == before


def test_the_page_of_policies_drives_gymnasium_with_a_controller(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
    (script,) = re.findall(r"^```python\n(import gymnasium.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shutil.copytree(place / "tiny", tmp_path / "results" / "pi0_quick")
    monkeypatch.chdir(tmp_path)
    done: dict[str, Any] = {}
    exec(script, done)
    assert 0 < done["steps"] <= 100
    assert done["observation"].shape == (4,)


def test_other_data_and_runs_where_nothing_finished_are_refused(place: Path, run_in: Run) -> None:
    train(place / "narrow", states=2, seeds=(0,))
    narrow = run_in(place, "evaluate", "narrow")
    assert narrow.returncode == 2
    assert "2 state and 1 control columns; inverted_pendulum has 4 and 1" in narrow.stderr
    failed = shutil.copytree(place / "narrow", place / "failed")
    table = pq.read_table(failed / "members.parquet")
    status = table.column_names.index("status")
    pq.write_table(table.set_column(status, "status", [["failed"]]), failed / "members.parquet")
    nothing = run_in(place, "evaluate", "failed")
    assert nothing.returncode == 3
    assert "no member completed" in nothing.stderr
