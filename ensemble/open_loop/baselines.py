"""Trivial predictors, measured by the same protocol on the same test windows as the models.

    no change              the last seen state stays
    mean                   the training mean
    linear least squares   the change of state, linear in the model's own inputs over its history

of policies, whose test windows give an observation and the chunk of actions that follows it:

    zero                   no action
    mean                   the mean chunk of the training split
    linear least squares   the chunk, linear in the observation

Every table lists them: a model that does not beat them has learnt nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ensemble.config import Experiment
from ensemble.config.model import input_features
from ensemble.data.splits import split_episodes, split_windows
from ensemble.data.statistics import all_moments, jittering_columns, wrap
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows, fixed_windows
from ensemble.open_loop.free_run import free_run_metrics, scored_moments
from ensemble.open_loop.rollout import rollout_metrics, squared_errors
from ensemble.open_loop.state import StateLayout, error_scale, state_moments
from ensemble.run_directory import config_hash
from ensemble.schema import TEST_ACTION, TEST_ACTION_SQUARED, Float64, role_columns
from ensemble.store import write_table

Measure = Callable[[Experiment, Trajectories], Mapping[str, Mapping[str, float]]]  # metrics by baseline
Flags = npt.NDArray[np.bool_]  # (D,) by column
Predictor = Callable[[Float64], Float64]  # the newest points (n, h, D) to the next state (n, S)

_FIT_WINDOWS = 50_000  # at most so many, evenly spread, for the least squares
_FIT_PAIRS = 20_000  # as many, of policies


def write_baselines(path: Path, experiments: Sequence[Experiment], data: Trajectories, measure: Measure) -> None:
    """Measure the baselines of every configuration and write them as rows (baseline, config_hash, metric, value)."""
    known: dict[str, Mapping[str, Mapping[str, float]]] = {}
    rows: list[tuple[str, str, str, float]] = []
    for experiment in experiments:
        question = _question(experiment, data)
        if question not in known:
            known[question] = measure(experiment, data)
        identity = config_hash(experiment)
        rows += [
            (name, identity, metric, value)
            for name, metrics in known[question].items()
            for metric, value in metrics.items()
        ]
    columns = list(zip(*rows, strict=True))
    names = ("baseline", "config_hash", "metric", "value")
    write_table(path, pa.table({name: list(column) for name, column in zip(names, columns, strict=True)}))


def _question(experiment: Experiment, data: Trajectories) -> str:
    """Return what the baselines of a configuration depend on."""
    model, cut, inputs = experiment.model, experiment.data, input_features(experiment.model, data.features)
    asked = f"{experiment.train.rollout} {experiment.evaluation}"
    return f"{model.task} {model.window} {inputs} {asked} {cut.split} {cut.starts}"


def measure_baselines(experiment: Experiment, data: Trajectories) -> Mapping[str, Mapping[str, float]]:
    """Return the test rollout errors of each baseline.

    Raises:
        DataError: the test split has no window of the rollout's length.
    """
    layout = StateLayout.of(data.features)
    splits = split_episodes(data, experiment.data.split, experiment.model.window)
    moments = state_moments(data, splits["train"])
    rollout = experiment.train.rollout
    seen, warmup = rollout.context or experiment.model.window, experiment.evaluation.warmup
    length = min(seen, experiment.model.window, warmup or seen)
    windows = Windows(data, splits["test"], seen + (rollout.test_horizon or rollout.horizon) - 1)
    points = _points(windows, rollout.windows)
    truth = points[:, seen:][:, :, list(layout.columns)]
    scale = error_scale(moments)
    predictors: dict[str, Predictor] = {
        "no change": lambda newest: newest[:, -1, list(layout.columns)],
        "mean": lambda newest: np.broadcast_to(moments.mean, (len(newest), len(moments.mean))),
        "linear least squares": fit_linear(experiment, data, splits["train"], layout, length),
    }

    def measure(predict: Predictor) -> Mapping[str, float]:
        total = squared_errors(roll(predict, points, seen, length, layout), truth, layout)
        found = rollout_metrics(total, len(points), scale, layout, "test")
        if warmup is None:
            return found
        squares = np.zeros(len(scale))
        for first, count in zip(splits["test"].first, splits["test"].points, strict=True):
            whole = data.rows[None, first : first + count].astype(np.float64)
            predicted = roll(predict, whole, warmup, length, layout)
            squares += squared_errors(predicted, whole[:, warmup:, list(layout.columns)], layout).sum(axis=0)
        scored = scored_moments(data, splits["test"], warmup, layout)
        return {**found, **free_run_metrics(squares, scored, scale, layout, "test")}

    return {name: measure(predict) for name, predict in predictors.items()}


def roll(predict: Predictor, points: Float64, seen: int, length: int, layout: StateLayout) -> Float64:
    """Run a predictor open loop: points (n, seen + H, D) to states (n, H, S); controls come from the points."""
    points = points.copy()
    for step in range(seen, points.shape[1]):
        points[:, step, list(layout.columns)] = predict(points[:, step - length : step])
    return points[:, seen:][:, :, list(layout.columns)]


def fit_linear(
    experiment: Experiment, data: Trajectories, train: Segments, layout: StateLayout, length: int
) -> Predictor:
    """Fit the change of state by least squares, linear in `length` points of the model's inputs and a constant.

    An input that moves by rounding alone is the constant once more: its coefficient would be as large as it is small.
    """
    moving = ~jittering_columns(data.features, all_moments(data, train))
    columns, angles = _inputs(experiment, data, moving)
    points = _points(Windows(data, train, length), _FIT_WINDOWS)

    def design(newest: Float64) -> Float64:
        values = newest[:, :, columns]
        values = np.where(angles, wrap(values), values).reshape(len(newest), -1)
        return np.concatenate([values, np.ones((len(newest), 1))], axis=1)

    state = list(layout.columns)
    change = layout.difference(points[:, -1, state], points[:, -2, state])
    solution = np.linalg.lstsq(design(points[:, :-1]), change, rcond=None)[0]

    def predict(newest: Float64) -> Float64:
        return newest[:, -1, state] + design(newest) @ solution

    return predict


def _inputs(experiment: Experiment, data: Trajectories, moving: Flags) -> tuple[list[int], list[bool]]:
    """Return the columns that the model reads, of those that are `moving`, and which of them are angles."""
    names = dict.fromkeys(
        name for config in input_features(experiment.model, data.features).values() for name in config
    )
    columns: list[int] = []
    angles: list[bool] = []
    for name in names:
        where = data.columns(name)
        columns += range(where.start, where.stop)
        angles += data.feature(name).angles
    kept = [(column, angle) for column, angle in zip(columns, angles, strict=True) if moving[column]]
    return [column for column, _ in kept], [angle for _, angle in kept]


def _points(windows: Windows, count: int) -> Float64:
    return np.asarray(fixed_windows(windows, count), dtype=np.float64)


def measure_policy_baselines(experiment: Experiment, data: Trajectories) -> Mapping[str, Mapping[str, float]]:
    """Return the errors of each baseline's chunks of actions; DataError where a split has no window."""
    splits = split_windows(data, experiment.data, experiment.model.window)
    moving = ~jittering_columns(data.features, all_moments(data, splits["train"]))
    observed, wanted = _pairs(data, splits["train"], experiment.model.window, _FIT_PAIRS, moving)
    asked, truth = _pairs(data, splits["test"], experiment.model.window, experiment.train.rollout.windows, moving)
    solution = np.linalg.lstsq(_with_one(observed), wanted, rcond=None)[0]
    predictions = {
        "zero": np.zeros_like(truth),
        "mean": np.broadcast_to(wanted.mean(0), truth.shape),
        "linear least squares": _with_one(asked) @ solution,
    }
    return {
        name: {
            TEST_ACTION: float(np.abs(predicted - truth).mean()),
            TEST_ACTION_SQUARED: float(np.square(predicted - truth).mean()),
        }
        for name, predicted in predictions.items()
    }


def _pairs(data: Trajectories, segments: Segments, window: int, count: int, moving: Flags) -> tuple[Float64, Float64]:
    """Return the `moving` entries of observations (n, S) and flat chunks (n, H A)."""
    windows = Windows(data, segments, window)
    points = _points(windows, count)
    observed = points[:, 0][:, [column for column in role_columns(data.features, "state") if moving[column]]]
    chunks = points[:, :-1][..., role_columns(data.features, "control")]
    return observed, chunks.reshape(len(chunks), -1)


def _with_one(values: Float64) -> Float64:
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)
