"""What all packs of a trial share: training windows, statistics of the training split, and what members are asked.

It is the same for every family: a module per task (`dynamics`, `policy`) fills it, and the loop looks no further.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import pyarrow as pa
from torch import Tensor

from ensemble.config import Experiment
from ensemble.data.trajectories import Trajectories
from ensemble.data.windows import WindowSource
from ensemble.models.base import Normalization
from ensemble.run_directory import MemberDirectory
from ensemble.schema import Feature
from ensemble.training.batches import Batches, Draw
from ensemble.training.context import Context
from ensemble.training.pack import Pack

_TASKS = {"dynamics": "ensemble.training.dynamics", "policy": "ensemble.training.policy"}


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
    draw: Draw | None = None  # how a family that draws noise counts its draws
    tokens: Tensor | None = None  # (windows, L) of families over tokens
    companions: tuple[Callable[[MemberDirectory], None], ...] = ()  # what writes files beside `model.json`

    def batches(self, pack: Pack, batch_size: int, context: Context) -> Batches:
        """Return the training batches of a pack."""
        return Batches(self.train, pack.seeds, batch_size, pack.sites, context, self.draw, self.tokens)


def set_up(
    experiment: Experiment, data: TrialData, context: Context, normalization: Normalization | None = None
) -> Setup:
    """Split the data, take the statistics of the training split (unless given), and fix the questions of each split.

    Raises:
        DataError: a split has no window of the model's length or of the rollout, or a named set has other features.
    """
    module = import_module(_TASKS[experiment.model.task])
    setup: Setup = module.set_up(experiment, data, context, normalization)
    return setup
