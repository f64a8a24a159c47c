"""What all packs of a trial share: training windows, statistics of the training split, and what members are asked.

It is the same for every family: a module per task (`dynamics`, `policy`) fills it, and the loop reads nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from torch import Tensor

from ensemble.config import Experiment
from ensemble.config.family import Draw, Prediction
from ensemble.data.statistics import all_moments, jittering_columns, model_variance, target_moments
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import WindowSource
from ensemble.models.base import Normalization
from ensemble.open_loop.state import StateLayout
from ensemble.run_directory import MemberDirectory
from ensemble.schema import Feature
from ensemble.training.batches import Batches, ResidentBatches
from ensemble.training.context import Context
from ensemble.training.pack import Pack


class Measure(Protocol):
    """The fixed questions of one split, the same for every member, every configuration and every validation."""

    def __call__(self, pack: Pack) -> list[dict[str, float]]:
        """Measure every member: `<split>/loss` and the errors of its task, a dict a member."""
        ...


@dataclass(frozen=True)
class TrialData:
    """The data sets of a trial."""

    main: Trajectories
    named: Mapping[str, Trajectories]  # further validation sets


@dataclass(frozen=True)
class Setup:
    """A trial's data, ready to train on."""

    features: tuple[Feature, ...]
    normalization: Normalization
    train: WindowSource
    validations: Sequence[Measure]  # `validation` first, then the named sets
    test: Measure
    examples: Callable[[Pack], list[pa.Table]]  # predictions on test windows for the figure: a table a member
    draw: Draw | None = None  # whether noise is drawn anew at each step or once per window; None: no noise
    tokens: Tensor | None = None  # (windows, L) of families over tokens
    companions: tuple[Callable[[MemberDirectory], None], ...] = ()  # write files next to `model.json`

    def pack(self, experiment: Experiment, seeds: Sequence[int], context: Context, wrap: bool = True) -> Pack:
        """Return a pack of new members; see `Pack`."""
        return Pack(experiment, self.features, self.normalization, seeds, context, wrap)

    def batches(self, pack: Pack, batch_size: int, context: Context) -> Batches:
        """Return the training batches of a pack."""
        return ResidentBatches(self.train, pack.seeds, batch_size, pack.sites, context, self.draw, self.tokens)


def training_statistics(data: Trajectories, train: Segments, prediction: Prediction | None) -> Normalization:
    """Take the statistics of the features, and of the target of a `prediction`, from the training split alone.

    None: what is predicted is no state, and the target's statistics are zeros and ones.
    """
    inputs = all_moments(data, train)
    magnitude, jittering = np.concatenate([m.magnitude for m in inputs]), jittering_columns(data.features, inputs)
    known = Normalization.identity(data.features)
    target_mean, target_variance = known.target_mean, known.target_variance
    if prediction is not None:
        layout = StateLayout.of(data.features)
        columns = np.array(layout.columns)
        target = target_moments(data, train, columns, np.array(layout.angles), prediction)
        variance = model_variance(target.variance, magnitude[columns], jittering[columns])
        target_mean, target_variance = target.mean.astype(np.float32), variance.astype(np.float32)
    return Normalization(
        mean=np.concatenate([moments.mean for moments in inputs]).astype(np.float32),
        variance=model_variance(np.concatenate([m.variance for m in inputs]), magnitude, jittering).astype(np.float32),
        target_mean=target_mean,
        target_variance=target_variance,
    )
