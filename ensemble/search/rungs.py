"""When a search decides: the first rung of a pruner, and how much of the training it leaves.

The pruners, `ensemble plan`, the refusal of a long search and the notes of a run all call these functions, so that a
plan states what a pruner does. No torch, no Optuna.
"""

from math import log

from ensemble.config import Choice, ExperimentFile
from ensemble.config.experiment import SearchConfig
from ensemble.config.train import TrainConfig
from ensemble.search.describe_space import trial_count


def first_rung(search: SearchConfig, train: TrainConfig) -> int:
    """Return the steps before the first decision about a configuration that trains for `train.steps`.

    `search.grace`, or the last validation before steps / eta^2: later decisions err less often. On the recorded table
    (`python -m benchmarks search`) the expected cost of finding the winner hardly changes between steps / 20 and
    steps / 5, the share of searches that find it does.
    """
    interval = train.validation_interval
    return search.grace or max(1, train.steps // search.eta**2 // interval) * interval


def kept_share(file: ExperimentFile) -> float | None:
    """Return the share of its steps that a trial of the search takes on average, None where it is unknown.

    Successive halving, if every rung keeps exactly one in eta: rungs at r, r eta, r eta^2, .. below the end S give
    r/S + (r eta - r)/(eta S) + .., each at the first validation from there on; Hyperband is the mean over its brackets,
    which begin at r, r eta, .. ; i_epoch keeps about k (1 + ln(n / k)) of n trials at its one rung. What median and
    wilcoxon stop depends on the curves alone.
    """
    search, train = file.first.search, file.first.train
    steps, grace = train.steps, first_rung(search, train)
    if search.pruner == "asha":
        return _halving(grace, search.eta, train)
    if search.pruner == "hyperband":
        starts = [grace]
        while starts[-1] * search.eta < steps:
            starts.append(starts[-1] * search.eta)
        return sum(_halving(start, search.eta, train) for start in starts) / len(starts)
    if search.pruner == "i_epoch":
        tried = trial_count(file)
        kept = min(1.0, search.keep * (1 + log(max(1.0, tried / search.keep))) / tried)
        rung = min(steps, _next_validation(grace, train))
        return (rung + kept * (steps - rung)) / steps
    return 1.0 if search.pruner == "none" else None


def _halving(grace: int, eta: int, train: TrainConfig) -> float:
    steps, alive, resource, previous = 0.0, 1.0, grace, 0
    while (rung := _next_validation(resource, train)) < train.steps:
        steps += alive * (rung - previous)
        previous, resource, alive = rung, resource * eta, alive / eta
    return (steps + alive * (train.steps - previous)) / train.steps


def _next_validation(step: int, train: TrainConfig) -> int:
    """Return the first validation from `step` on: values are reported, and decisions made, only at validations."""
    return -(-step // train.validation_interval) * train.validation_interval


def longest_training(file: ExperimentFile) -> TrainConfig:
    """Return the training of the first configuration with the steps of the configuration that trains longest."""
    steps = [file.first.train.steps]
    for name, distribution in file.space.items():
        if name.partition("[")[0] != "train.steps":
            continue
        # A choice nested in an option is a distribution of its own: `space` lists it under the bracketed name.
        if isinstance(distribution, Choice):
            steps += [option for option in distribution.options if isinstance(option, int)]
        else:
            steps.append(int(distribution.high))
    return file.first.train.model_copy(update={"steps": max(steps)})
