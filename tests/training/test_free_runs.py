"""Free runs over whole test episodes: the figures of system identification, checked against plain numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pendulum import experiment, trajectories
from pydantic import ValidationError

import ensemble
from ensemble.config.experiment import EvaluationConfig
from ensemble.data.splits import split_episodes
from ensemble.data.statistics import wrap
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.errors import DataError
from ensemble.open_loop.baselines import measure_baselines
from ensemble.reporting.statistics import has_ratios, natural_mode
from ensemble.run_directory import config_hash
from ensemble.training.context import InlineContext
from ensemble.training.setup import TrialData
from ensemble.training.tasks import set_up, task_of
from ensemble.training.trial import Trial, run_trial

WARMUP = 6
CONFIG = experiment(evaluation={"warmup": WARMUP}, resources={"pack": 2})


def of_many_lengths() -> Trajectories:
    """Cut the pendulum's episodes to 25 to 41 points."""
    data = trajectories()
    points = data.episodes.points - np.arange(len(data.episodes)) % 17
    cut = Segments(data.episodes.first, points, data.episodes.hashes)
    return Trajectories(data.rows, data.features, cut, data.keys, data.given, data.fingerprint, data.dt)


DATA = of_many_lengths()


def test_figures_of_free_runs_are_those_of_each_episode_run_alone(tmp_path: Path) -> None:
    run_trial(Trial(CONFIG, (0, 1), "ensemble", tmp_path), TrialData(DATA, {}), InlineContext())
    rows = [pq.read_table(path).to_pylist()[0] for path in sorted(tmp_path.glob("members/*/member.parquet"))]
    assert [row["seed"] for row in rows] == [0, 1]
    test = split_episodes(DATA, CONFIG.data.split, CONFIG.model.window)["test"]
    assert len(set(test.points.tolist())) > 1
    for row in rows:
        truth, predicted = [], []
        model = ensemble.load(next(tmp_path.glob(f"members/*-s{row['seed']}")))
        for first, points in zip(test.first, test.points, strict=True):
            whole = DATA.rows[None, first : first + points]
            arrays = {"theta": whole[:, :WARMUP, :1], "omega": whole[:, :WARMUP, 1:2], "torque": whole[..., 2:]}
            predicted.append(model.rollout(arrays, points - WARMUP)[0, 0])
            truth.append(whole[0, WARMUP:, :2])
        y, yhat = np.concatenate(truth).astype(np.float64), np.concatenate(predicted).astype(np.float64)
        error = np.stack([wrap(y[:, 0] - yhat[:, 0]), y[:, 1] - yhat[:, 1]], axis=1)
        for column, label in enumerate(("theta", "omega")):
            rmse = np.sqrt(np.square(error[:, column]).mean())
            fit = 100 * (1 - np.linalg.norm(error[:, column]) / np.linalg.norm(y[:, column] - y[:, column].mean()))
            assert row[f"test/free_run_rmse/{label}"] == pytest.approx(rmse, rel=1e-4)
            assert row[f"test/fit/{label}"] == pytest.approx(fit, rel=1e-4, abs=1e-3)
        assert row["test/free_run_rmse"] > 0
        assert row["best_rollout/test/fit/omega"] < 100


def measured(members: int, config: Any = CONFIG) -> list[dict[str, float]]:
    context = InlineContext()
    setup = set_up(config, TrialData(DATA, {"other": DATA}), context)
    return setup.test(setup.pack(config, tuple(range(members)), context))


def test_a_member_s_free_run_does_not_depend_on_its_pack_and_named_sets_run_free_as_well() -> None:
    torch.set_num_threads(1)
    one, three = measured(1)[0], measured(3)[0]
    assert one == three
    assert {"test/fit/theta", "validation_other/fit/theta", "validation_other/free_run_rmse"} <= set(one)


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    plain = experiment(resources={"pack": 2})
    assert not [name for name in measured(1, plain)[0] if "free_run" in name or "fit" in name]
    assert config_hash(plain) == config_hash(plain.model_copy(update={"evaluation": EvaluationConfig()}))
    assert config_hash(plain) != config_hash(CONFIG)


