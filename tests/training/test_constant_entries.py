"""Entries that never move, or by rounding alone: they decide nothing, wherever a standard deviation divides."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pendulum import experiment, trajectories

from ensemble.config.data import DataConfig
from ensemble.data.convert import convert
from ensemble.data.statistics import Moments
from ensemble.data.trajectories import Trajectories
from ensemble.open_loop.baselines import measure_baselines, measure_policy_baselines
from ensemble.open_loop.state import error_scale
from ensemble.schema import Feature
from ensemble.training.context import InlineContext
from ensemble.training.setup import TrialData
from ensemble.training.tasks import set_up

RANDOM = np.random.default_rng(0)
PI0 = {"family": "pi0", "chunk": 4, "n_layer": 1, "n_head": 2, "n_embd": 8}


def jitter(value: float) -> np.ndarray:
    """Return a joint that holds still but for rounding, in float32."""
    return np.float32(value) + np.spacing(np.float32(value)) * RANDOM.normal(size=1230).astype(np.float32)


def with_joint(values: np.ndarray, role: Any = "state") -> Trajectories:
    """Add a feature of one entry to the pendulum."""
    plain = trajectories()
    rows = np.concatenate([plain.rows, values.astype(np.float32)[:, None]], axis=1)
    rows.setflags(write=False)
    joint = Feature("joint", 1, role, ("joint",), (False,))
    return Trajectories(
        rows, (*plain.features, joint), plain.episodes, plain.keys, plain.given, plain.fingerprint, plain.dt
    )


def rollout_errors(data: Trajectories) -> dict[str, float]:
    """Measure untrained members, whose errors are as large as they get."""
    config = experiment()
    context = InlineContext()
    setup = set_up(config, TrialData(data, {}), context)
    torch.manual_seed(0)
    return setup.test(setup.pack(config, (0,), context))[0]


@pytest.mark.parametrize("value", [1.569, 1e4, 1e9])
def test_an_entry_that_moves_by_rounding_alone_decides_no_rollout_error_and_no_loss(value: float) -> None:
    still, moving = rollout_errors(with_joint(np.full(1230, value))), rollout_errors(with_joint(jitter(value)))
    assert moving["test/rollout_rmse"] == pytest.approx(still["test/rollout_rmse"], rel=0.2)
    assert moving["test/loss"] == pytest.approx(still["test/loss"], rel=0.2)


def test_noise_around_zero_beside_entries_that_move_decides_nothing_either() -> None:
    found = rollout_errors(with_joint(1e-9 * RANDOM.normal(size=1230)))
    assert found["test/rollout_rmse"] == pytest.approx(rollout_errors(trajectories())["test/rollout_rmse"], rel=0.5)


@pytest.mark.parametrize("value", [1.569, 1e4])
def test_no_baseline_is_decided_by_it(value: float) -> None:
    config = experiment(train={"rollout": {"horizon": 10, "windows": 16}})
    found, still = (measure_baselines(config, with_joint(x)) for x in (jitter(value), np.full(1230, value)))
    for name in found:
        assert found[name]["test/rollout_rmse"] == pytest.approx(still[name]["test/rollout_rmse"], rel=0.01), name


def test_a_policy_s_linear_baseline_does_not_stand_on_it() -> None:
    config = experiment(model=PI0)
    found = measure_policy_baselines(config, with_joint(jitter(1.569)))
    plain = measure_policy_baselines(config, trajectories())
    assert found["linear least squares"] == pytest.approx(plain["linear least squares"], rel=1e-9)


def test_an_action_that_moves_by_rounding_alone_is_not_blown_up_by_normalization() -> None:
    data = with_joint(jitter(1e4), role="control")
    config = experiment(model={**PI0, "normalize": True})
    scale = np.sqrt(set_up(config, TrialData(data, {}), InlineContext()).normalization.variance + np.float32(1e-5))
    assert np.ptp(data.rows[:, 3]) / scale[3] < 0.01


def test_what_really_moves_is_measured_by_its_deviation_however_small_its_unit() -> None:
    metres, volts = RANDOM.normal(0, 5e-6, 1000), RANDOM.normal(0, 100, 1000)
    stroke, pascals = RANDOM.normal(0.2, 5e-3, 1000), RANDOM.normal(1e7, 5e6, 1000)
    moments = Moments.of(np.stack([metres, volts, stroke, pascals], axis=1))
    assert not moments.constant.any()
    np.testing.assert_array_equal(error_scale(moments), np.sqrt(moments.variance))


def test_an_entry_that_never_moves_is_measured_in_its_own_unit() -> None:
    tenths = np.full((1000, 1), 0.1, np.float32)  # whose deviation, summed in float64, is 1e-17 and not 0
    for rows in (tenths, np.zeros((7, 1)), np.full((7, 1), 1e9)):
        merged = Moments.of(rows[:3]).merge(Moments.of(rows[3:]))
        assert error_scale(merged).tolist() == [1.0]


def test_the_notices_of_converted_data_name_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "arm.hdf5", "w") as file:
        for number in range(12):
            state = RANDOM.normal(size=(30, 3)).astype(np.float32)
            state[:, 1] = jitter(1.569)[:30]
            state[:, 2] = 0.5
            file[f"traj_{number}/state"], file[f"traj_{number}/action"] = state, RANDOM.normal(size=(30, 1))
    config = DataConfig(path="arm.hdf5", layout="map", map={"state": "state", "action": "action"})
    notices = convert([tmp_path / "arm.hdf5"], tmp_path / "shards", config).notices
    assert "constant: state[2]" in notices
    assert "constant but for rounding, and treated so: state[1]" in notices
