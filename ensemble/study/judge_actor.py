"""The actor that decides at each rung whether a trial goes on; during a search it holds the judge.

Trials call it from any node. It is also the way to interrupt a run: once it is paused, every trial that calls saves
what it has trained and ends. `Suggested` hands the judge's suggestions to Tune.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import ray

from ensemble.config import Experiment, ExperimentFile
from ensemble.config.experiment import SearchConfig
from ensemble.search.findings import Findings, ending, findings
from ensemble.search.judge import Judge
from ensemble.search.records import Outcome, Suggestion
from ensemble.study.tuning import rows
from ensemble.training.context import Paused, Question
from ensemble.training.trial import Trial

_WORST_FIRST = ("failed", "diverged", "pruned", "completed")


class PauseActor:
    """Answers the trials of an ensemble: each goes on until the run is interrupted."""

    def __init__(self) -> None:
        self._paused = False

    def may_continue(self, number: int, step: int, values: Mapping[int, float]) -> bool | None:
        """Say whether trial `number` goes on after this rung; None: it is paused."""
        del number, step, values
        return None if self._paused else True

    def pause(self) -> None:
        """End every trial at its next rung, saved and unfinished."""
        self._paused = True


class JudgeActor(PauseActor):
    """Answers the trials of a search, and hands out its suggestions."""

    _judge: Judge
    _waiting: list[Suggestion]

    def open_search(
        self,
        file: ExperimentFile,
        log: Path,
        journal: Path,
        feasible: Callable[[Experiment], str | None],
        rows: Collection[str],
    ) -> None:
        """Continue a search where its log ends; a member that failed, or is not among `rows`, is trained again.

        Called before anything else: an error raised here reaches the caller, one of `__init__` would kill the actor.
        """
        self._judge = Judge(file, log, journal, feasible)
        self._judge.reopen_failures(rows)
        self._waiting = self._judge.unfinished

    def may_continue(self, number: int, step: int, values: Mapping[int, float]) -> bool | None:
        """Say whether trial `number` goes on after this rung; None: it is paused. Asked twice it says the same."""
        return None if self._paused else self._judge.may_continue(number, step, values)

    def suggest(self) -> tuple[Suggestion | None, bool]:
        """Return the next job if there is one now, and whether there will never be another."""
        if self._waiting:
            return self._waiting.pop(0), False
        job = self._judge.suggest()
        return job, job is None and self._judge.finished

    def tell(self, number: int, outcome: Outcome) -> None:
        """Record how a job ended."""
        self._judge.tell(number, outcome)

    def planned(self) -> int | None:
        """Return how many configurations there will be; None until the space is exhausted."""
        return self._judge.planned

    def ended(self) -> int:
        """Return how many configurations have ended."""
        return sum(configuration.state != "running" for configuration in self._judge.configurations)

    def ending(self) -> str | None:
        """Return why a search ended before all its configurations were tried; None where it did not."""
        return ending(self._judge)

    def findings(self) -> Findings:
        """Return what is to be written about the search."""
        return findings(self._judge)


def start_actor(kind: type[PauseActor]) -> Any:
    """Start the actor on this node, which has the run directory; it holds no cores."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=here).remote()


def question(actor: Any, number: int) -> Question:
    """Return how trial `number` asks, from whichever process it runs in."""
    return partial(_ask, actor, number)


def _ask(actor: Any, number: int, step: int, values: Mapping[int, float]) -> bool:
    answer = ray.get(actor.may_continue.remote(number, step, dict(values)))
    if answer is None:
        raise Paused
    return bool(answer)


class Suggested:
    """The source of a search's trials.

    Args:
        desk: the actor with the judge.
        run: the run directory.
        origin: finds where a configuration's `train.init_from` points.
    """

    def __init__(self, actor: Any, run: Path, origin: Callable[[Experiment], str | None]) -> None:
        self._actor = actor
        self._run = run
        self._origin = origin
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether the judge will make no further suggestion."""
        return self._finished

    @property
    def left(self) -> None:
        """Unknown until the space is exhausted: None."""
        return None

    def next(self) -> Trial | None:
        """Return the judge's next suggestion; None where there is none now."""
        job, self._finished = ray.get(self._actor.suggest.remote())
        if job is None:
            return None
        return Trial(job.experiment, job.seeds, "search", self._run, job.number, self._origin(job.experiment))

    def ended(self, trial: Trial) -> None:
        """Report the rows of a trial to the judge."""
        ray.get(self._actor.tell.remote(trial.number, outcome(trial)))


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
