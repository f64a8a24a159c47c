"""Errors of open-loop rollouts: wrapped differences, each divided by the training standard deviation, root mean square.

The overall error averages over windows, steps and state entries. Beside it stand the error at each step of the
horizon and, in its own unit, that of each state entry.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ensemble.evaluation.state import Float64, StateLayout
from ensemble.schema import rollout_metric, rollout_step_metric


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
    for step, value in enumerate(np.sqrt(scaled.mean(axis=1)), start=1):
        metrics[rollout_step_metric(split, step)] = float(value)
    for label, value in zip(layout.labels, np.sqrt(mean.mean(axis=0)), strict=True):
        metrics[rollout_metric(split, label)] = float(value)
    return metrics
