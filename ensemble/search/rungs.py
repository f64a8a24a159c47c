"""When a search decides: the first rung of a pruner, and how much of the training it leaves.

The pruners, `ensemble plan`, the refusal of a long search and the notes of a run all ask here, so that a plan promises
what a pruner does. No torch, no Optuna.
"""

from math import log

from ensemble.config import Choice, ExperimentFile
from ensemble.config.experiment import SearchConfig
from ensemble.config.forks import grid_size
from ensemble.config.train import TrainConfig


def first_rung(search: SearchConfig, train: TrainConfig) -> int:
    """Return the steps before the first decision about a configuration that trains for `train.steps`.

    `search.grace`, or the last validation before steps / eta^2: later decisions err less often. On the recorded table
    (`python -m benchmarks search`) the expected cost of finding the winner hardly changes between steps / 20 and
    steps / 5, the share of searches that find it does.
    """
    every = train.validation_interval
    return search.grace or max(1, train.steps // search.eta**2 // every) * every


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
        tried = search.most_trials or grid_size(file.tree)
        stay = min(1.0, search.keep * (1 + log(max(1.0, tried / search.keep))) / tried)
        decided = min(steps, _validated(grace, train))
        return (decided + stay * (steps - decided)) / steps
    return 1.0 if search.pruner == "none" else None


def _halving(grace: int, eta: int, train: TrainConfig) -> float:
    taken, alive, rung, before = 0.0, 1.0, grace, 0
    while (decided := _validated(rung, train)) < train.steps:
        taken += alive * (decided - before)
        before, rung, alive = decided, rung * eta, alive / eta
    return (taken + alive * (train.steps - before)) / train.steps


def _validated(step: int, train: TrainConfig) -> int:
    """Return the first validation from `step` on: values are reported, and decided on, only there."""
    return -(-step // train.validation_interval) * train.validation_interval


def longest(file: ExperimentFile) -> TrainConfig:
    """Return the training of the first configuration, as long as that of the one that trains longest."""
    found = [file.first.train.steps]
    for name, steps in file.space.items():
        if name.partition("[")[0] == "train.steps":
            found += [each for each in steps.options if isinstance(each, int)] if isinstance(steps, Choice) else []
            found += [] if isinstance(steps, Choice) else [int(steps.high)]
    return file.first.train.model_copy(update={"steps": max(found)})
