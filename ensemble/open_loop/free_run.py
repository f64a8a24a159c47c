"""Free runs: an episode predicted from its first points to its end, as benchmarks of system identification ask for.

The first `warmup` points of an episode are given and left out of the error; from there on a model sees its own states
and the true controls alone. Over the points that are left, of all episodes together, and for each state entry,

    RMSE = sqrt(mean (y - yhat)^2),        FIT = 100 (1 - ||y - yhat|| / ||y - mean(y)||) %,

as Ljung (System Identification Toolbox, `compare`) and nonlinearbenchmark.org define them, in the entry's own unit and
with wrapped differences of angles. A FIT of 0 is that of the best constant; an entry that is constant has none.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ensemble.data.statistics import Moments, wrap
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.errors import DataError
from ensemble.open_loop.state import StateLayout
from ensemble.schema import Float64, fit_metric, free_run_metric


def require_length(segments: Segments, warmup: int, what: str, keys: Sequence[str] = ()) -> None:
    """Raise DataError, naming the first, where an episode ends within the warm-up."""
    short = np.flatnonzero(segments.points <= warmup)
    if not len(segments):
        raise DataError(f"{what} has no episode for a free run")
    if len(short):
        name, points = f" ({keys[short[0]]})" if keys else "", segments.points[short[0]]
        raise DataError(
            f"{what}: episode {short[0]}{name} has {points} points, evaluation.warmup takes {warmup}; a free run needs "
            "one more"
        )


def scored_moments(data: Trajectories, segments: Segments, warmup: int, layout: StateLayout) -> Moments:
    """Return the moments of the state entries (S,) over the points after the warm-up, angles wrapped."""
    total = Moments.prior(len(layout.columns), count=0.0)
    for first, points in zip(segments.first + warmup, segments.points - warmup, strict=True):
        rows = data.rows[first : first + points][:, list(layout.columns)].astype(np.float64)
        total = total.merge(Moments.of(np.where(layout.angles, wrap(rows), rows)))
    return total


def free_run_metrics(
    squares: Float64,  # (S,) squared errors summed over all scored points
    scored: Moments,
    scale: Float64,  # (S,)
    layout: StateLayout,
    split: str,
) -> Mapping[str, float]:
    """Name the errors of one predictor: overall in training deviations, then RMSE and FIT of each entry."""
    mean = squares / scored.count
    metrics = {f"{split}/free_run_rmse": float(np.sqrt((mean / np.square(scale)).mean()))}
    for label, value in zip(layout.labels, np.sqrt(mean), strict=True):
        metrics[free_run_metric(split, label)] = float(value)
    for index in np.flatnonzero(~scored.constant):
        fit = 100 * (1 - np.sqrt(squares[index] / scored.m2[index]))
        metrics[fit_metric(split, layout.labels[index])] = float(fit)
    return metrics
