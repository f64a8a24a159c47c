"""Policies through the whole trial: what they leave, and that neither pack nor kill nor restart changes a bit of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pendulum import experiment, trajectories

import ensemble
from ensemble.config import Experiment
from ensemble.errors import DataError, UsageError
from ensemble.open_loop.baselines import measure_policy_baselines
from ensemble.training.context import InlineContext
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, run_trial

DATA = TrialData(trajectories(), {})
SMALL = {"chunk": 8, "n_layer": 1, "n_head": 2, "n_embd": 8, "n_inner": 16, "history": None, "head": None}
TOKENS = {"tokenizer": {"kind": "tiny", "scale": 4.0, "vocabulary": 80, "max_length": 16}}
FAMILIES: dict[str, dict[str, Any]] = {
    "pi0": {"family": "pi0"},
    "pi0 frozen, heun": {"family": "pi0", "draw": "frozen", "solver": "heun", "solver_steps": 4, "normalize": True},
    "pi0_fast": {"family": "pi0_fast", **TOKENS},
    "pi0_fast normalized": {"family": "pi0_fast", "normalize": True, **TOKENS},
}


class KilledError(Exception):
    pass


def policy(model: Mapping[str, Any], **sections: dict[str, Any]) -> Experiment:
    tree = experiment(**sections).model_dump(mode="json")
    kept = {name: value for name, value in SMALL.items() if value is not None}
    tree["search"].pop("metric")
    tree["data"]["starts"] = [0, 2, 5, 11, 20]
    return Experiment.model_validate({**tree, "model": {**kept, **model}})


def train(run: Path, config: Experiment, seeds: tuple[int, ...] = (0, 1, 2), kill_at: int = 0) -> dict[int, dict]:
    def report(progress: Mapping[str, object]) -> None:
        if progress["step"] == kill_at:
            raise KilledError

    run_trial(Trial(config, seeds, "ensemble", run), DATA, InlineContext(report=report))
    found = (pq.read_table(path).to_pylist()[0] for path in sorted(run.glob("members/*/member.parquet")))
    return {row["seed"]: row for row in found}


def comparable(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in {"pack", "seconds", "samples_per_second"}}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FAMILIES[request.param]


def test_a_policy_leaves_its_errors_and_sampled_chunks_for_the_figure(tmp_path: Path, model: dict[str, Any]) -> None:
    rows = train(tmp_path, policy(model))
    assert {row["status"] for row in rows.values()} == {"completed"}
    for row in rows.values():
        assert np.isfinite([row["test/loss"], row["test/action_mae"], row["validation/action_mse"]]).all()
        assert row["test/action_mse"] >= row["test/action_mae"] ** 2
        assert ("test/token_accuracy" in row) == (model["family"] == "pi0_fast")
        assert not any("rollout_rmse" in name for name in row)
    chunks = pq.read_table(next(tmp_path.glob("members/*-s0/rollouts.parquet"))).to_pylist()
    assert {row["step"] for row in chunks} == set(range(1, 9))
    assert {row["label"] for row in chunks} == {"torque"}


def test_neither_a_weight_nor_a_row_depends_on_the_pack(tmp_path: Path, model: dict[str, Any]) -> None:
    alone = train(tmp_path / "1", policy(model, resources={"pack": 1}))
    packed = train(tmp_path / "3", policy(model, resources={"pack": 3}))
    assert {s: comparable(r) for s, r in packed.items()} == {s: comparable(r) for s, r in alone.items()}
    assert len({row["weights_sha256"] for row in alone.values()}) == 3


def test_a_killed_policy_continues_to_the_bit(tmp_path: Path, model: dict[str, Any]) -> None:
    config = policy(model, train={"precision": "bf16"})
    whole = train(tmp_path / "whole", config)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config, kill_at=8)
    resumed = train(tmp_path / "killed", config)
    assert {s: comparable(r) for s, r in resumed.items()} == {s: comparable(r) for s, r in whole.items()}


def test_a_loaded_policy_acts_as_it_did_when_it_was_tested(tmp_path: Path, model: dict[str, Any]) -> None:
    train(tmp_path, policy(model))
    (identity,) = {path.name.partition("-")[0] for path in tmp_path.glob("members/*")}
    members = {seed: tmp_path / "members" / f"{identity}-s{seed}" for seed in range(3)}
    ensemble_of_three = ensemble.PolicyEnsemble(members)
    observation = np.array([[0.1, -0.2], [0.4, 0.3], [-0.7, 0.0]], np.float32)
    chunks = ensemble_of_three.act(observation)
    assert chunks.shape == (3, 3, 8, 1)
    shown = f"<PolicyEnsemble {identity}: 3 members (seeds 0, 1, 2) of theta (1), omega (1), torque (1)>"
    assert repr(ensemble_of_three) == shown
    assert repr(ensemble_of_three.controller("median")) == f"<PolicyController median of {shown}>"
    alone = ensemble.load_policy(members[1])
    assert np.array_equal(alone.act(observation), chunks[1:2])
    mean, median = ensemble_of_three.controller("mean"), ensemble_of_three.controller("median")
    assert np.allclose(mean.act(observation), chunks.mean(0), atol=1e-6)
    nearest = median.act(observation)
    assert all(any(np.array_equal(nearest[i], member[i]) for member in chunks) for i in range(3))
    mean.reset()
    assert mean.act(observation[0]).shape == (8, 1)


def test_noise_is_drawn_anew_for_each_chunk_and_comes_back_after_a_reset(tmp_path: Path) -> None:
    train(tmp_path, policy(FAMILIES["pi0"]), seeds=(0,))
    controller = ensemble.load_policy(next(tmp_path.glob("members/*"))).controller()
    observation = np.zeros(2, np.float32)
    first, second = controller.act(observation), controller.act(observation)
    controller.reset()
    assert not np.array_equal(first, second)
    assert np.array_equal(controller.act(observation), first)


def test_a_policy_is_no_dynamics_model(tmp_path: Path) -> None:
    train(tmp_path, policy(FAMILIES["pi0"]), seeds=(0,))
    with pytest.raises(UsageError, match=r"pi0 is a policy: load it with ensemble\.load_policy"):
        ensemble.load(next(tmp_path.glob("members/*")))


def test_chunks_that_no_sequence_of_that_length_spells_are_refused(tmp_path: Path) -> None:
    tokens = {"tokenizer": {"kind": "tiny", "scale": 100.0, "vocabulary": 4000, "max_length": 3}}
    with pytest.raises(DataError, match=r"model\.tokenizer: chunk \d+ takes \d+ tokens .* max_length of 3"):
        train(tmp_path, policy({"family": "pi0_fast", **tokens}), seeds=(0,))


def test_the_linear_baseline_beats_no_action_where_the_action_follows_from_the_state() -> None:
    data = trajectories()
    rows = data.rows.copy()
    rows[:, 2] = 0.5 * rows[:, 0] - 0.3 * rows[:, 1]
    rows.setflags(write=False)
    linear = type(data)(rows, *(getattr(data, name) for name in data.__slots__[1:7]))
    found = measure_policy_baselines(policy({"family": "pi0", "chunk": 1}), linear)
    assert found["linear least squares"]["test/action_mae"] < 1e-5
    assert found["zero"]["test/action_mae"] > 0.05
