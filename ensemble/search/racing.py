"""The race for the best configuration: seeds are added only to configurations that may still be the best.

Every configuration has a few seeds at first; then one seed at a time goes to each configuration whose interval does
not exclude it from being the best (Maron & Moore 1994, Hoeffding races; Birattari et al. 2002, F-Race; López-Ibáñez et
al. 2016, irace). Two seeds hardly determine the variance of one configuration, so variances are shrunk towards their
common value, which gives each the degrees of freedom of many (the moderated t of Smyth 2004). An effect of a seed on
all configurations alike is a block effect: it is fitted and subtracted, which pairs configurations by seed.

Pure functions of numbers; `judge` assigns the seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import polygamma, psi, stdtrit

from ensemble.schema import Float64, Mode

Scores = Mapping[int, Mapping[int, float]]  # configuration: seed: value

LEVEL = 0.95  # family-wise: probability that one comparison with all rivals does not exclude the best
_MAX_FREEDOM = 1e6  # degrees of freedom, numerically infinite
# Smallest variance as a share of the mean one: two seeds that agree by chance are no evidence of zero variance.
_MIN_VARIANCE_SHARE = 1e-4


@dataclass(frozen=True)
class _Estimates:
    """Means and variances of C configurations on the scale of comparison; smaller is better."""

    mean: Float64  # (C,) without the effects of the seeds
    variance: Float64  # (C,) of one seed, shrunk
    freedom: Float64  # (C,) degrees of freedom of the variance
    seeds: npt.NDArray[np.int64]  # (C,) number of seeds

    def excluded(self, leader: int) -> npt.NDArray[np.bool_]:
        """Return which are significantly worse than the leader, (C,): Welch's t, Bonferroni over the rivals."""
        share = self.variance / self.seeds
        error = share + share[leader]
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = error**2 / (share**2 / self.freedom + share[leader] ** 2 / self.freedom[leader])
            t = (self.mean - self.mean[leader]) / np.sqrt(error)  # NaN: equal to the leader, without variance
        rivals = len(share) - 1
        critical = stdtrit(np.minimum(np.nan_to_num(freedom, nan=1.0), _MAX_FREEDOM), 1 - (1 - LEVEL) / rivals)
        return np.asarray(t > critical)  # False for NaN: equals stay


def contenders(scores: Scores, mode: Mode) -> list[int]:
    """Return the configurations that may still be the best, best first.

    A configuration with a non-finite value is excluded, unless all have one. If one has fewer than two seeds, none is
    excluded by its mean. Errors (mode `min`, all positive) are compared on the log scale, where their spread
    does not grow with their size.
    """
    finite = [n for n in sorted(scores) if scores[n] and all(map(math.isfinite, scores[n].values()))]
    if len(finite) < 2:
        return finite or sorted(scores)
    values, present = _matrix([scores[n] for n in finite], mode)
    estimates = _estimate(values, present)
    order = np.argsort(estimates.mean, kind="stable")
    excluded = estimates.excluded(int(order[0]))
    return [finite[index] for index in order if not excluded[index]]


def next_round(scores: Scores, mode: Mode, seeds: Sequence[int], budget: int | None = None) -> list[tuple[int, int]]:
    """Return (configuration, next seed) of each contender with the fewest seeds, best first; empty: the race is over.

    Args:
        scores: configuration: seed: value, all with the first of `seeds`.
        mode: which end is better.
        seeds: all seeds that a configuration may get, in their order.
        budget: seed-runs that may still be spent. A small one limits the contenders to the best few, so that their
            number shrinks by a constant factor a round and two remain for the last one (as in sequential halving,
            Karnin et al. 2013), instead of giving all contenders an equal, too small share.
    """
    racing = contenders(scores, mode)
    if len(racing) < 2:
        return []
    if budget is not None:
        rounds = len(seeds) - min(len(scores[number]) for number in racing)
        racing = racing[: _affordable(budget, rounds, len(racing))]
    fewest = min(len(scores[number]) for number in racing)
    if fewest >= len(seeds):
        return []
    # A configuration that is a contender again after being excluded has fewer seeds than the others: it catches up.
    behind = [number for number in racing if len(scores[number]) == fewest]
    return [(number, next(s for s in seeds if s not in scores[number])) for number in behind][:budget]


def _affordable(budget: int, rounds: int, most: int) -> int:
    """Return the largest count, 2 to `most`, that costs at most `budget` when it shrinks to two over the rounds."""
    counts = range(2, most + 1)
    return next((n for n in reversed(counts) if _cost(n, rounds) <= budget), 2)


def _cost(count: int, rounds: int) -> float:
    factor = (2 / count) ** (1 / max(1, rounds - 1))
    return math.fsum(count * factor**round_ for round_ in range(rounds))


def _matrix(scores: Sequence[Mapping[int, float]], mode: Mode) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Return scores as (C, S), smaller is better, and where there is one."""
    seeds = sorted({seed for values in scores for seed in values})
    values = np.array([[each.get(seed, np.nan) for seed in seeds] for each in scores])
    present = np.isfinite(values)
    if mode == "max":
        values = -values
    elif (values[present] > 0).all():
        values = np.log(values)
    return np.where(present, values, 0.0), present


def _estimate(values: Float64, present: npt.NDArray[np.bool_]) -> _Estimates:
    """Fit value = configuration + seed by least squares; the residuals give each configuration's variance.

    A configuration with n seeds, each shared by K configurations, has about sum(1 - 1/K) (n - 1)/n degrees of freedom.
    """
    # Effects of the seeds: the normal equations without the configurations. They are singular (a constant may move
    # between the two effects), so the solution is that of least norm.
    count, sharing = present.sum(axis=1), present.sum(axis=0)
    rows = present / count[:, None]
    coupling = np.diag(sharing.astype(float)) - present.T @ rows
    effect = np.linalg.lstsq(coupling, values.sum(axis=0) - values.sum(axis=1) @ rows, rcond=None)[0]

    # Means and variances
    mean = values.sum(axis=1) / count - rows @ effect
    residual = np.where(present, values - mean[:, None] - effect, 0.0)
    freedom = (present @ (1 - 1 / sharing)) * (count - 1) / count
    # One seed gives no variance: an infinite one excludes nothing.
    if freedom.min() <= 0:
        return _Estimates(mean, np.full(len(mean), np.inf), np.ones(len(mean)), count)
    return _Estimates(mean, *moderate((residual**2).sum(axis=1) / freedom, freedom), count)


def moderate(variance: Float64, freedom: Float64) -> tuple[Float64, Float64]:
    """Return variances (C,) shrunk towards their common value, and their degrees of freedom.

    Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray experiments",
    2004, section 6.2: the prior's degrees of freedom d0 and value s0^2 from the mean and the variance of log s^2.
    """
    variance = np.maximum(variance, _MIN_VARIANCE_SHARE * variance.mean())
    if not variance.all():
        return variance, freedom  # all are 0: the values are deterministic
    e = np.log(variance) - psi(freedom / 2) + np.log(freedom / 2)
    excess = e.var(ddof=1) - polygamma(1, freedom / 2).mean()
    # No more spread than chance gives: the variances are equal, and the prior is certain.
    d0 = min(2 * _inverse_trigamma(excess), _MAX_FREEDOM) if excess > 0 else _MAX_FREEDOM
    s0 = math.exp(e.mean() + float(psi(d0 / 2)) - math.log(d0 / 2))
    return (d0 * s0 + freedom * variance) / (d0 + freedom), d0 + freedom


def _inverse_trigamma(x: float) -> float:
    """Solve trigamma(y) = x for y > 0 by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / x) / float(polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y
