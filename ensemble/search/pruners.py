"""Early stopping: Optuna's pruners, with training steps as their resource, and i-Epoch.

A pruner receives the mean over the seeds at a step; `wilcoxon` alone receives each seed's value, to pair them.
"""

import math
from collections.abc import Callable, Mapping

from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
    WilcoxonPruner,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from ensemble.config.experiment import SearchConfig
from ensemble.config.train import TrainConfig
from ensemble.search.rungs import first_rung

# Optuna's Wilcoxon pruner pairs the values of two trials that have the same step: step * 1000 + rank of the seed.
_STEP_STRIDE = 1000


class IEpochPruner(BasePruner):
    """Train every configuration for a short while, then go on with the best few (i-Epoch).

    One rung at `grace` steps: a trial passes when its value there is among the `keep` best of all that have reached it.
    The first `keep` always pass, so about keep * (1 + log(n / keep)) of n trials are trained to the end. A simple and
    strong baseline: Egele et al., "The unreasonable effectiveness of early discarding after one epoch in
    neural network hyperparameter optimization", Neurocomputing 2024.
    """

    def __init__(self, grace: int, keep: int) -> None:
        self._grace = grace
        self._keep = keep

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Say whether `trial` stops at the rung; no trial stops before or after it."""
        step = _rung(trial, self._grace)
        if step is None or step != trial.last_step:
            return False
        value = trial.intermediate_values[step]
        if math.isnan(value):
            return True  # no value is better than NaN: without this line a diverged trial passes
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        others = [
            other.intermediate_values[reached]
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and (reached := _rung(other, self._grace)) is not None
        ]
        better = sum(sign * other < sign * value for other in others if not math.isnan(other))
        return better >= self._keep


def _rung(trial: FrozenTrial, grace: int) -> int | None:
    """Return the first reported step at or after `grace`."""
    return min((step for step in trial.intermediate_values if step >= grace), default=None)


PRUNERS: dict[str, Callable[[SearchConfig, int, int], BasePruner]] = {
    "asha": lambda search, steps, grace: SuccessiveHalvingPruner(min_resource=grace, reduction_factor=search.eta),
    "hyperband": lambda search, steps, grace: HyperbandPruner(
        min_resource=grace, max_resource=steps, reduction_factor=search.eta
    ),
    "median": lambda search, steps, grace: MedianPruner(n_startup_trials=5, n_warmup_steps=grace - 1),
    "wilcoxon": lambda search, steps, grace: WilcoxonPruner(p_threshold=0.1, n_startup_steps=2),
    "i_epoch": lambda search, steps, grace: IEpochPruner(grace, search.keep),
    "none": lambda search, steps, grace: NopPruner(),
}


def make_pruner(search: SearchConfig, longest: TrainConfig) -> BasePruner:
    """Return the pruner; `longest` is the training of the configuration with the most steps."""
    return PRUNERS[search.pruner](search, longest.steps, first_rung(search, longest))


def intermediate_values(search: SearchConfig, step: int, values: Mapping[int, float], mean: float) -> dict[int, float]:
    """Return the values that are reported to a pruner at a rung, by the step under which it files them."""
    if search.pruner != "wilcoxon":
        return {step: mean}
    if step < (search.grace or 0):
        return {}
    return {step * _STEP_STRIDE + rank: values[seed] for rank, seed in enumerate(sorted(values))}