def test_baselines_run_free_too_and_the_best_constant_has_a_fit_of_about_zero() -> None:
    found = measure_baselines(CONFIG, DATA)
    assert abs(found["mean"]["test/fit/omega"]) < 5
    assert found["linear least squares"]["test/fit/omega"] > 20
    assert found["no change"]["test/free_run_rmse/omega"] > found["linear least squares"]["test/free_run_rmse/omega"]
    assert "test/fit/omega" not in measure_baselines(experiment(), DATA)["mean"]


def test_a_constant_entry_has_an_error_and_no_fit() -> None:
    rows = DATA.rows.copy()
    rows[:, 1] = 0.1
    still = Trajectories(rows, DATA.features, DATA.episodes, DATA.keys, DATA.given, DATA.fingerprint, DATA.dt)
    found = measure_baselines(CONFIG, still)["mean"]
    assert "test/free_run_rmse/omega" in found
    assert "test/fit/omega" not in found


def test_a_fit_is_better_when_high_whatever_its_entry_is_called_and_an_error_when_low() -> None:
    assert natural_mode("test/fit/level") == natural_mode("best_rollout/test/fit/loss") == "max"
    assert natural_mode("test/rollout_rmse/reward") == natural_mode("test/free_run_rmse/fit") == "min"
    assert natural_mode("eval/success") == natural_mode("success_rate") == "max"
    assert has_ratios("test/free_run_rmse/fit")
    assert not has_ratios("test/fit/level")  # "1.2x better" would mean nothing


def test_an_episode_that_ends_within_the_warmup_is_named_before_anything_trains() -> None:
    config = experiment(evaluation={"warmup": 40})
    with pytest.raises(DataError, match=r"split 'test': episode \d+ has \d+ points, evaluation.warmup takes 40"):
        task_of(config.model).check_data(config, DATA, {})
    long = experiment(evaluation={"warmup": 24})
    short = Segments(DATA.episodes.first, np.full(30, 20), DATA.episodes.hashes)
    other = Trajectories(DATA.rows, DATA.features, short, DATA.keys, DATA.given, DATA.fingerprint, DATA.dt)
    with pytest.raises(DataError, match=r"data.validation.other: episode 0 \(episode_0\) has 20 points"):
        task_of(long.model).check_data(long, DATA, {"other": other})


def test_a_named_set_has_its_own_horizon() -> None:
    named = {"source": "double_pendulum", "validation": {"other": "other.h5", "third": "third.h5"}}
    config = experiment(data=named, evaluation={"horizons": {"other": 9}})
    setup = set_up(config, TrialData(DATA, {"other": DATA, "third": DATA}), InlineContext())
    found = [measure(setup.pack(config, (0,), InlineContext()))[0] for measure in setup.validations]
    assert ["validation_other/rollout_rmse@9" in each for each in found] == [False, True, False]
    assert "validation_third/rollout_rmse@3" in found[2]
    names = task_of(config.model).metric_names(config, DATA.features, "validation_other")
    assert "validation_other/rollout_rmse@9" in names
    same_name = {**named, "validation": {"validation": "other.h5"}}
    config = experiment(data=same_name, evaluation={"horizons": {"validation": 9}})
    assert "validation/rollout_rmse@9" not in task_of(config.model).metric_names(config, DATA.features, "validation")
    with pytest.raises(ValidationError, match=r"no set 'othr' in data.validation; did you mean 'other'"):
        experiment(data=named, evaluation={"horizons": {"othr": 9}})


def test_a_policy_is_sent_to_its_closed_loop() -> None:
    pi0 = {"family": "pi0", "chunk": 4, "n_embd": 8}
    with pytest.raises(
        ValidationError, match=r"evaluation is of dynamics models; pi0 is a policy: `ensemble evaluate`"
    ):
        experiment(model=pi0, evaluation={"warmup": 3})
