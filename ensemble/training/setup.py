"""What all packs of a trial share: splits, statistics of the training split, training windows, measures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ensemble.config import Experiment
from ensemble.data.splits import split_episodes
from ensemble.data.statistics import feature_moments, target_moments
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows
from ensemble.errors import DataError
from ensemble.evaluation.state import Float64, StateLayout, error_scale, state_moments
from ensemble.models.base import Normalization
from ensemble.schema import Feature
from ensemble.training.context import Context
from ensemble.training.measure import Measure


@dataclass(frozen=True)
class TrialData:
    """The data sets of a trial."""

    main: Trajectories
    named: Mapping[str, Trajectories]  # further validation sets


@dataclass(frozen=True)
class Setup:
    """A trial's data, ready to train on."""

    data: Trajectories
    features: tuple[Feature, ...]
    layout: StateLayout
    normalization: Normalization
    scale: Float64  # (S,) what rollout errors are divided by
    splits: Mapping[str, Segments]
    train: Windows
    validations: tuple[Measure, ...]  # `validation` first, then the named sets
    test: Measure


def set_up(
    experiment: Experiment, data: TrialData, context: Context, normalization: Normalization | None = None
) -> Setup:
    """Split the data, take the statistics of the training split (unless given), and fix the questions of each split.

    Raises:
        DataError: a split has no window of the model's history or of the rollout, or a named set has other features.
    """
    main, history = data.main, experiment.model.history
    splits = split_episodes(main, experiment.data.split, history)
    layout = StateLayout.of(main.features)
    scale = error_scale(state_moments(main, splits["train"]).variance)

    rollout = experiment.train.rollout

    def measure(name: str, source: Trajectories, segments: Segments, horizon: int = rollout.horizon) -> Measure:
        return Measure(name, source, segments, experiment, scale, context, horizon)

    for name, other in data.named.items():
        if other.features != main.features:
            raise DataError(f"data.validation.{name} has other features than the training data")
    return Setup(
        data=main,
        features=main.features,
        layout=layout,
        normalization=normalization or normalize(experiment, main, splits["train"]),
        scale=scale,
        splits=splits,
        train=Windows(main, splits["train"], history),
        validations=(
            measure("validation", main, splits["validation"]),
            *(measure(f"validation_{name}", other, other.episodes) for name, other in data.named.items()),
        ),
        test=measure("test", main, splits["test"], rollout.test_horizon or rollout.horizon),
    )


def normalize(experiment: Experiment, data: Trajectories, segments: Segments) -> Normalization:
    """Take the statistics of inputs and target from the training split alone."""
    layout = StateLayout.of(data.features)
    inputs = [feature_moments(data, segments, feature.name, wrapped=True) for feature in data.features]
    target = target_moments(
        data, segments, np.array(layout.columns), np.array(layout.angles), experiment.model.prediction
    )
    return Normalization(
        mean=np.concatenate([moments.mean for moments in inputs]).astype(np.float32),
        variance=np.concatenate([moments.variance for moments in inputs]).astype(np.float32),
        target_mean=target.mean.astype(np.float32),
        target_variance=target.variance.astype(np.float32),
    )
