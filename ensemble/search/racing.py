"""The race for the best configuration: seeds are added only where the best may still be.

Every configuration has a few seeds at first; then one seed at a time goes to each configuration whose interval does
not exclude it from being the best (Maron & Moore 1994, Hoeffding races; Birattari et al. 2002, F-Race; López-Ibáñez et
al. 2016, irace). Two seeds say next to nothing about one configuration's own variance. So variances are shrunk towards
what all configurations have in common, which lends each the degrees of freedom of many (the moderated t of Smyth 2004).
What a seed does to all configurations alike is a block effect: it is fitted and taken out, which pairs them by seed.

Pure functions of numbers. Who trains what is decided in `judge`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import polygamma, psi, stdtrit

from ensemble.schema import Float64, Mode

Scores = Mapping[int, Mapping[int, float]]  # configuration: seed: value

LEVEL = 0.95  # family-wise: of never excluding the best in one look at all its rivals
_CERTAIN = 1e6  # degrees of freedom that are as good as infinite
_LEAST_SHARE = 1e-4  # of the mean variance: two seeds that agree by chance are no evidence of no variance


@dataclass(frozen=True)
class _Standing:
    """Where C configurations stand on the scale on which they are compared; small is good."""

    mean: Float64  # (C,) free of the effects of the seeds
    variance: Float64  # (C,) of one seed, shrunk
    freedom: Float64  # (C,) its degrees of freedom
    seeds: npt.NDArray[np.int64]  # (C,) how many

    def excluded(self, leader: int) -> npt.NDArray[np.bool_]:
        """Say who is behind the leader by more than chance, (C,): Welch's t, Bonferroni over the rivals."""
        share = self.variance / self.seeds
        error = share + share[leader]
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = error**2 / (share**2 / self.freedom + share[leader] ** 2 / self.freedom[leader])
            behind = (self.mean - self.mean[leader]) / np.sqrt(error)  # NaN: level with the leader, without variance
        rivals = len(share) - 1
        return np.asarray(
            behind > stdtrit(np.minimum(np.nan_to_num(freedom, nan=1.0), _CERTAIN), 1 - (1 - LEVEL) / rivals)
        )


def contenders(scores: Scores, mode: Mode) -> list[int]:
    """Return the configurations that may still be the best, the best first.

    A configuration with a value that is not finite is none of them, unless all are such. With fewer than two seeds
    somewhere nothing is excluded. Errors (mode `min`, all positive) are compared on the log scale, where their spread
    does not grow with their size.
    """
    sound = [n for n in sorted(scores) if scores[n] and all(map(math.isfinite, scores[n].values()))]
    if len(sound) < 2:
        return sound or sorted(scores)
    values, present = _matrix([scores[n] for n in sound], mode)
    standing = _stand(values, present)
    order = np.argsort(standing.mean, kind="stable")
    excluded = standing.excluded(int(order[0]))
    return [sound[place] for place in order if not excluded[place]]


def next_round(scores: Scores, mode: Mode, seeds: Sequence[int], left: int | None = None) -> list[tuple[int, int]]:
    """Return who gets which seed next, the best first: each contender that has the fewest. Empty: the race is over.

    Args:
        scores: configuration: seed: value, all with the first of `seeds`.
        mode: which end is better.
        seeds: all that a configuration may get, in their order.
        left: seed-runs that may still be spent. When they are scarce the field is cut to the best few, so that it
            shrinks by a constant factor a round and two are left for the last one (as in sequential halving, Karnin et
            al. 2013), instead of all contenders getting an equal, too small share.
    """
    field = contenders(scores, mode)
    if len(field) < 2:
        return []
    if left is not None:
        rounds = len(seeds) - min(len(scores[number]) for number in field)
        field = field[: _affordable(left, rounds, len(field))]
    fewest = min(len(scores[number]) for number in field)
    if fewest >= len(seeds):
        return []
    turn = [number for number in field if len(scores[number]) == fewest]
    return [(number, next(s for s in seeds if s not in scores[number])) for number in turn][:left]


def _affordable(left: int, rounds: int, most: int) -> int:
    """Return the largest field, 2 to `most`, that costs at most `left` when it shrinks to two over the rounds."""
    fields = range(2, most + 1)
    return next((n for n in reversed(fields) if _cost(n, rounds) <= left), 2)


def _cost(field: int, rounds: int) -> float:
    factor = (2 / field) ** (1 / max(1, rounds - 1))
    return math.fsum(field * factor**turn for turn in range(rounds))


def _matrix(scores: Sequence[Mapping[int, float]], mode: Mode) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """Lay scores out as (C, S), small is good, and say where there are any."""
    seeds = sorted({seed for values in scores for seed in values})
    values = np.array([[each.get(seed, np.nan) for seed in seeds] for each in scores])
    present = np.isfinite(values)
    if mode == "max":
        values = -values
    elif (values[present] > 0).all():
        values = np.log(values)
    return np.where(present, values, 0.0), present


def _stand(values: Float64, present: npt.NDArray[np.bool_]) -> _Standing:
    """Fit value = configuration + seed by least squares, and take each configuration's variance from what is left.

    A configuration with n seeds, each shared by K configurations, keeps about sum(1 - 1/K) (n - 1)/n degrees of freedom
    of its own.
    """
    count, sharing = present.sum(axis=1), present.sum(axis=0)
    rows = present / count[:, None]
    coupling = np.diag(sharing.astype(float)) - present.T @ rows
    effect = np.linalg.lstsq(coupling, values.sum(axis=0) - values.sum(axis=1) @ rows, rcond=None)[0]
    mean = values.sum(axis=1) / count - rows @ effect
    residual = np.where(present, values - mean[:, None] - effect, 0.0)
    freedom = (present @ (1 - 1 / sharing)) * (count - 1) / count
    if freedom.min() <= 0:
        return _Standing(mean, np.full(len(mean), np.inf), np.ones(len(mean)), count)
    return _Standing(mean, *moderate((residual**2).sum(axis=1) / freedom, freedom), count)


def moderate(variance: Float64, freedom: Float64) -> tuple[Float64, Float64]:
    """Shrink variances (C,) with so many degrees of freedom towards their common value; return both anew.

    Smyth, "Linear models and empirical Bayes methods for assessing differential expression in microarray experiments",
    2004, section 6.2: the prior's degrees of freedom d0 and value s0^2 from the mean and the variance of log s^2.
    """
    variance = np.maximum(variance, _LEAST_SHARE * variance.mean())
    if not variance.all():
        return variance, freedom  # all are 0: there is no chance in these numbers
    e = np.log(variance) - psi(freedom / 2) + np.log(freedom / 2)
    excess = e.var(ddof=1) - polygamma(1, freedom / 2).mean()
    d0 = min(2 * _inverse_trigamma(excess), _CERTAIN) if excess > 0 else _CERTAIN
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
