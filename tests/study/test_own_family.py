"""A model family of one's own, one config class and one network outside of the package: every command takes it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from own_family import TanhConfig
from pendulum import experiment, trajectories

import ensemble
from ensemble.config import Experiment, load
from ensemble.config.model import family_class, read_model
from ensemble.errors import UsageError
from ensemble.planning.cost import cost_of
from ensemble.schema import Feature
from ensemble.store import read_table
from ensemble.study.prepare import metric_names
from ensemble.training.context import InlineContext, Paused
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, run_trial

Tiny = Callable[..., Path]
HERE, REPOSITORY = Path(__file__).parent, Path(__file__).parents[2]
MODEL = {"family": "own_family:TanhConfig", "width": 4, "gains": [1.0, 0.5]}
BEFORE = "{n_layer: 1, n_head: 2, n_embd: 8, history: 5, block_size: 8, head: {layer_sizes: [8]}}"
SEARCHED = "{family: own_family:TanhConfig, width: {choice: [4, 6]}, gains: [1.0, 0.5]}"
FEATURES = (
    Feature("states", 4, "state", ("a", "b", "c", "d"), (False,) * 4),
    Feature("torque", 2, "control", ("u", "v"), (False,) * 2),
)


def own(**sections: dict[str, object]) -> Experiment:
    """Return a tiny experiment with the family, none of the other's keys left."""
    tree = experiment(**sections).model_dump(mode="json")
    return Experiment.model_validate_json(json.dumps({**tree, "model": MODEL}))


def test_a_family_is_found_by_its_import_path_and_says_the_same_when_read_back() -> None:
    config = read_model(MODEL)
    assert isinstance(config, TanhConfig)
    assert (config.window, config.gains) == (1, (1.0, 0.5))
    assert read_model(config.model_dump(mode="json")) == config
    whole = own()
    assert Experiment.model_validate_json(whole.model_dump_json()) == whole
    assert whole.model_dump()["model"]["width"] == 4


def test_its_metrics_are_those_of_its_task() -> None:
    names = metric_names(own(), FEATURES)
    assert names[:3] == ["train/loss", "validation/loss", "validation/rollout_rmse"]
    assert own().search.metric == "validation/rollout_rmse"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "{family: own_family:TanhConfig, width: 0}",
            r"tiny.yaml:5:47: model.width: needs a whole number of at least 1",
        ),
        (
            "{family: own_family:TanhConfig, wide: 3}",
            r"tiny.yaml:5:40: model.wide: unknown key 'wide'; did you mean 'w",
        ),
        (
            "{family: own_family:Nothing}",
            r"tiny.yaml:5:17: model.family: no model family 'own_family:Nothing': module ",
        ),
        ("{family: no_such_lab:Mine}", r"tiny.yaml:5:17: model.family: .*No module named 'no_such_lab'"),
        ("{family: broken_family:Mine}", r"tiny.yaml:5:17: model.family: .*invalid syntax"),
        ("{family: pathlib:Path}", r"tiny.yaml:5:17: model.family: .*no subclass of DynamicsConfig or PolicyConfig"),
    ],
)
def test_what_is_wrong_with_its_section_is_said_with_its_place(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, message: str
) -> None:
    (tmp_path / "broken_family.py").write_text("class Mine(:")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=message):
        load(tiny((BEFORE, section)))
    with pytest.raises(UsageError, match=message.partition(":5:")[2].partition(": ")[2]):
        load(tiny((BEFORE, section), ("choice: [1e-3, 1e-2]", "log_uniform: [1e-3, 1e-2]")))


def test_a_family_without_a_module_is_none_of_ours() -> None:
    with pytest.raises(UsageError, match="no model family 'tanh'; there are gpt_dynamics, pi0, pi0_fast"):
        family_class("tanh")


def test_its_step_is_counted_though_it_declares_no_cost() -> None:
    cost = cost_of(own(train={"batch_size": 32}), FEATURES)
    weights = 6 * 4 + 4 * 4
    assert cost.parameters == weights + 4 + 4
    assert cost.layers == 2
    assert cost.flops_forward == 2 * weights
    assert cost.flops == 3 * 32 * cost.flops_forward
    assert 32 * 4 * 4 < cost.saved < 32 * 4 * 100  # a few numbers a window


def test_a_paused_member_continues_to_the_same_bits(tmp_path: Path) -> None:
    def pause(step: int, values: object) -> bool:
        raise Paused

    data, weights = TrialData(trajectories(), {}), []
    for name in ("whole", "paused"):
        trial = Trial(own(), (0, 1), "ensemble", tmp_path / name)
        if name == "paused":
            with pytest.raises(Paused):
                run_trial(trial, data, InlineContext(ask=pause))
        run_trial(trial, data, InlineContext())
        rows = [read_table(trial.directory(seed).row_file).to_pylist()[0] for seed in trial.seeds]
        assert [row["status"] for row in rows] == ["completed"] * 2
        weights.append([row["weights_sha256"] for row in rows])
    assert weights[0] == weights[1]


def command(directory: Path, *arguments: str) -> str:
    """Run `ensemble ARGUMENTS` with the family's folder on the import path; return what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(REPOSITORY), str(HERE)])
    done = subprocess.run(
        [sys.executable, "-m", "ensemble", *arguments],
        cwd=directory, env={**kept, "PYTHONPATH": path, "COLUMNS": "120"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
def test_every_command_takes_it(tiny: Tiny, tmp_path: Path) -> None:
    tiny(
        (BEFORE, SEARCHED), ("optimizer: {name: adam, lr: {choice: [1e-3, 1e-2]}}", "optimizer: {name: adam, lr: 1e-2}")
    )
    run = tmp_path / "results" / "tiny"
    planned = command(tmp_path, "plan", "tiny.yaml")
    assert "next: ensemble tune --space tiny.yaml" in planned
    command(tmp_path, "tune", "--space", "tiny.yaml")
    rows = pq.read_table(run / "members.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["completed"] * 4
    assert {(row["model.family"], row["model.width"]) for row in rows} == {(MODEL["family"], 4), (MODEL["family"], 6)}
    assert "width=4" in command(tmp_path, "resume", str(run))
    command(tmp_path, "report", str(run))
    assert "width" in (run / "report.md").read_text()
    said = command(tmp_path, "explain", str(run), rows[0]["config_hash"], "0")
    assert rows[0]["weights_sha256"][:12] in said

    members = ensemble.load(run)
    assert members.seeds == (0, 1)
    start = {f.name: np.zeros((1, 1 if f.role == "state" else 3, f.width), np.float32) for f in members.features}
    predicted = members.rollout(start, 3)
    assert predicted.shape == (2, 1, 3, len(members.state))
    assert np.isfinite(predicted).all()
