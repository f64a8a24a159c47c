"""The actor that decides at each rung whether a trial continues; during a search it holds the judge.

Trials call it from any node. It also interrupts a run: once it is paused, every trial that calls saves its members and
ends. `JudgeSource` passes the judge's suggestions to Tune.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import ray

from ensemble.config import Experiment, ExperimentFile
from ensemble.config.experiment import SearchConfig
from ensemble.search.findings import Findings, early_end_reason, findings
from ensemble.search.judge import Judge
from ensemble.search.records import JobOutcome, Suggestion
from ensemble.study.tuning import member_rows
from ensemble.training.context import Paused, Question
from ensemble.training.trial import Trial

_WORST_FIRST = ("failed", "diverged", "pruned", "completed")


class PauseActor:
    """The actor of an ensemble: every trial continues until the run is interrupted."""

    def __init__(self) -> None:
        self._paused = False

    def may_continue(self, number: int, step: int, values: Mapping[int, float]) -> bool | None:
        """Return whether trial `number` continues after this rung; None: it is paused."""
        del number, step, values
        return None if self._paused else True

    def pause(self) -> None:
        """End every trial at its next rung, saved and unfinished."""
        self._paused = True


class JudgeActor(PauseActor):
    """The actor of a search: it holds the judge."""

    _judge: Judge
    _waiting: list[Suggestion]

    def open_search(
        self,
        file: ExperimentFile,
        log: Path,
        journal: Path,
        feasibility: Callable[[Experiment], str | None],
        member_ids: Collection[str],
    ) -> None:
        """Continue a search at the end of its log; train members again that failed or are not in `member_ids`."""
        # Not in __init__: an error there would end the actor, one here is raised in the caller.
        self._judge = Judge(file, log, journal, feasibility)
        self._judge.reopen_failures(member_ids)
        self._waiting = self._judge.unfinished

    def may_continue(self, number: int, step: int, values: Mapping[int, float]) -> bool | None:
        """Return whether trial `number` continues after this rung; None: it is paused. Repeated calls agree."""
        return None if self._paused else self._judge.may_continue(number, step, values)

    def suggest(self) -> tuple[Suggestion | None, bool]:
        """Return the next job if there is one now, and whether there are no further jobs."""
        if self._waiting:
            return self._waiting.pop(0), False
        job = self._judge.suggest()
        return job, job is None and self._judge.finished

    def tell(self, number: int, outcome: JobOutcome) -> None:
        """Record how a job ended."""
        self._judge.tell(number, outcome)

    def planned(self) -> int | None:
        """Return the number of configurations; None where it is unknown until the space is exhausted."""
        return self._judge.planned

    def ended_count(self) -> int:
        """Return how many configurations have ended."""
        return sum(configuration.state != "running" for configuration in self._judge.configurations)

    def early_end_reason(self) -> str | None:
        """Return why the search ended before all planned configurations were tried; None where it did not."""
        return early_end_reason(self._judge)

    def findings(self) -> Findings:
        """Return the tables of the search."""
        return findings(self._judge)


def start_actor(kind: type[PauseActor]) -> Any:
    """Start an actor on this node, which has the run directory; it reserves no cores."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=this_node).remote()


def question(actor: Any, number: int) -> Question:
    """Return the function with which trial `number` calls the actor at a rung; it can be sent to other processes."""
    return partial(_ask, actor, number)


def _ask(actor: Any, number: int, step: int, values: Mapping[int, float]) -> bool:
    answer = ray.get(actor.may_continue.remote(number, step, dict(values)))
    if answer is None:
        raise Paused
    return bool(answer)


class JudgeSource:
    """The trials of a search, as the judge suggests them.

    Args:
        actor: the actor with the judge.
        run: the run directory.
        origin: returns the absolute path of a configuration's `train.init_from`.
    """

    def __init__(self, actor: Any, run: Path, origin: Callable[[Experiment], str | None]) -> None:
        self._actor = actor
        self._run = run
        self._origin = origin
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether the judge has no further suggestions."""
        return self._finished

    @property
    def remaining(self) -> None:
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
        ray.get(self._actor.tell.remote(trial.number, job_outcome(trial)))


def job_outcome(trial: Trial) -> JobOutcome:
    """Return how a trial ended, from the rows of its members; the worst of their states is the trial's."""
    search: SearchConfig = trial.experiment.search
    metrics = (search.metric, *search.also)
    rows = member_rows(trial, "seed", "status", "steps", *metrics)
    states = {row["status"] for row in rows}
    values = {
        metric: {row["seed"]: float(row[metric]) for row in rows if _is_number(row.get(metric))} for metric in metrics
    }
    state = next(state for state in _WORST_FIRST if state in states)  # every member has its row
    # A member may be trained to its end and have a value that is not finite, which nothing can be compared with.
    if state == "completed" and any(len(by_seed) < len(rows) for by_seed in values.values()):
        state = "diverged"
    return JobOutcome(state, values, sum(row["steps"] for row in rows))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and isfinite(value)
