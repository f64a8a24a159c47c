"""The trials of a search, as Tune's queue sees them: suggested by the judge, told to it when their rows are there."""

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

import ray

from ensemble.config import Experiment
from ensemble.config.experiment import SearchConfig
from ensemble.search.records import Outcome
from ensemble.search.tuning import rows
from ensemble.training.trial import Trial

_WORST_FIRST = ("failed", "diverged", "pruned", "completed")


class Suggested:
    """The source of a search's trials.

    Args:
        desk: the actor with the judge.
        run: the run directory.
        origin: finds where a configuration's `train.init_from` points.
    """

    def __init__(self, desk: Any, run: Path, origin: Callable[[Experiment], str | None]) -> None:
        self._desk = desk
        self._run = run
        self._origin = origin
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether the judge has said that there will be no more."""
        return self._finished

    @property
    def left(self) -> None:
        """Nobody knows."""
        return None

    def next(self) -> Trial | None:
        """Ask the judge."""
        job, self._finished = ray.get(self._desk.suggest.remote())
        if job is None:
            return None
        return Trial(job.experiment, job.seeds, "search", self._run, job.number, self._origin(job.experiment))

    def ended(self, trial: Trial) -> None:
        """Tell the judge what the rows say."""
        ray.get(self._desk.tell.remote(trial.number, outcome(trial)))


def outcome(trial: Trial) -> Outcome:
    """Return how a trial ended, from the rows of its members; the worst of their ends is the trial's."""
    search: SearchConfig = trial.experiment.search
    metrics = (search.metric, *search.also)
    found = rows(trial, "seed", "status", "steps", *metrics)
    states = {row["status"] for row in found}
    values = {
        metric: {row["seed"]: float(row[metric]) for row in found if _is_number(row.get(metric))} for metric in metrics
    }
    state = next(state for state in _WORST_FIRST if state in states)  # every member has its row
    if state == "completed" and any(len(each) < len(found) for each in values.values()):
        state = "diverged"  # trained to the end, and yet without a number to compare
    return Outcome(state, values, sum(row["steps"] for row in found))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and isfinite(value)
