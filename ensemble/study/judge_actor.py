"""Where trials ask whether they go on: an actor of no cost that holds the judge of a search, if there is one.

Any number of nodes ask it at their rungs. It is also the way to interrupt a run: once it is told to, every trial that
asks is paused, saves what it has trained and ends.
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


class JudgeActor:
    """Answers trials, and hands out the suggestions of a search."""

    def __init__(self) -> None:
        self._judge: Judge | None = None
        self._waiting: list[Suggestion] = []
        self._paused = False

    def open_search(
        self,
        file: ExperimentFile,
        log: Path,
        journal: Path,
        feasible: Callable[[Experiment], str | None],
        rows: Collection[str],
    ) -> None:
        """Take up a search where its log ends; who failed, or is not among `rows` any more, is trained again."""
        self._judge = Judge(file, log, journal, feasible)
        self._judge.reopen_failures(rows)
        self._waiting = self._judge.unfinished

    def may_continue(self, number: int, step: int, values: Mapping[int, float]) -> bool | None:
        """Say whether trial `number` goes on after this rung; None: it is paused. Asked twice it says the same."""
        if self._paused:
            return None
        return True if self._judge is None else self._judge.may_continue(number, step, values)

    def suggest(self) -> tuple[Suggestion | None, bool]:
        """Return the next job if there is one now, and whether there will never be another."""
        assert self._judge is not None
        if self._waiting:
            return self._waiting.pop(0), False
        job = self._judge.suggest()
        return job, job is None and self._judge.finished

    def tell(self, number: int, outcome: Outcome) -> None:
        """Take in how a job ended."""
        assert self._judge is not None
        self._judge.tell(number, outcome)

    def planned(self) -> int | None:
        """Return how many configurations there will be; None where the space says when it is exhausted."""
        assert self._judge is not None
        return self._judge.planned

    def ended(self) -> int:
        """Return how many configurations have ended."""
        assert self._judge is not None
        return sum(configuration.state != "running" for configuration in self._judge.configurations)

    def ending(self) -> str | None:
        """Say why a search is over before all its configurations were tried; None where it is not."""
        assert self._judge is not None
        return ending(self._judge)

    def findings(self) -> Findings:
        """Return what is to be written about the search."""
        assert self._judge is not None
        return findings(self._judge)

    def close_search(self) -> None:
        """Let the judge go: whoever asks from now on is no trial of the search."""
        self._judge = None

    def pause(self) -> None:
        """Let every trial end at its next rung, saved and unfinished."""
        self._paused = True


def start_judge() -> Any:
    """Start the actor on this node, where the run directory is; it holds no cores."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(JudgeActor).options(num_cpus=0, scheduling_strategy=here).remote()


def question(judge_actor: Any, number: int) -> Question:
    """Return how trial `number` asks, from whichever process it runs in."""
    return partial(_ask, judge_actor, number)


def _ask(judge_actor: Any, number: int, step: int, values: Mapping[int, float]) -> bool:
    answer = ray.get(judge_actor.may_continue.remote(number, step, dict(values)))
    if answer is None:
        raise Paused
    return bool(answer)


_WORST_FIRST = ("failed", "diverged", "pruned", "completed")


class Suggested:
    """The source of a search's trials.

    Args:
        desk: the actor with the judge.
        run: the run directory.
        origin: finds where a configuration's `train.init_from` points.
    """

    def __init__(self, judge_actor: Any, run: Path, origin: Callable[[Experiment], str | None]) -> None:
        self._judge_actor = judge_actor
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
        job, self._finished = ray.get(self._judge_actor.suggest.remote())
        if job is None:
            return None
        return Trial(job.experiment, job.seeds, "search", self._run, job.number, self._origin(job.experiment))

    def ended(self, trial: Trial) -> None:
        """Tell the judge what the rows say."""
        ray.get(self._judge_actor.tell.remote(trial.number, outcome(trial)))


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
