"""Racing against uniform ten seeds on the recorded table: how often each picks a winner, and for how many seed-runs."""

from collections.abc import Sequence

import numpy as np

from benchmarks.command import row, say
from benchmarks.search.table import Table
from ensemble.schema import Float64, Mode
from ensemble.search.racing import contenders, next_round

START = 2
MODE: Mode = "min"


def winners(final: Float64) -> set[int]:
    """Return the rows of (C, S) within one standard error of the best mean."""
    means = final.mean(axis=1)
    best = final[means.argmin()]
    return set(np.flatnonzero(means <= best.mean() + best.std(ddof=1) / np.sqrt(best.size)).tolist())


def race(scores: Float64, budget: int | None) -> tuple[int, int]:
    """Race the rows of (C, S), whose columns are seeds in their order; return the pick and the seed-runs."""
    seeds: Sequence[int] = range(scores.shape[1])
    known = {c: dict(enumerate(values[:START].tolist())) for c, values in enumerate(scores)}
    spent = len(known) * START
    while turns := next_round(known, MODE, seeds, None if budget is None else budget - spent):
        for configuration, seed in turns:
            known[configuration][seed] = float(scores[configuration, seed])
        spent += len(turns)
    return contenders(known, MODE)[0], spent


def compare(name: str, final: Float64, repetitions: int, independent: bool, random: np.random.Generator) -> None:
    """Print one line a way of spending: the share of repetitions that pick a winner, and the seed-runs."""
    count, width = final.shape
    true = winners(final)
    budgets = {"race, to its end": None, f"race, at most {count * width // 3} seed-runs": count * width // 3}
    picks: dict[str, list[bool]] = {"ten seeds each": [], **{way: [] for way in budgets}}
    runs: dict[str, list[int]] = {way: [] for way in picks}
    for _ in range(repetitions):
        order = (
            random.integers(0, width, final.shape)
            if independent
            else np.broadcast_to(random.permutation(width), final.shape)
        )
        drawn = np.take_along_axis(final, order, axis=1)
        picks["ten seeds each"].append(int(drawn.mean(axis=1).argmin()) in true)
        runs["ten seeds each"].append(final.size)
        for way, budget in budgets.items():
            pick, spent = race(drawn, budget)
            picks[way].append(pick in true)
            runs[way].append(spent)
    say(f"  {name}: {count} configurations, winners {len(true)}, {repetitions} repetitions")
    for way, hits in picks.items():
        mean = np.mean(runs[way])
        spent = f"seed-runs {mean:5.0f} ({mean / final.size:5.1%}), most {max(runs[way])}"
        row(f"  {way}", f"a winner in {np.mean(hits):6.1%}", spent)


def report(table: Table, repetitions: int) -> None:
    """Print the race on the table as it is, and on harder ones: new draws of the seeds, and without the best."""
    say("\nRacing: 2 seeds for all, then seeds only where the best may still be")
    random = np.random.default_rng(0)
    final = table.final
    without = np.delete(final, np.argsort(table.means, kind="stable")[:2], axis=0)
    compare("the table, its seeds in random order", final, repetitions, False, random)
    compare("ten seeds drawn anew from the ten for each configuration", final, repetitions, True, random)
    compare("harder: the best two left out, random order", without, repetitions, False, random)
    compare("harder: the best two left out, drawn anew", without, repetitions, True, random)
