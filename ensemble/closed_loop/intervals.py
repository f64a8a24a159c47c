"""Intervals of a mean over members and starts: both are drawn, and other ones would have given another mean.

Members and starts are crossed random effects, since every member meets every start (Searle, Casella and McCulloch,
Variance Components, 1992, section 4.7). With y (M, N), one number a member and start,

    y_ij = mu + a_i + b_j + e_ij,       Var(mean) = (MS_members + MS_starts - MS_rest) / (M N),

with the mean squares of the two-way layout, at least the larger of the first two alone. Its degrees of freedom are
Satterthwaite's (1946). A rate has Wilson's interval, with t in place of the normal quantile and the number of
independent trials that has this variance, p (1 - p) / Var, in place of the cells (Franco, Little, Louis and Slud,
J. Survey Stat. Methodol. 7, 2019): it stays within 0 and 1, and is no point where all cells agree.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from ensemble.schema import Float64

LEVEL = 0.95


class Interval(NamedTuple):
    """Two ends, and what is drawn anew in it: `members and starts`, `starts`, `members`, or `none` of an interval."""

    low: float
    high: float
    over: str


def interval(values: Float64, mean: float, is_rate: bool) -> Interval:
    """Return the interval of a mean around values (M, N) by member and start; NaN where neither is repeated.

    `mean` is the metric's own: that of pseudo-values may differ from it a little.
    """
    members, starts = values.shape
    if max(members, starts) < 2:
        return Interval(math.nan, math.nan, "none")
    variance, freedom = mean_variance(values)
    k = float(stdtrit(freedom, 0.5 + LEVEL / 2))
    over = "members and starts" if min(members, starts) > 1 else "starts" if starts > 1 else "members"
    if is_rate:
        return Interval(*wilson(mean, variance, k, members, starts), over)
    half = k * math.sqrt(variance)
    return Interval(mean - half, mean + half, over)


def mean_variance(values: Float64) -> tuple[float, float]:
    """Return the variance of the mean of values (M, N), one of M and N above 1, and its degrees of freedom."""
    members, starts = values.shape
    mean, by_member, by_start = values.mean(), values.mean(axis=1), values.mean(axis=0)
    rest = values - by_member[:, None] - by_start + mean
    squares = np.array([starts * ((by_member - mean) ** 2).sum(), members * ((by_start - mean) ** 2).sum()])
    degrees = np.array([members - 1, starts - 1])
    several = degrees > 0
    of_means, own = squares[several] / degrees[several], degrees[several]
    largest = int(of_means.argmax() if of_means.any() else own.argmax())
    variance, freedom = of_means[largest], float(own[largest])
    if several.all():
        of_rest = (rest**2).sum() / degrees.prod()
        total = of_means.sum() - of_rest
        if total > variance:
            parts = (of_means**2 / own).sum() + of_rest**2 / degrees.prod()
            variance, freedom = total, max(1.0, float(total**2 / parts))
    return float(variance) / values.size, freedom


def wilson(rate: float, variance: float, k: float, members: int, starts: int) -> tuple[float, float]:
    """Return Wilson's interval of a rate with this variance; where all cells agree, of a trial a start."""
    trials = float(members * starts)
    inside = rate * (1 - rate)
    if inside > 0:
        trials = min(trials, inside / variance) if variance > 0 else trials
    else:
        trials = float(starts)
    share = k * k / trials
    half = k * math.sqrt(inside / trials + share / (4 * trials)) / (1 + share)
    middle = (rate + share / 2) / (1 + share)
    return max(0.0, middle - half), min(1.0, middle + half)
