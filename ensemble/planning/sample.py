"""Configurations of a space without an adaptive sampler: the whole grid, or independent draws.

No torch, no Optuna; for `ensemble plan` and the tests of shipped files.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any

from ensemble.config import Choice, Distribution, Experiment, ExperimentFile
from ensemble.config.forks import draw, grid_size
from ensemble.errors import UsageError
from ensemble.run_directory import config_hash
from ensemble.search.describe_space import WHOLE_GRID

DRAWS = 500


@dataclass(frozen=True)
class SpaceSample:
    """Distinct configurations of a space, and counts of the impossible ones."""

    configurations: tuple[Experiment, ...]
    looked_at: int  # number of combinations, repeated ones included
    whole: bool  # whether these are all configurations of the space
    rules: Mapping[str, int] = field(default_factory=dict)  # broken rule: number of combinations that break it first
    first_infeasible: str | None = None

    @property
    def infeasible(self) -> int:
        """Number of impossible combinations."""
        return sum(self.rules.values())

    @cached_property
    def hashes(self) -> frozenset[str]:
        """Identities of the configurations."""
        return frozenset(map(config_hash, self.configurations))


def sample_space(file: ExperimentFile, draws: int = DRAWS, seed: int = 0) -> SpaceSample:
    """Return every combination of a small grid, else `draws` independent draws and the two corners of the space.

    The corners (every first, every last candidate) are usually the smallest and the largest model; they count neither
    as draws nor as impossible.
    """
    # The whole grid
    if grid_size(file.tree) <= WHOLE_GRID:
        reasons = [reason for _, reason in file.infeasible]
        possible = tuple(file.configurations())
        first = reasons[0] if reasons else None
        return SpaceSample(possible, len(possible) + len(reasons), True, _counted(reasons), first)

    # Corners and draws. A seeded generator: the same file gives the same plan.
    distinct = {experiment.model_dump_json(): experiment for experiment in _corners(file)}
    random, reasons = Random(seed), []
    for _ in range(draws):
        try:
            experiment = file.resolve(lambda name, distribution: draw(distribution, random))
        except UsageError as error:
            reasons.append(str(error))
        else:
            distinct.setdefault(experiment.model_dump_json(), experiment)
    return SpaceSample(tuple(distinct.values()), draws, False, _counted(reasons), reasons[0] if reasons else None)


def _corners(file: ExperimentFile) -> list[Experiment]:
    answers: list[Callable[[str, Distribution], Any]] = [
        lambda name, each: 0 if isinstance(each, Choice) else each.low,
        lambda name, each: len(each.options) - 1 if isinstance(each, Choice) else each.high,
    ]
    corners = [file.first]
    for answer in answers:
        try:
            corners.append(file.resolve(answer))
        except UsageError:
            continue  # an impossible corner
    return corners


def _counted(reasons: list[str]) -> dict[str, int]:
    return dict(Counter(map(_rule, reasons)).most_common())


def _rule(reason: str) -> str:
    """Return a reason without the values of its combination: `model: n_embd is not divisible by n_head`."""
    constraint, broken, _ = reason.partition(" does not hold (")
    return constraint if broken else re.sub(r" -?\d[\w.+-]*", "", reason)
