"""Claims about search, each over many repetitions on a recorded table of 64 configurations x 10 seeds.

    python -m benchmarks search [--repetitions 30] [--processes 2] [--only methods racing coverage asha]
    python -m benchmarks search --tune RUN      (a run of `ensemble tune` on tables/space.yaml: does it agree?)

Nothing is trained: the real judge, samplers, pruners and racing rule look values up that `record_search` recorded.
"""

from pathlib import Path

import numpy as np

from benchmarks.command import Parser, announce, row, say
from benchmarks.search import asha, coverage, methods, race, tune
from benchmarks.search.methods import everything, table

PARTS = ("methods", "racing", "coverage", "asha")


def report_table() -> None:
    """Print what a search can find in the table."""
    recorded = table()
    final, means = recorded.final, recorded.means
    order = np.argsort(means, kind="stable")
    best, (count, seeds) = final[order[0]], final.shape
    steps = f"{everything(seeds):,} member-steps; {len(recorded.steps)} rungs"
    say(f"The table: {count} configurations x {seeds} seeds, {steps}")
    nearest = ", ".join(f"{means[number]:.4f}" for number in order[1:5])
    row("best", f"{best.mean():.4f} +- {best.std(ddof=1):.4f}, winners reach {recorded.target:.4f}; next {nearest}")
    row("others", f"median {np.median(means):.4f}, worst {means.max():.4f}")
    winners = len(recorded.winners)
    row("winners", f"{winners}, within one standard error of the best mean; a random pick's rate {winners / count:.1%}")


def main() -> None:
    parser = Parser(__doc__, quick={"repetitions": 1, "trials": 10, "races": 2, "draws": 100})
    parser.add_argument("--repetitions", type=int, default=30, help="of each search")
    parser.add_argument("--trials", type=int, default=64, help="of each search; the space has 64 configurations")
    parser.add_argument("--races", type=int, default=200, help="repetitions of a race")
    parser.add_argument("--draws", type=int, default=20_000, help="samples of which an interval is taken")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--tune", type=Path, help="run directory of `ensemble tune` on tables/space.yaml")
    options = parser.parse()
    if options.tune:
        tune.report(table(), options.tune)
        return
    parts = {
        "methods": lambda: methods.report(options.repetitions, options.processes, options.trials),
        "racing": lambda: race.report(table(), options.races),
        "coverage": lambda: coverage.report(options.draws),
        "asha": lambda: asha.report(table(), options.repetitions),
    }
    announce(options, f"Claims about search on a recorded table: {', '.join(options.only)}", 7)
    report_table()
    for part in options.only:
        parts[part]()


if __name__ == "__main__":
    main()
