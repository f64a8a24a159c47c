"""The records of a search: jobs, how they ended, and each configuration with its rungs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import optuna

from ensemble.config import Experiment
from ensemble.search.space import Parameters
from ensemble.search_log import mean_over_seeds


@dataclass(frozen=True)
class Suggestion:
    """A job: a configuration and the seeds to train. `number` identifies the job, `configuration` what is trained."""

    number: int
    experiment: Experiment
    seeds: tuple[int, ...]
    configuration: int


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended: its state, each objective by seed, and the member-steps that it took."""

    state: str  # completed | pruned | diverged | failed
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    steps: int = 0


@dataclass
class Configuration:
    """The state of one suggested configuration."""

    number: int
    experiment: Experiment
    parameters: Parameters
    trial: optuna.Trial
    # In async order `trial` itself. In sync order a trial of a study of its own, which holds only what was reported
    # when the configuration was suggested: decisions then do not depend on which trial ends first.
    pruner_trial: optuna.Trial
    rungs: dict[int, tuple[dict[int, float], bool]] = field(default_factory=dict)  # step: (seed: value, kept)
    state: str = "running"
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    steps: int = 0
    reported: bool = False  # whether the study knows how it ended

    def mean(self, metric: str) -> float | None:
        """Return the mean over the seeds; None where a seed has no finite value."""
        return mean_over_seeds(self.values.get(metric, {}))
