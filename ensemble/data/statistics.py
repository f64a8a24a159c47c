"""Moments of features and of prediction targets, in one pass over the training split, and which columns are constant.

Sums are float64 over chunks of fixed size, merged by the parallel update of Chan, Golub and LeVeque (1983), so the
result depends on the data alone and memory stays small.

A column that moves by rounding alone counts as constant wherever something is divided by its standard deviation: what
a model cannot know about it, 1e-7 say, would be the largest of all errors otherwise. `Moments.constant` is the rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from ensemble.data.trajectories import Segments, Trajectories
from ensemble.schema import Feature, FeatureRole, Float64, Int64

Prediction = Literal["relative", "absolute"]

CHUNK_ROWS = 1 << 16
TRANSITION_ROLES: tuple[FeatureRole, ...] = ("control", "auxiliary")  # without a value at an episode's last point

ROUNDING_STEPS = 4  # a deviation of so many steps of float32 at a column's magnitude is rounding
ROUNDING_SHARE = 2.0**-24  # so is this share of the largest deviation of its role, half a step of float32,
UNRESOLVED = 1e-6  # if it is this far below what a model's normalization, sqrt(variance + 1e-5), tells from 0
CONSTANT_SCALE = 1e-3  # of its magnitude: what a model divides a column by that moves by rounding alone


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Count, mean, sum of squared deviations and range of each column."""

    count: float
    mean: Float64  # (d,)
    m2: Float64  # (d,) sum of squared deviations from the mean
    minimum: Float64  # (d,) +inf without samples
    maximum: Float64  # (d,) -inf without samples

    @classmethod
    def of(cls, x: npt.NDArray[np.floating]) -> Self:
        """Return the moments of the columns of x (n, d)."""
        if not len(x):
            return cls.prior(x.shape[1], count=0.0)
        values = x.astype(np.float64)
        mean = values.mean(axis=0)
        return cls(len(values), mean, ((values - mean) ** 2).sum(axis=0), values.min(axis=0), values.max(axis=0))

    @classmethod
    def prior(cls, width: int, count: float = 1e-4) -> Self:
        """Return mean 0 and variance 1 with the weight of `count` samples (as NeRD's RunningMeanStd begins)."""
        infinite = np.full(width, np.inf)
        return cls(count, np.zeros(width), np.full(width, count), infinite, -infinite)

    def merge(self, other: Self) -> Self:
        """Return the moments of both samples together (Chan et al., eq. 2.1)."""
        count = self.count + other.count
        share = other.count / count if count else 0.0
        delta = other.mean - self.mean
        return type(self)(
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta**2 * self.count * share,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    @property
    def variance(self) -> Float64:
        """Population variance (d,)."""
        return self.m2 / self.count if self.count else np.zeros_like(self.m2)

    @property
    def magnitude(self) -> Float64:
        """Largest absolute value (d,); 0 without samples."""
        return np.maximum(np.abs(self.minimum), np.abs(self.maximum)) if self.count else np.zeros_like(self.mean)

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Which columns (d,) never move, or by rounding alone: see `ROUNDING_STEPS`, `ROUNDING_SHARE`, `UNRESOLVED`.

        The columns are those of one role, since they are compared with each other.
        """
        std = np.sqrt(self.variance)
        steps = np.spacing(self.magnitude.astype(np.float32)).astype(np.float64)
        beside = (std <= ROUNDING_SHARE * std.max(initial=0.0)) & (std < UNRESOLVED)
        still: npt.NDArray[np.bool_] = (std <= ROUNDING_STEPS * steps) | beside
        return still

    @property
    def jittering(self) -> npt.NDArray[np.bool_]:
        """Which columns (d,) count as constant although they move."""
        return self.constant & (self.minimum < self.maximum)

    @classmethod
    def side_by_side(cls, parts: Sequence[Self]) -> Self:
        """Return the moments of several groups of columns; the count is that of the first."""
        return cls(parts[0].count, *(np.concatenate([getattr(part, name) for part in parts]) for name in _BY_COLUMN))


_BY_COLUMN = ("mean", "m2", "minimum", "maximum")


def jittering_columns(features: Sequence[Feature], parts: Sequence[Moments]) -> npt.NDArray[np.bool_]:
    """Return which columns of all features (D,) count as constant although they move; `parts` are by feature."""
    found: list[npt.NDArray[np.bool_]] = []
    for feature, own in zip(features, parts, strict=True):
        role = [part for other, part in zip(features, parts, strict=True) if other.role == feature.role]
        first = sum(other.width for other in features[: features.index(feature)] if other.role == feature.role)
        found.append(Moments.side_by_side(role).jittering[first : first + len(own.mean)])
    return np.concatenate(found)


def wrap(angle: Float64) -> Float64:
    """Wrap angles in radians to [-pi, pi)."""
    return np.mod(angle + np.pi, 2 * np.pi) - np.pi


def feature_moments(data: Trajectories, segments: Segments, feature: str, wrapped: bool) -> Moments:
    """Return the moments of a feature over these pieces; with `wrapped` its angles are wrapped first.

    Controls and auxiliaries belong to transitions: the last point of a piece has no value of them and does not count.
    """
    described = data.feature(feature)
    trim = 1 if described.role in TRANSITION_ROLES else 0
    angles = np.array(described.angles, dtype=bool) & wrapped
    values = data.rows[:, data.columns(feature)]
    total = Moments.prior(described.width, count=0.0)
    for rows in segments.row_chunks(CHUNK_ROWS, trim):
        total = total.merge(Moments.of(_wrapped(values[rows], angles)))
    return total


def all_moments(data: Trajectories, segments: Segments) -> list[Moments]:
    """Return the moments of every feature over these pieces, angles wrapped."""
    return [feature_moments(data, segments, feature.name, wrapped=True) for feature in data.features]


def model_variance(variance: Float64, magnitude: Float64, jittering: npt.NDArray[np.bool_]) -> Float64:
    """Return the variance that a model divides by: a column that moves by rounding alone has that of its magnitude."""
    return np.where(jittering, np.maximum(variance, np.square(CONSTANT_SCALE * magnitude)), variance)


def target_moments(
    data: Trajectories, segments: Segments, columns: Int64, angles: npt.NDArray[np.bool_], prediction: Prediction
) -> Moments:
    """Return the moments of the prediction targets for these columns (d,) of `data.rows`, over all transitions.

    absolute: the next point. relative: its difference to the point before. Columns with `angles` (d,) are wrapped, the
    difference as well: a step across +-pi is a small one.
    """
    total = Moments.prior(len(columns), count=0.0)
    for rows in segments.row_chunks(CHUNK_ROWS, trim=1):
        target = _wrapped(data.rows[(rows + 1)[:, None], columns], angles)
        if prediction == "relative":
            target = _wrapped(target - _wrapped(data.rows[rows[:, None], columns], angles), angles)
        total = total.merge(Moments.of(target))
    return total


def _wrapped(values: npt.NDArray[np.floating], angles: npt.NDArray[np.bool_]) -> Float64:
    """Return values (n, d) as float64 with the columns of `angles` (d,) wrapped."""
    wide = values.astype(np.float64)
    wide[:, angles] = wrap(wide[:, angles])
    return wide
