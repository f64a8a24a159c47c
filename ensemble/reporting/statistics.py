"""Statistics over seeds: a mean always comes with n, its spread, an interval and the name of the method.

Pure functions of numbers; which members count is decided in `groups`.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from ensemble.schema import Float64, Mode

_HIGHER_IS_BETTER = ("success", "success_rate", "return", "reward", "accuracy", "r2", "fit")
_NAN = float("nan")


def student_t(values: Float64, level: float) -> tuple[float, float]:
    """Return the Student t interval of the mean of `values` (n,), n >= 2.

    With n = 3 normal values it covers the nominal 95 %, where a percentile bootstrap covers 73 % (`benchmarks search`).
    """
    return student_interval(float(values.mean()), float(values.std(ddof=1)), values.size, level)


def student_interval(mean: float, std: float, n: int, level: float) -> tuple[float, float]:
    """Return the Student t interval of a mean of n >= 2 values whose standard deviation (ddof 1) is `std`."""
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * std / math.sqrt(n)
    return mean - half, mean + half


@dataclass(frozen=True, slots=True)
class Statistics:
    """A description of n numbers; NaN where n is too small for one of its values."""

    n: int
    mean: float
    std: float  # ddof 1
    ci_low: float
    ci_high: float
    ci_method: str  # t or none
    median: float
    min: float
    max: float


NOTHING = Statistics(0, _NAN, _NAN, _NAN, _NAN, "none", _NAN, _NAN, _NAN)


def describe(values: Float64, level: float = 0.95) -> Statistics:
    """Describe finite `values` (n,); below two there is no spread and the method is "none"."""
    if not np.isfinite(values).all():
        raise ValueError(f"statistics of values that are not finite: {values}")
    if values.size == 0:
        return NOTHING
    several = values.size > 1
    low, high = student_t(values, level) if several else (_NAN, _NAN)
    return Statistics(
        n=values.size,
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if several else _NAN,
        ci_low=low,
        ci_high=high,
        ci_method="t" if several else "none",
        median=float(np.median(values)),
        min=float(values.min()),
        max=float(values.max()),
    )


def best_index(values: Float64, mode: Mode) -> int:
    """Return the index of the best of `values` (n,), n >= 1; the first of equals."""
    return int(values.argmin() if mode == "min" else values.argmax())


def natural_mode(metric: str) -> Mode:
    """Say which end of a metric is better: rates of success and FIT upwards, losses and errors downwards."""
    return "max" if _quantity(metric) in _HIGHER_IS_BETTER else "min"


def has_ratios(metric: str) -> bool:
    """Say whether twice a metric's value is twice as much: not of FIT and R2, which are 0 for the best constant."""
    return _quantity(metric) not in ("fit", "r2")


def _quantity(metric: str) -> str:
    """Return what is measured: it follows the split, and an entry's label follows it, as in `test/fit/level`."""
    words = metric.removeprefix("best_rollout/").removeprefix("last/").split("/")
    return words[min(1, len(words) - 1)].split("@")[0]
