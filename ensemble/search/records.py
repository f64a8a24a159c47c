"""What is known of a search: jobs handed out, how they ended, and every configuration with its rungs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import optuna

from ensemble.config import Experiment
from ensemble.search.space import Parameters
from ensemble.search_log import mean_over_seeds


@dataclass(frozen=True)
class Suggestion:
    """A job: a configuration and the seeds to train. `number` names the job, `configuration` what was suggested."""

    number: int
    experiment: Experiment
    seeds: tuple[int, ...]
    configuration: int


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its state, each objective by seed, and the member-steps that it took."""

    state: str  # completed | pruned | diverged | failed
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    steps: int = 0


@dataclass
class Configuration:
    """What the judge knows of one suggested configuration."""

    number: int
    experiment: Experiment
    parameters: Parameters
    trial: optuna.Trial
    view: optuna.Trial  # what decisions are asked of: the trial itself, or one in its own view of the past
    rungs: dict[int, tuple[dict[int, float], bool]] = field(default_factory=dict)  # step: (seed: value, kept)
    state: str = "running"
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    steps: int = 0
    told: bool = False

    def mean(self, metric: str) -> float | None:
        """Return the mean over the seeds; None where a seed has no finite value."""
        return mean_over_seeds(self.values.get(metric, {}))
