"""Policies that anyone gets for nothing, measured on the same test windows.

zero                   no action
mean                   the mean chunk of the training split
linear least squares   the chunk, linear in the observation
"""

from collections.abc import Mapping

import numpy as np

from ensemble.config import Experiment
from ensemble.data.splits import split_windows
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows
from ensemble.evaluation.state import Float64
from ensemble.schema import TEST_ACTION, TEST_ACTION_SQUARED, role_columns

_FIT_WINDOWS = 20_000  # at most so many, evenly spread, for the least squares


def measure_baselines(experiment: Experiment, data: Trajectories) -> Mapping[str, Mapping[str, float]]:
    """Return the errors of each baseline's chunks; DataError where a split has no window."""
    splits = split_windows(data, experiment.data, experiment.model.window)
    observed, wanted = _pairs(data, splits["train"], experiment.model.window, _FIT_WINDOWS)
    asked, truth = _pairs(data, splits["test"], experiment.model.window, experiment.train.rollout.windows)
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


def _pairs(data: Trajectories, segments: Segments, window: int, count: int) -> tuple[Float64, Float64]:
    """Return observations (n, S) and flat chunks (n, H A)."""
    windows = Windows(data, segments, window)
    points = windows.gather(windows.fixed(count)).numpy().astype(np.float64)
    observed = points[:, 0][:, role_columns(data.features, "state")]
    chunks = points[:, :-1][..., role_columns(data.features, "control")]
    return observed, chunks.reshape(len(chunks), -1)


def _with_one(values: Float64) -> Float64:
    return np.concatenate([values, np.ones((len(values), 1))], axis=1)
