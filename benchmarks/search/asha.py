"""Ray's ASHAScheduler against Optuna's SuccessiveHalvingPruner, which our judge uses: equal curves, equal rungs.

Both stop all but one in `eta` at steps grace, grace * eta, ..; both decide about the same trials in the same order,
and both know the same history: Ray's scheduler receives the results of every trial that the judge continued.
"""

from collections import Counter
from types import SimpleNamespace

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from benchmarks.command import equivalence, say
from benchmarks.search.replay import replay
from benchmarks.search.table import Table

GRACE, ETA = 120, 3


class Ray:
    """Ray's scheduler, without a Ray: of a trial it reads the name alone."""

    def __init__(self, longest: int) -> None:
        self._scheduler = ASHAScheduler(
            time_attr="step", metric="value", mode="min", max_t=longest, grace_period=GRACE, reduction_factor=ETA
        )
        self._trials: dict[int, SimpleNamespace] = {}

    def keeps(self, number: int, step: int, value: float) -> bool:
        """Return whether Ray continues the trial."""
        if number not in self._trials:
            self._trials[number] = SimpleNamespace(trial_id=str(number))
            self._scheduler.on_trial_add(None, self._trials[number])
        result = {"step": step, "value": value}
        return self._scheduler.on_trial_result(None, self._trials[number], result) == TrialScheduler.CONTINUE


def rungs(steps: tuple[int, ...]) -> set[int]:
    """Return where both decide: the first recorded step at or after each rung, but the last, which decides nothing."""
    ladder = [GRACE * ETA**k for k in range(20) if GRACE * ETA**k < steps[-1]]
    return {next(step for step in steps if step >= rung) for rung in ladder} - {steps[-1]}


def compare(table: Table, seed: int) -> tuple[Counter[tuple[bool, bool]], Counter[str]]:
    """Search once; count (judge keeps, Ray keeps) at the rungs, and the reasons where they differ."""
    ray, decisive = Ray(table.steps[-1]), rungs(table.steps)
    decisions: Counter[tuple[bool, bool]] = Counter()
    reasons: Counter[str] = Counter()
    before: dict[int, list[float]] = {step: [] for step in decisive}

    def watch(number: int, step: int, mean: float, kept: bool) -> None:
        also = ray.keeps(number, step, mean)
        if step not in decisive:
            assert kept, "a decision of ours between two rungs"
            assert also, "a decision of Ray's between two rungs"
            return
        decisions[kept, also] += 1
        if kept != also:
            reasons[explain(before[step], mean)] += 1
        before[step].append(mean)

    replay(table, {"sampler": "random", "pruner": "asha", "grace": GRACE, "eta": ETA, "trials": 64}, seed, watch=watch)
    return decisions, reasons


def explain(before: list[float], value: float) -> str:
    """Say why the two differ: by their rules, from the values that reached the rung earlier."""
    rank, count = sum(each < value for each in before) + 1, len(before) + 1
    passes = max(1, count // ETA)
    cutoff = np.percentile(before, 100 / ETA)
    if rank == passes + 1 and value <= cutoff:
        return "first behind the best n // eta, but within Ray's interpolated quantile of the others"
    if rank <= passes and value > cutoff:
        return "among the best n // eta, but beyond Ray's interpolated quantile of the others"
    return "otherwise"


def report(table: Table, repetitions: int) -> None:
    """Print the share of equal decisions, and the reasons of the others."""
    say(f"\nOur successive halving (Optuna's) and Ray's ASHAScheduler at the rungs of {repetitions} searches")
    decisions: Counter[tuple[bool, bool]] = Counter()
    reasons: Counter[str] = Counter()
    for seed in range(repetitions):
        found, why = compare(table, seed)
        decisions += found
        reasons += why
    total = sum(decisions.values())
    equal = decisions[True, True] + decisions[False, False]
    ours, rays = decisions[True, False] / total, decisions[False, True] / total
    equivalence(
        f"{equal / total:.1%} of {total:,} decisions are equal; only ours continues {ours:.1%}, only Ray's {rays:.1%}"
    )
    for reason, count in reasons.most_common():
        say(f"  {count / max(1, total - equal):6.1%} of the differences: {reason}")
