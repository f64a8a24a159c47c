"""The recorded table as an object: training is a look-up, so that a search is replayed in a fraction of a second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.record_search import SPACE, TABLES
from ensemble.config import Experiment
from ensemble.config.loading import ExperimentFile, load
from ensemble.schema import VALIDATION_LOSS, VALIDATION_ROLLOUT, Float64
from ensemble.store import read_table

_NOT_VALUES = ("seed", "step", VALIDATION_ROLLOUT, VALIDATION_LOSS)


@dataclass(frozen=True, eq=False)
class Table:
    """C configurations x S seeds x R rungs of one metric, smaller is better; NaN from where a member diverged.

    A rung shows a member as it is; what a member ends with is its value at its best validation loss.
    """

    file: ExperimentFile
    values: Float64  # (C, S, R)
    final: Float64  # (C, S) infinite for what diverged
    seeds: tuple[int, ...]  # (S,)
    steps: tuple[int, ...]  # (R,)
    numbers: Mapping[tuple[Any, ...], int]  # a configuration's searched values: its place in `values`

    @classmethod
    def read(cls, path: Path = TABLES / "curves.parquet", metric: str = VALIDATION_ROLLOUT) -> "Table":
        """Read a table of `record_search`."""
        table, file = read_table(path), load(SPACE)
        names = [name for name in table.column_names if name not in _NOT_VALUES]
        keys = list(zip(*(table[name].to_pylist() for name in names), strict=True))
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        seeds, steps = (sorted(set(table[name].to_pylist())) for name in ("seed", "step"))
        where = (
            [numbers[key] for key in keys],
            np.searchsorted(seeds, table["seed"].to_numpy()),
            np.searchsorted(steps, table["step"].to_numpy()),
        )
        values, losses = np.full((2, len(numbers), len(seeds), len(steps)), np.nan)
        values[where], losses[where] = table[metric].to_numpy(), table[VALIDATION_LOSS].to_numpy()
        best = np.where(np.isfinite(losses), losses, np.inf).argmin(axis=2)
        final = np.take_along_axis(values, best[:, :, None], axis=2)[:, :, 0]
        final[~np.isfinite(values[:, :, -1])] = np.inf
        named = {
            tuple(sorted((n, v) for n, v in zip(names, key, strict=True) if v is not None)): number
            for key, number in numbers.items()
        }
        return cls(file, values, final, tuple(seeds), tuple(steps), named)

    def number(self, experiment: Experiment) -> int:
        """Return the row of a configuration of the space."""
        return self.numbers[tuple(sorted(self.file.varied(experiment).items()))]

    @cached_property
    def means(self) -> Float64:
        """(C,) the mean over all seeds."""
        return self.final.mean(axis=1)

    @cached_property
    def target(self) -> float:
        """The largest mean that counts as a win: the best configuration's, and one standard error of it."""
        best = self.final[self.means.argmin()]
        return float(best.mean() + best.std(ddof=1) / np.sqrt(best.size))

    @cached_property
    def winners(self) -> frozenset[int]:
        """The configurations within one standard error of the best."""
        return frozenset(np.flatnonzero(self.means <= self.target).tolist())

    @property
    def everything(self) -> int:
        """Member-steps of evaluating every configuration with every seed."""
        return self.values.shape[0] * len(self.seeds) * self.steps[-1]

    def rows(self, seeds: Sequence[int]) -> list[int]:
        """Return the places of some seeds."""
        return [self.seeds.index(seed) for seed in seeds]
