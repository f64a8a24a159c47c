"""Samplers and pruners against a random search: member-steps until a winner is found, each over many repetitions.

Nothing is trained: the real judge, samplers and pruners look values up in the recorded table.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from benchmarks.command import row, say
from benchmarks.search.replay import Course, replay
from benchmarks.search.table import Table
from ensemble.schema import Float64

SEEDS = 3
BUDGETS = (1 / 6, 1 / 3)  # of evaluating everything
REFERENCE, SIMPLE = "random, none", "tpe, i_epoch"
_MORE = 7  # times the repetitions for the reference, which costs little and is in every ratio


@dataclass(frozen=True)
class Method:
    """A way to search."""

    sampler: str
    pruner: str
    settings: tuple[tuple[str, object], ...] = ()
    concurrency: int = 1

    @property
    def name(self) -> str:
        extra = [f"{name} {value}" for name, value in self.settings]
        extra += [f"{self.concurrency} at a time"] * (self.concurrency > 1)
        return ", ".join([self.sampler, self.pruner, *extra])


METHODS = (  # the two that the others are compared with come first
    Method("random", "none"),
    Method("tpe", "i_epoch"),
    Method("tpe", "asha"),
    Method("random", "asha"),
    Method("tpe", "none"),
    Method("tpe", "asha", concurrency=4),
    Method("tpe", "asha", (("grace", 240),)),
    Method("random", "asha", (("grace", 240),)),
    Method("tpe", "wilcoxon"),
    Method("tpe", "median"),
    Method("tpe", "hyperband"),
    Method("gp", "asha"),
    Method("random", "i_epoch"),
)


@dataclass(frozen=True)
class Result:
    """The outcome of a method's repetitions, each (repetitions,), in shares of evaluating everything."""

    to_target: Float64  # infinite without a winner trained to its end
    spent: Float64  # until then, or in all
    right: dict[float, float]  # budget: how often the best known configuration is a winner
    finalist: dict[float, float]  # budget: how often a winner is among the best three

    @property
    def found(self) -> float:
        """Share of the repetitions that found a winner."""
        return float(np.isfinite(self.to_target).mean())

    def expected(self, which: np.ndarray | slice = slice(None)) -> float:
        """Return the expected share to a winner when a search that found none is followed by another (ERT)."""
        hits = np.isfinite(self.to_target[which]).sum()
        return float(self.spent[which].sum() / hits) if hits else np.inf


@lru_cache(maxsize=1)
def table() -> Table:
    """Return the recorded table, once a process."""
    return Table.read()


def everything(seeds: int = SEEDS) -> int:
    """Return the member-steps of training every configuration with the search's seeds."""
    return table().values.shape[0] * seeds * table().steps[-1]


def course_of(method: Method, trials: int, seed: int) -> Course:
    """Search once; a search that found a winner ends after the largest budget."""
    settings = {"sampler": method.sampler, "pruner": method.pruner, "seeds": SEEDS, "trials": trials}

    def enough(course: Course) -> bool:
        late = bool(course.spent) and course.spent[-1] > BUDGETS[-1] * everything()
        return late and np.isfinite(course.steps_to(table().winners))

    return replay(table(), settings | dict(method.settings), seed, method.concurrency, enough=enough)


def evaluate(courses: Sequence[Course]) -> Result:
    """Summarize the repetitions of a method."""
    wanted, whole = table().winners, everything()
    to_target = np.array([course.steps_to(wanted) for course in courses]) / whole
    total = np.array([course.spent[-1] for course in courses]) / whole
    best = {budget: [course.best(budget * whole) for course in courses] for budget in BUDGETS}
    return Result(
        to_target,
        np.where(np.isfinite(to_target), to_target, total),
        {budget: float(np.mean([bool(wanted & set(each[:1])) for each in found])) for budget, found in best.items()},
        {budget: float(np.mean([bool(wanted & set(each[:3])) for each in found])) for budget, found in best.items()},
    )


def ratio(slow: Result, fast: Result, random: np.random.Generator, draws: int = 2000) -> str:
    """Return how many times fewer member-steps `fast` is expected to need, with a 95 % bootstrap interval."""

    def resampled(result: Result) -> float:
        return result.expected(random.integers(0, len(result.spent), len(result.spent)))

    with np.errstate(invalid="ignore"):
        ratios = [resampled(slow) / resampled(fast) for _ in range(draws)]
    low, high = np.quantile(np.nan_to_num(ratios, nan=0.0), [0.025, 0.975])  # none found, found by neither: no gain
    return f"{slow.expected() / fast.expected():.2f} [{low:.2f}, {high:.2f}]"


def report(repetitions: int, processes: int, trials: int) -> None:
    """Print a row for each method as it ends."""
    say(f"\nSearching with {SEEDS} seeds each, {repetitions} repetitions (shares of evaluating everything with them)")
    budgets = [f"right at {budget:.2f}" for budget in BUDGETS]
    against = [f"{f'{other} / this':>20s}" for other in (REFERENCE, SIMPLE)]
    row("", "winner", "median", "expected", *budgets, *against, width=12)
    results: dict[str, Result] = {}
    random = np.random.default_rng(0)
    with ProcessPoolExecutor(processes) as pool:
        for method in METHODS:
            count = repetitions * (_MORE if method.name == REFERENCE else 1)
            result = evaluate(list(pool.map(partial(course_of, method, trials), range(count))))
            results[method.name] = result
            numbers = f"{result.found:.0%}", f"{np.median(result.to_target):.3f}", f"{result.expected():.3f}"
            right = [f"{result.right[b]:.0%} ({result.finalist[b]:.0%})" for b in BUDGETS]
            others = [results[other] for other in (REFERENCE, SIMPLE) if other in results]
            row(method.name, *numbers, *right, *(f"{ratio(other, result, random):>20s}" for other in others), width=12)
    say("  winner: repetitions in which one was trained to its end; median, expected: share until then (expected: a")
    say("  search without success is followed by another); right: the best known is a winner (is among the best three)")
