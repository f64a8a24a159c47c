"""Errors of open-loop rollouts: wrapped differences, each divided by the training standard deviation, root mean square.

The overall error averages over windows, steps and state entries. It is reported with the error at each step of the
horizon and, in its own unit, that of each state entry.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ensemble.open_loop.state import StateLayout
from ensemble.schema import Float64, rollout_metric, rollout_step_metric

_NAMED_STEPS = 20


def squared_errors(
    predicted: npt.NDArray[np.floating],  # (.., B, H, S)
    truth: npt.NDArray[np.floating],  # (B, H, S)
    layout: StateLayout,
) -> Float64:
    """Return the squared wrapped differences summed over windows: (.., H, S) float64."""
    total: Float64 = np.square(layout.difference(predicted, truth)).sum(axis=-3)
    return total


def rollout_metrics(
    total: Float64,  # (H, S) squared errors summed over windows
    windows: int,
    scale: Float64,  # (S,)
    layout: StateLayout,
    split: str,
) -> Mapping[str, float]:
    """Name the errors of one predictor: overall, per step of the horizon, per state entry."""
    mean = total / windows
    scaled = mean / np.square(scale)
    metrics = {f"{split}/rollout_rmse": float(np.sqrt(scaled.mean()))}
    by_step = np.sqrt(scaled.mean(axis=1))
    for step in named_steps(len(by_step)):
        metrics[rollout_step_metric(split, step)] = float(by_step[step - 1])
    for label, value in zip(layout.labels, np.sqrt(mean.mean(axis=0)), strict=True):
        metrics[rollout_metric(split, label)] = float(value)
    return metrics


def named_steps(horizon: int) -> list[int]:
    """Return the steps of the horizon that get a metric: all of a short one, some 20 of a long one, log-spaced."""
    if horizon <= _NAMED_STEPS:
        return list(range(1, horizon + 1))
    return sorted({round(step) for step in np.geomspace(1, horizon, _NAMED_STEPS)})
