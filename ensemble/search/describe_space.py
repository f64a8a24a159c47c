"""The description of a search: the values of each searched key, the number of combinations, trials and seeds."""

import json
from collections.abc import Iterator, Mapping
from math import isinf

from ensemble.config import Choice, Distribution, ExperimentFile, Int, IntLog, LogUniform
from ensemble.config.experiment import fresh_seeds, seed_numbers
from ensemble.config.forks import grid_size, option_name
from ensemble.config.space import KINDS
from ensemble.run_directory import config_hash
from ensemble.text import plural

WHOLE_GRID = 2_000  # combinations up to which each one is built, so that counts are exact
_MAX_OPTION_LENGTH = 60  # characters


def describe_distributions(file: ExperimentFile) -> Iterator[tuple[str, str]]:
    """Yield each distribution's name (`train.optimizer[sgd].momentum`) and its description."""
    for name, distribution in file.space.items():
        yield name, describe_distribution(distribution)


def describe_distribution(distribution: Distribution) -> str:
    """Return `2, 3 or 4`, `0.0001 to 0.01, logarithmic`, `adam .. or sgd ..`."""
    if isinstance(distribution, Choice):
        options = [_shortened(option) for option in distribution.options]
        return options[0] if len(options) == 1 else ", ".join(options[:-1]) + f" or {options[-1]}"
    ends = f"{distribution.low:g} to {distribution.high:g}"
    if isinstance(distribution, Int):
        return f"{ends} in steps of {distribution.step}" if distribution.step > 1 else f"{ends}, whole numbers"
    if isinstance(distribution, IntLog):
        return f"{ends}, whole numbers, logarithmic"
    return f"{ends}, logarithmic" if isinstance(distribution, LogUniform) else ends


def describe_option(option: object) -> str:
    """Describe one option of a choice; a distribution inside it is written in parentheses."""
    if not isinstance(option, Mapping):
        return f"{option:g}" if isinstance(option, float) else json.dumps(option).strip('"')
    if kind := next((key for key in option if key in KINDS), None):
        return f"({describe_distribution(KINDS[kind][0].model_validate(option))})"
    name = option_name(option)
    if name is not None:
        return f"{name} .." if len(option) > 1 else name
    return " ".join(f"{key}={describe_option(value)}" for key, value in option.items())


def _shortened(option: object) -> str:
    text = describe_option(option)
    return text if len(text) <= _MAX_OPTION_LENGTH else text[: _MAX_OPTION_LENGTH - 3] + "..."


def describe_size(file: ExperimentFile) -> str:
    """Describe how many combinations a space has."""
    size = grid_size(file.tree)
    return "infinitely many combinations" if isinf(size) else plural(size, "combination", ",.0f")


def trial_count(file: ExperimentFile) -> int:
    """Return how many configurations a search tries: `search.trials`, and no more than its space contains.

    Raises UsageError for a grid over a range that is no list.
    """
    if not file.searched:
        return 1
    most, available = file.first.search.most_trials, count_distinct(file)
    if most is None:
        return len(file.configurations()) if available is None else available
    return most if available is None else min(most, available)


def count_distinct(file: ExperimentFile) -> int | None:
    """Return how many different configurations a space contains; None where it is too large to be counted."""
    if grid_size(file.tree) > WHOLE_GRID:
        return None
    # Not the grid's size: combinations may be impossible, and two may resolve to the same configuration.
    return len({config_hash(experiment) for experiment in file.configurations()})


def finalist_members(file: ExperimentFile, trials: int) -> tuple[int, int]:
    """Return the number of finalists and of their fresh seeds; a plain ensemble has none."""
    first = file.first
    count = min(first.ensemble.finalists, trials) if file.searched else 0
    return count, len(fresh_seeds(first)) if count else 0


def seed_count(file: ExperimentFile) -> int:
    """Return the number of seeds of each configuration: of the search, or of a plain ensemble."""
    return len(seed_numbers(file.first.search.seeds if file.searched else file.first.ensemble.seeds))
