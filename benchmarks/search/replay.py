"""A search replayed on the recorded table: the real judge, sampler and pruner, with look-ups instead of training."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.search.record_search import SPACE
from benchmarks.search.table import Table
from ensemble.config.loading import load
from ensemble.schema import VALIDATION_ROLLOUT, Float64
from ensemble.search.judge import Judge
from ensemble.search.records import JobOutcome, Suggestion


@dataclass
class Course:
    """What a search spent and found, trial by trial in the order in which they ended."""

    spent: list[int] = field(default_factory=list)  # member-steps of all trials together, so far
    number: list[int] = field(default_factory=list)  # of the configuration in the table
    value: list[float] = field(default_factory=list)  # mean over the search's seeds; infinite for what was stopped
    steps: list[int] = field(default_factory=list)  # of one member

    def steps_to(self, wanted: frozenset[int]) -> float:
        """Return the member-steps until one of these was trained to its end; infinite if none was."""
        return next(
            (s for s, n, v in zip(self.spent, self.number, self.value, strict=True) if n in wanted and np.isfinite(v)),
            np.inf,
        )

    def best(self, budget: float) -> list[int]:
        """Return what was trained to its end within a budget of member-steps, the best first."""
        known = [(v, n) for s, n, v in zip(self.spent, self.number, self.value, strict=True) if s <= budget]
        return [number for value, number in sorted(known) if np.isfinite(value)]


def open_judge(settings: Mapping[str, Any]) -> Judge:
    """Return the judge of the table's space with these `search` settings."""
    return Judge(load(SPACE, [f"search.{name}={value}" for name, value in settings.items()]))


Watch = Callable[[int, int, float, bool], None]  # configuration, step, mean over the seeds, whether it goes on


def unwatched(number: int, step: int, mean: float, kept: bool) -> None:
    """Do nothing."""


def never(course: Course) -> bool:
    """Continue to the end of the search."""
    return False


def replay(
    table: Table,
    settings: Mapping[str, Any],
    seed: int,
    concurrency: int = 1,
    watch: Watch = unwatched,
    enough: Callable[[Course], bool] = never,
) -> Course:
    """Search the table, `concurrency` trials at a time; repetitions differ in the sampler and in their seeds."""
    order = np.random.default_rng(seed).permutation(table.seeds).tolist()
    return climb(open_judge({**settings, "seed": seed}), table, order, concurrency, watch, enough)


def climb(
    judge: Judge,
    table: Table,
    order: Sequence[int],
    concurrency: int,
    watch: Watch = unwatched,
    enough: Callable[[Course], bool] = never,
) -> Course:
    """Let the judge search the table; its seed s is the table's seed `order[s]`."""
    course, spent = Course(), 0
    waiting: list[tuple[float, int, _Run]] = []  # (time of its next rung, number, run)
    now = 0.0
    while True:
        while len(waiting) < concurrency and (job := judge.suggest()) is not None:
            run = _Run(judge, job, table, order, watch)
            heapq.heappush(waiting, (now + run.next_cost, job.number, run))
        if not waiting or enough(course):
            return course
        now, _, run = heapq.heappop(waiting)
        spent += run.next_cost * len(run.job.seeds)
        if run.advance():
            heapq.heappush(waiting, (now + run.next_cost, run.job.number, run))
        else:
            course.spent.append(spent)
            course.number.append(run.number)
            course.value.append(run.result)
            course.steps.append(run.step)


class _Run:
    """One trial that climbs its rungs."""

    def __init__(self, judge: Judge, job: Suggestion, table: Table, order: Sequence[int], watch: Watch) -> None:
        self.job = job
        self.number = table.number(job.experiment)
        self.step = 0
        self.result = np.inf
        self._judge = judge
        self._watch = watch
        rows = table.rows([order[seed] for seed in job.seeds])
        self._curves: Float64 = table.values[self.number, rows]
        self._final: Float64 = table.final[self.number, rows]
        self._rungs: Iterator[tuple[int, int]] = iter(enumerate(table.steps))
        self._place, self._next = next(self._rungs)
        self._last = table.steps[-1]

    @property
    def next_cost(self) -> int:
        """Steps to the next rung."""
        return self._next - self.step

    def advance(self) -> bool:
        """Train to the next rung and report to the judge; False when the trial has ended."""
        self.step = self._next
        if self.step == self._last:
            self.result = float(self._final.mean())
            return self._end("completed", dict(zip(self.job.seeds, self._final.tolist(), strict=True)))
        values = dict(zip(self.job.seeds, self._curves[:, self._place].tolist(), strict=True))
        kept = self._judge.may_continue(self.job.number, self.step, values)
        self._watch(self.number, self.step, float(np.mean(list(values.values()))), kept)
        if not kept:
            return self._end("pruned", values)
        self._place, self._next = next(self._rungs)
        return True

    def _end(self, state: str, values: Mapping[int, float]) -> bool:
        steps = self.step * len(self.job.seeds)
        self._judge.tell(self.job.number, JobOutcome(state, {VALIDATION_ROLLOUT: values}, steps))
        return False
