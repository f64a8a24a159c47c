"""Which columns of the data are the state, and how a difference of two states is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.data.statistics import Moments, feature_moments, wrap
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.schema import Feature, Float64


@dataclass(frozen=True)
class StateLayout:
    """The state entries among the features laid side by side."""

    columns: tuple[int, ...]
    labels: tuple[str, ...]
    angles: tuple[bool, ...]

    @classmethod
    def of(cls, features: Sequence[Feature]) -> "StateLayout":
        """Collect the state features in order."""
        columns: list[int] = []
        labels: list[str] = []
        angles: list[bool] = []
        offset = 0
        for feature in features:
            if feature.role == "state":
                columns += range(offset, offset + feature.width)
                labels += feature.labels
                angles += feature.angles
            offset += feature.width
        return cls(tuple(columns), tuple(labels), tuple(angles))

    def difference(self, a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Float64:
        """Return a - b (.., S) in float64, the shortest signed angle where an entry is one."""
        with np.errstate(invalid="ignore"):  # a predictor that ran off to infinity has an error of NaN, not a warning
            difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
            wrapped = wrap(difference)
        return np.where(self.angles, wrapped, difference)


def error_scale(moments: Moments) -> Float64:
    """Return what rollout errors are divided by (S,): the training standard deviation.

    It is 1 for an entry that never moves. One that moves by rounding alone (`Moments.constant`) has its magnitude, or 1
    where that is smaller, so that neither decides the mean over the entries.
    """
    still = np.where(moments.jittering, np.maximum(1.0, moments.magnitude), 1.0)
    return np.where(moments.constant, still, np.sqrt(moments.variance))


def state_moments(data: Trajectories, segments: Segments) -> Moments:
    """Return the moments of the state entries (S,), angles wrapped."""
    state = [feature.name for feature in data.features if feature.role == "state"]
    return Moments.side_by_side([feature_moments(data, segments, name, wrapped=True) for name in state])
