"""Claims about search, each over many repetitions on a recorded table of 64 configurations x 10 seeds.

    python -m benchmarks.search [--repetitions 30] [--processes 2] [--only methods racing coverage asha]
    python -m benchmarks.search --tune DIR      (a run of `ensemble tune` on tables/space.yaml: does it agree?)

Nothing is trained: the real judge, samplers, pruners and racing rule look values up that
`python -m benchmarks.record_search` recorded.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from benchmarks import search_asha, search_coverage, search_race, search_tune
from benchmarks.search_replay import Course, replay
from benchmarks.search_table import Float64, Table

SEEDS = 3
BUDGETS = (1 / 6, 1 / 3)  # of evaluating everything
REFERENCE, SIMPLE = "random, none", "tpe, i_epoch"
_MORE = 7  # times the repetitions for the reference, which costs little and stands in every ratio
PARTS = ("methods", "racing", "coverage", "asha")


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
    """What the repetitions of a method came to, each (repetitions,), in shares of evaluating everything."""

    to_target: Float64  # infinite where no winner was trained to its end
    spent: Float64  # until then, or in all
    right: dict[float, float]  # budget: how often the best that is known then is a winner
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


def course_of(method: Method, seed: int) -> Course:
    """Search once; a search that found a winner ends after the largest budget."""
    settings = {"sampler": method.sampler, "pruner": method.pruner, "seeds": SEEDS, "trials": len(table().means)}

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


def report_table() -> None:
    """Print what there is to be found."""
    final, means = table().final, table().means
    order = np.argsort(means, kind="stable")
    best, (count, seeds) = final[order[0]], final.shape
    print(f"The table: {count} configurations x {seeds} seeds, {everything(seeds):,} member-steps", end="; ")
    print(f"{len(table().steps)} rungs")
    print(f"  best {best.mean():.4f} +- {best.std(ddof=1):.4f}, winners reach {table().target:.4f}", end="; ")
    print("next", ", ".join(f"{means[n]:.4f}" for n in order[1:5]), end="; ")
    print(f"median {np.median(means):.4f}, worst {means.max():.4f}")
    winners = len(table().winners)
    print(
        f"  winners, within one standard error of the best mean: {winners}; a random pick's rate {winners / count:.1%}"
    )


def report_methods(repetitions: int, processes: int) -> None:
    """Print a line a method."""
    print(f"\nSearching with {SEEDS} seeds each, {repetitions} repetitions (shares of evaluating everything with them)")
    budgets = "".join(f"{f'right at {budget:.2f}':>15s}" for budget in BUDGETS)
    against = "".join(f"{f'{other} / this':>24s}" for other in (REFERENCE, SIMPLE))
    print(f"  {'':36s}{'winner':>8s}{'median':>8s}{'expected':>9s}{budgets}{against}", flush=True)
    results: dict[str, Result] = {}
    random = np.random.default_rng(0)
    with ProcessPoolExecutor(processes) as pool:
        for method in METHODS:
            count = repetitions * (_MORE if method.name == REFERENCE else 1)
            result = evaluate(list(pool.map(partial(course_of, method), range(count))))
            results[method.name] = result
            right = "".join(f"{f'{result.right[b]:.0%} ({result.finalist[b]:.0%})':>15s}" for b in BUDGETS)
            against = "".join(
                f"{ratio(results[other], result, random):>24s}" for other in (REFERENCE, SIMPLE) if other in results
            )
            numbers = f"{result.found:8.0%}{np.median(result.to_target):8.3f}{result.expected():9.3f}"
            print(f"  {method.name:36s}{numbers}{right}{against}", flush=True)
    print("  winner: repetitions in which one was trained to its end; median, expected: share until then (expected: a")
    print(
        "  search without success is followed by another); right: the best known is a winner (is among the best three)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tune", type=Path, help="run directory of `ensemble tune` on tables/space.yaml")
    arguments = parser.parse_args()
    if arguments.tune:
        search_tune.report(table(), arguments.tune)
        return
    report_table()
    if "methods" in arguments.only:
        report_methods(arguments.repetitions, arguments.processes)
    if "racing" in arguments.only:
        search_race.report(table(), max(200, arguments.repetitions))
    if "coverage" in arguments.only:
        search_coverage.report()
    if "asha" in arguments.only:
        search_asha.report(table(), arguments.repetitions)


if __name__ == "__main__":
    main()
