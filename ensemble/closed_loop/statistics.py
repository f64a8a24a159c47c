"""Closed loops as numbers with their uncertainty: over members, and over the episodes that all of them met.

An interval covers both: `intervals.py`.

A row of `evaluation.parquet` carries its episodes. What an episode contributes to a metric is its jackknife
pseudo-value n theta - (n - 1) theta(without it): the episode's own number for a mean, and what makes the episodes of
one convergence step or velocity deviation comparable with those of another. Everything is a function of rows but
`read_published`, which reads figures of others from a CSV file.
"""

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from ensemble.closed_loop.intervals import LEVEL, interval
from ensemble.errors import UsageError
from ensemble.reporting.number_format import setting as setting_text
from ensemble.reporting.statistics import Statistics, describe, student_interval
from ensemble.schema import Float64

EvaluationRow = Mapping[str, Any]  # of evaluation.parquet


class Setting(NamedTuple):
    """One way of driving."""

    noise: float
    replan: int

    def __str__(self) -> str:
        """Write it in words: `noise 0.05, replan 10`."""
        return f"noise {setting_text(self.noise)}, replan {self.replan}"


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of some members: statistics over them, and the sampling error of their mean over episodes."""

    found: Statistics  # its interval is over members and episodes; of published figures over members alone
    error: float  # standard error of drawing other episodes, the same for all members; NaN where not known


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of one side minus that of the other, means over settings met by both."""

    a: float
    b: float
    mean: float
    low: float
    high: float
    seeds: int  # pairs of equal seeds; 0 where members were not drawn at random, or are no pairs
    episodes: int
    settings: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def joint_sum(sums: Iterable[str | None]) -> str:
    """Return the sha256 of members' `weights_sha256`, one a line, in the order of their seeds."""
    return hashlib.sha256("\n".join(str(each) for each in sums).encode()).hexdigest()


def measure(rows: Sequence[EvaluationRow], metric: str) -> Measured:
    """Describe a metric of members' rows; members without one (none converged) are left out."""
    counted = [row for row in rows if math.isfinite(row[metric])]
    found = describe(np.array([row[metric] for row in counted], np.float64))
    if not counted:
        return Measured(found, math.nan)
    shares = np.array([contributions(row, metric) for row in counted])  # (M, N)
    low, high, over = interval(shares, found.mean, is_rate=metric in RATES)
    # Members meet the same episodes: their contributions are averaged before the error is taken.
    return Measured(replace(found, ci_low=low, ci_high=high, ci_method=over), _error(shares.mean(axis=0)))


def _error(shares: Float64) -> float:
    """Return the standard error of a mean over episodes (N,)."""
    return float(shares.std(ddof=1)) / math.sqrt(shares.size) if shares.size > 1 else math.nan


def contributions(row: EvaluationRow, metric: str) -> Float64:
    """Return each episode's pseudo-value of a metric (N,), whose mean is near the metric's value."""
    return _CONTRIBUTIONS[metric](row)


def _array(row: EvaluationRow, name: str) -> Float64:
    return np.array([np.nan if value is None else value for value in row[f"episode_{name}"]], np.float64)


def _success(row: EvaluationRow) -> Float64:
    return _array(row, "success")


def _length(row: EvaluationRow) -> Float64:
    return _array(row, "steps")


def _converged(row: EvaluationRow) -> Float64:
    return np.isfinite(_array(row, "converged")).astype(np.float64)


def _converge_step(row: EvaluationRow) -> Float64:
    steps = _array(row, "converged")
    counted = np.isfinite(steps)
    total, count = np.nansum(steps), counted.sum()
    # With one converged episode there is none to leave out.
    if count < 2:
        return np.full(steps.shape, total / count if count else np.nan)
    without = np.where(counted, (total - np.nan_to_num(steps)) / (count - 1), total / count)
    return _pseudo(total / count, without)


def _velocity_std(row: EvaluationRow) -> Float64:
    steps, velocity, squares = (_array(row, name) for name in ("steps", "velocity", "velocity_squares"))
    if len(steps) < 2 or not (steps.sum() - steps).all():
        return np.full(steps.shape, float(row["cart_velocity_std"]))
    whole = _deviation(steps.sum(), velocity.sum(), squares.sum())
    without = _deviation(steps.sum() - steps, velocity.sum() - velocity, squares.sum() - squares)
    return _pseudo(whole, without)


def _deviation(count: Any, total: Any, squares: Any) -> Any:
    return np.sqrt(np.maximum(squares / count - np.square(total / count), 0))


def _pseudo(whole: float, without: Float64) -> Float64:
    return without.size * whole - (without.size - 1) * without


_CONTRIBUTIONS: Mapping[str, Callable[[EvaluationRow], Float64]] = {
    "success": _success,
    "converge_rate": _converged,
    "converge_step": _converge_step,
    "cart_velocity_std": _velocity_std,
    "episode_length": _length,
}
METRICS = tuple(_CONTRIBUTIONS)
RATES = ("success", "converge_rate")

RowsBySetting = Mapping[Setting, Sequence[EvaluationRow]]  # of one side


