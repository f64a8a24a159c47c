"""Paired comparison of two configurations over seeds: differences, Holm's correction, seeds needed.

Pure functions of numbers, no configuration and no file; what is compared is decided in `versus`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtr, ndtri, stdtr, stdtrit

from ensemble.reporting.statistics import Statistics, describe
from ensemble.schema import Float64, Mode

MOST_SEEDS = 1000  # beyond, "more than 1000" says enough
PAIRED_T = "paired t"
MANN_WHITNEY = "Mann-Whitney, Newcombe's interval 5"
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Paired:
    """The differences a - b of members with equal seeds."""

    seeds: tuple[int, ...]  # that both have
    found: Statistics  # of the differences; its interval is that of the paired t test
    p: float  # two-sided, of a mean difference of zero; NaN below two pairs


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compare values by seed; seeds that only one side has, or without a finite value, make no pair."""
    seeds = tuple(s for s in sorted(a.keys() & b.keys()) if math.isfinite(a[s]) and math.isfinite(b[s]))
    found = describe(np.array([a[s] - b[s] for s in seeds], np.float64))
    return Paired(seeds, found, paired_p(found.mean, found.std, found.n))


def paired_p(mean: float, std: float, n: int) -> float:
    """Return the two-sided p value of the paired t test: t = mean sqrt(n) / std with n - 1 degrees of freedom."""
    if n < 2:
        return _NAN
    if std == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(n - 1, -abs(mean) * math.sqrt(n) / std))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust a family of p values (Holm 1979): sorted, the i-th of m times m - i + 1, never falling, at most 1.

    NaN (no test was made) is no part of the family and stays NaN.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted, least = [_NAN] * len(p_values), 0.0
    for place, (p, i) in enumerate(tested):
        least = max(least, min(1.0, p * (len(tested) - place)))
        adjusted[i] = least
    return adjusted


@dataclass(frozen=True, slots=True)
class Improvement:
    """The probability that one run of a is better than one run of b."""

    value: float
    low: float
    high: float


def probability_of_improvement(a: Float64, b: Float64, mode: Mode, level: float = 0.95) -> Improvement:
    """Return P(a better than b) over all pairs of runs of a (m,) and b (n,), ties half.

    The measure is that of Agarwal et al. 2021 ("Deep RL at the edge of the statistical precipice", section 4.3), the
    Mann-Whitney statistic over m n. Its interval is Newcombe's method 5 (2006, part 2), which unlike a bootstrap holds
    for a few seeds and at 0 and 1; it takes the two samples as independent. Infinite values are ordered like others,
    so that a diverged run loses against every other one.
    """
    if not a.size or not b.size:
        return Improvement(_NAN, _NAN, _NAN)
    better = a[:, None] < b if mode == "min" else a[:, None] > b
    value = float(np.mean(better + 0.5 * (a[:, None] == b)))
    low, high = _newcombe(value, a.size, b.size, level)
    return Improvement(value, low, high)


def _newcombe(value: float, m: int, n: int, level: float) -> tuple[float, float]:
    """Solve |value - theta| = z sqrt(V(theta)); V is that of Hanley and McNeil with (m + n) / 2 - 1 on both sides."""
    z, extra = float(ndtri(0.5 + level / 2)), (m + n) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (value - theta) ** 2 - z**2 * theta * (1 - theta) * spread / (m * n)

    # Theta = 0 or 1 solves it trivially where the value is that: the root wanted lies inside.
    low = 0.0 if value == 0 else float(brentq(excess, 0.0, min(value, 1 - 1e-12)))
    high = 1.0 if value == 1 else float(brentq(excess, max(value, 1e-12), 1.0))
    return low, high


def power(effect: float, n: int, level: float = 0.05) -> float:
    """Return the power of a two-sided paired t test with n pairs; `effect` is |mean| / std of the differences."""
    critical = float(stdtrit(n - 1, 1 - level / 2))
    shift = abs(effect) * math.sqrt(n)
    if shift > critical + 30:  # beyond, the distribution function loses its digits, and the power is 1
        return 1.0
    below = float(nctdtr(n - 1, shift, -critical))
    return 1 - float(nctdtr(n - 1, shift, critical)) + (0.0 if math.isnan(below) else below)


def seeds_needed(mean: float, std: float, wanted: float = 0.8, level: float = 0.05) -> int | None:
    """Return the pairs with which a two-sided paired t test has the power `wanted`; None beyond 1000.

    `mean` and `std` of the differences are taken as true; from few pairs they are estimates themselves.
    """
    if math.isnan(mean) or math.isnan(std) or mean == 0:
        return None
    if std == 0:
        return 2
    effect = abs(mean) / std
    if power(effect, MOST_SEEDS, level) < wanted:
        return None
    low, high = 1, MOST_SEEDS  # the power grows with n: `high` has it, `low` has not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, level) >= wanted else (middle, high)
    return high


def unpaired(a: Float64, b: Float64, level: float = 0.95) -> tuple[float, float, float]:
    """Return mean(a) - mean(b) and its interval by Welch's t, which allows for unequal spread; NaN below two each."""
    difference = float(a.mean() - b.mean()) if a.size and b.size else _NAN
    if min(a.size, b.size) < 2:
        return difference, _NAN, _NAN
    of_a, of_b = float(a.var(ddof=1)) / a.size, float(b.var(ddof=1)) / b.size
    if of_a + of_b == 0:
        return difference, difference, difference
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (a.size - 1) + of_b**2 / (b.size - 1))
    half = float(stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(of_a + of_b)
    return difference, difference - half, difference + half
