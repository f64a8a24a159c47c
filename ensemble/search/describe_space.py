"""A space in words: what each searched value may be, how many combinations there are, and what a search will do."""

import json
from collections.abc import Iterator, Mapping
from math import isinf

from ensemble.config import Choice, Distribution, ExperimentFile, Int, IntLog, LogUniform
from ensemble.config.experiment import fresh_seeds, seed_numbers
from ensemble.config.forks import grid_size, option_name
from ensemble.config.space import KINDS
from ensemble.run_directory import config_hash
from ensemble.text import plural

WHOLE_GRID = 2_000  # combinations up to which every one is looked at
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


def trial_count(file: ExperimentFile) -> int:
    """Return how many configurations a search tries: those asked for, and no more than its space holds.

    Raises UsageError for a grid of a range that is no list.
    """
    if not file.searched:
        return 1
    most, held = file.first.search.most_trials, distinct(file)
    if most is None:
        return len(file.configurations()) if held is None else held
    return most if held is None else min(most, held)


def distinct(file: ExperimentFile) -> int | None:
    """Return how many different configurations a space holds; None where it is too large to be counted."""
    if grid_size(file.tree) > WHOLE_GRID:
        return None
    return len({config_hash(experiment) for experiment in file.configurations()})


def finalist_members(file: ExperimentFile, trials: int) -> tuple[int, int]:
    """Return how many finalists are trained on how many fresh seeds; a plain ensemble has none."""
    first = file.first
    count = min(first.ensemble.finalists, trials) if file.searched else 0
    return count, len(fresh_seeds(first)) if count else 0


def seeds_of(file: ExperimentFile) -> int:
    """Return the seeds of each configuration: those of the search, or of a plain ensemble."""
    return len(seed_numbers(file.first.search.seeds if file.searched else file.first.ensemble.seeds))