def compare_members(a: RowsBySetting, b: RowsBySetting, metric: str) -> Difference | None:
    """Compare the members of two configurations: a - b, over other seeds and other episodes; None without a setting.

    The variance of the difference is that over seeds (of pairs of equal seeds; Welch's where seeds are not the same)
    plus that over episodes, with Satterthwaite's degrees of freedom: members and episodes are crossed, so the sum is
    somewhat too large, never too small. A side of one member says nothing about other seeds.
    """
    settings = _common(a, b, metric)
    if not settings:
        return None
    of_a, of_b = _by_seed(a, settings, metric), _by_seed(b, settings, metric)
    pairs = of_a.keys() == of_b.keys() and len(of_a) > 1
    # Variance over seeds
    parts = []
    if pairs:
        differences = np.array([of_a[seed] - of_b[seed] for seed in of_a])
        parts.append((float(differences.var(ddof=1)) / len(differences), len(differences) - 1))
    else:
        several = [list(side.values()) for side in (of_a, of_b) if len(side) > 1]
        parts = [(float(np.var(values, ddof=1)) / len(values), len(values) - 1) for values in several]
    # Means, and what each episode contributes to their difference
    means = float(np.mean(list(of_a.values()))), float(np.mean(list(of_b.values())))
    return _difference(means, parts, _shares(a, settings, metric) - _shares(b, settings, metric), settings, pairs)


def compare_controllers(a: RowsBySetting, b: RowsBySetting, metric: str) -> Difference | None:
    """Compare what drove the same episodes, a - b, these members and no others: over other episodes alone."""
    settings = _common(a, b, metric)
    if not settings:
        return None
    means = [float(np.mean([row[metric] for s in settings for row in side[s]])) for side in (a, b)]
    shares = _shares(a, settings, metric) - _shares(b, settings, metric)
    return _difference((means[0], means[1]), [], shares, settings, pairs=False)


def _difference(
    means: tuple[float, float],
    parts: list[tuple[float, int]],
    shares: Float64,
    settings: Sequence[Setting],
    pairs: bool,
) -> Difference:
    seeds = parts[0][1] + 1 if pairs else 0
    if shares.size > 1:
        parts = [*parts, (_error(shares) ** 2, shares.size - 1)]
    # Satterthwaite: each part of the variance with its own degrees of freedom
    variance = sum(part for part, _ in parts)
    half = math.nan if not parts else 0.0
    if variance > 0:
        freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
        half = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * math.sqrt(variance)
    mean = means[0] - means[1]
    return Difference(*means, mean, mean - half, mean + half, seeds, shares.size, len(settings))


def _common(a: RowsBySetting, b: RowsBySetting, metric: str) -> list[Setting]:
    """Return the settings in which every row of both sides has a value."""

    def whole(rows: Sequence[EvaluationRow]) -> bool:
        return bool(rows) and all(math.isfinite(row[metric]) for row in rows)

    return [setting for setting in a if setting in b and whole(a[setting]) and whole(b[setting])]


def _by_seed(side: RowsBySetting, settings: Sequence[Setting], metric: str) -> dict[int, float]:
    """Return each member's mean over the settings; members that were not in all of them are left out."""
    values: dict[int, list[float]] = {}
    for setting in settings:
        for row in side[setting]:
            values.setdefault(row["seed"], []).append(row[metric])
    return {seed: float(np.mean(found)) for seed, found in values.items() if len(found) == len(settings)}


def _shares(side: RowsBySetting, settings: Sequence[Setting], metric: str) -> Float64:
    """Return what each episode contributes, mean over the members and the settings (N,)."""
    shares: Float64 = np.mean([np.mean([contributions(r, metric) for r in side[s]], axis=0) for s in settings], axis=0)
    return shares


def read_published(file: Path) -> dict[Setting, list[dict[str, Any]]]:
    """Read published figures from a CSV file, by setting.

    Columns: `method, noise, replan, members, episodes` and for a metric `<metric>` and, where it is known,
    `<metric>_std` over members; `source` is where they come from. An empty cell is unknown.

    Raises:
        UsageError: a file, line or column that cannot be read, named.
    """
    found: dict[Setting, list[dict[str, Any]]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            for line, cells in enumerate(csv.DictReader(stream), start=2):
                setting, row = _row(cells, f"{file}:{line}")
                found.setdefault(setting, []).append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from error
    if not found:
        raise UsageError(f"{file}: holds no row")
    return found


def _row(cells: dict[str, Any], where: str) -> tuple[Setting, dict[str, Any]]:
    members = int(_number(cells, "members", where))
    setting = Setting(_number(cells, "noise", where), int(_number(cells, "replan", where)))
    row: dict[str, Any] = {
        "kind": "published",
        "label": f"{cells.get('method', '')} (published)",
        "replan": setting.replan,
        "noise": setting.noise,
        "episodes": int(_number(cells, "episodes", where)),
        "n": members,
        "source": cells.get("source"),
    }
    for metric in METRICS:
        if cells.get(metric):
            std = _number(cells, f"{metric}_std", where) if cells.get(f"{metric}_std") else math.nan
            row[metric] = Measured(_statistics(_number(cells, metric, where), std, members), math.nan)
    return setting, row


def _number(cells: dict[str, Any], column: str, where: str) -> float:
    text = cells.get(column)
    try:
        value = float(text or "")
    except ValueError:
        raise UsageError(f"{where}: column {column}: {text!r} is no number") from None
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"{where}: column {column}: {text} is out of range")
    return value


def _statistics(mean: float, std: float, n: int) -> Statistics:
    """Describe what is known of n members: Student's interval from their mean and deviation alone."""
    if math.isnan(std) or n < 2:
        return Statistics(n, mean, math.nan, math.nan, math.nan, "none", math.nan, math.nan, math.nan)
    low, high = student_interval(mean, std, n, LEVEL)
    return Statistics(n, mean, std, low, high, "t", math.nan, math.nan, math.nan)
