"""A space in words: what each searched value may be, how many combinations there are, and what a search will do."""

import json
from collections.abc import Iterator, Mapping
from math import isinf, log

from ensemble.config import Choice, Distribution, Experiment, ExperimentFile, Int, IntLog, LogUniform
from ensemble.config.experiment import fresh_seeds, seed_numbers
from ensemble.config.forks import grid_size, option_name
from ensemble.config.space import KINDS
from ensemble.text import plural

DEFAULT_TRIALS = 32
_LONGEST = 60


def space_words(file: ExperimentFile) -> Iterator[tuple[str, str]]:
    """Yield each distribution's name (`train.optimizer[sgd].momentum`) and what it may be."""
    for name, distribution in file.space.items():
        yield name, distribution_words(distribution)


def distribution_words(distribution: Distribution) -> str:
    """Return `2, 3 or 4`, `0.0001 to 0.01, logarithmic`, `adam .. or sgd ..`."""
    if isinstance(distribution, Choice):
        options = [_option(option) for option in distribution.options]
        return options[0] if len(options) == 1 else ", ".join(options[:-1]) + f" or {options[-1]}"
    ends = f"{distribution.low:g} to {distribution.high:g}"
    if isinstance(distribution, Int):
        return f"{ends} in steps of {distribution.step}" if distribution.step > 1 else f"{ends}, whole numbers"
    if isinstance(distribution, IntLog):
        return f"{ends}, whole numbers, logarithmic"
    return f"{ends}, logarithmic" if isinstance(distribution, LogUniform) else ends


def option_words(option: object) -> str:
    """Return one option of a choice in words; a distribution inside it stands in parentheses."""
    if not isinstance(option, Mapping):
        return f"{option:g}" if isinstance(option, float) else json.dumps(option).strip('"')
    if kind := next((key for key in option if key in KINDS), None):
        return f"({distribution_words(KINDS[kind][0].model_validate(option))})"
    name = option_name(option)
    if name is not None:
        return f"{name} .." if len(option) > 1 else name
    return " ".join(f"{key}={option_words(value)}" for key, value in option.items())


def _option(option: object) -> str:
    text = option_words(option)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def size_words(file: ExperimentFile) -> str:
    """Return how many combinations a space has."""
    size = grid_size(file.tree)
    return "infinitely many combinations" if isinf(size) else plural(size, "combination", ",.0f")


def trial_count(file: ExperimentFile, distinct: int | None = None) -> int:
    """Return how many configurations a search tries; `distinct` is how many there are, where that is known."""
    if not file.searched:
        return 1
    search = file.first.search
    most = search.trials or (distinct if search.sampler == "grid" else None) or DEFAULT_TRIALS
    return most if distinct is None else min(most, distinct)


def finalist_members(file: ExperimentFile, trials: int) -> tuple[int, int]:
    """Return how many finalists are trained on how many fresh seeds; a plain ensemble has none."""
    first = file.first
    count = min(first.ensemble.finalists, trials) if file.searched else 0
    return count, len(fresh_seeds(first)) if count else 0


def seeds_of(file: ExperimentFile) -> int:
    """Return the seeds of each configuration: those of the search, or of a plain ensemble."""
    return len(seed_numbers(file.first.search.seeds if file.searched else file.first.ensemble.seeds))


def kept_share(experiment: Experiment) -> float | None:
    """Return the share of its steps that a trial of the search takes on average, or None where nobody can say.

    Successive halving, if every rung keeps exactly one in eta: rungs at r, r eta, r eta^2, .. below the end S give
    r/S + (r eta - r)/(eta S) + ..; Hyperband is the mean over its brackets, which begin at r, r eta, .. ; i_epoch keeps
    about k (1 + ln(n / k)) of n trials at its one rung. What median and wilcoxon stop depends on the curves alone.
    """
    search, steps = experiment.search, experiment.train.steps
    grace = min(search.grace or max(1, steps // search.eta**2), steps)
    if search.pruner == "asha":
        return _halving(grace, search.eta, steps)
    if search.pruner == "hyperband":
        starts = [grace]
        while starts[-1] * search.eta < steps:
            starts.append(starts[-1] * search.eta)
        return sum(_halving(start, search.eta, steps) for start in starts) / len(starts)
    if search.pruner == "i_epoch":
        tried = search.trials or DEFAULT_TRIALS
        stay = min(1.0, search.keep * (1 + log(max(1.0, tried / search.keep))) / tried)
        return (grace + stay * (steps - grace)) / steps
    return 1.0 if search.pruner == "none" else None


def _halving(grace: int, eta: int, steps: int) -> float:
    taken, alive, rung, before = 0.0, 1.0, grace, 0
    while rung < steps:
        taken += alive * (rung - before)
        before, rung, alive = rung, rung * eta, alive / eta
    return (taken + alive * (steps - before)) / steps


def default_grace(eta: int, steps: int, every: int) -> int:
    """Return the steps before the first decision: the last validation before steps / eta^2.

    Later decisions err less often: on the recorded table (`python -m benchmarks.search`) the expected cost of finding
    the winner hardly changes between steps / 20 and steps / 5, the share of searches that find it does.
    """
    return max(1, steps // eta**2 // every) * every


def longest(file: ExperimentFile) -> int:
    """Return the steps of the configuration that trains longest."""
    found = [file.first.train.steps]
    for name, steps in file.space.items():
        if name.partition("[")[0] == "train.steps":
            found += [each for each in steps.options if isinstance(each, int)] if isinstance(steps, Choice) else []
            found += [] if isinstance(steps, Choice) else [int(steps.high)]
    return max(found)
