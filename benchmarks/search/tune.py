"""Whether a search by Ray Tune, with real training, goes as its replay on the recorded table does.

    python -m benchmarks search_tune [--trials 32]      runs `ensemble tune` and compares
    python -m benchmarks search --tune RUN              compares a run of the command that the first one prints

In order `sync` a search does not depend on which trial ends first, so the two agree trial by trial: the same
configurations in the same order, stopped at the same rungs, and values equal up to the table's float32. That holds for
one version of the code: a default that has changed since the run shows here.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import Parser, announce, equivalence, row, say
from benchmarks.search.record_search import SPACE
from benchmarks.search.replay import climb
from benchmarks.search.table import Table
from ensemble.config.loading import load
from ensemble.run_directory import config_hash
from ensemble.search.judge import Judge
from ensemble.store import read_table
from ensemble.text import command


def report(table: Table, run: Path) -> None:
    """Print how many trials and decisions of the run at `run` agree with its replay."""
    judge = Judge(load(run / "experiment.yaml"))
    climb(judge, table, table.seeds, concurrency=judge.search.lag)
    trials = {row["number"]: row for row in read_table(run / "trials.parquet").to_pylist()}
    kept = {(row["number"], row["step"]): row["kept"] for row in read_table(run / "rungs.parquet").to_pylist()}
    equal, asked, distance = 0, 0, 0.0
    for each in judge.configurations:
        trial: dict[str, Any] = trials.get(each.number, {})
        mean = each.mean(judge.search.metric)
        same = (trial.get("config_hash"), trial.get("state")) == (config_hash(each.experiment), each.state)
        equal += same and trial["steps"] == each.steps
        asked += sum(kept.get((each.number, step)) == answer for step, (_, answer) in each.rungs.items())
        if same and each.state == "completed" and mean:
            distance = max(distance, abs(trial["value"] / mean - 1))
    states = [each.state for each in judge.configurations]
    decisions = sum(len(each.rungs) for each in judge.configurations)
    search = judge.search
    say(f"Ray Tune against the replay: {search.sampler} and {search.pruner}, order {search.order}")
    row("trials", f"{len(trials)} by Tune, {len(states)} replayed ({states.count('pruned')} pruned)")
    equivalence(f"the same configuration, end and member-steps in {equal} of {len(states)} trials")
    equivalence(f"the same answer at {asked} of {decisions} rungs")
    row("largest relative difference of a value", f"{distance:.1e} (float32: {np.finfo(np.float32).eps:.1e})")


def search(results: Path, trials: int, seeds: int) -> Path:
    """Run `ensemble tune` on the space of the table; return the run directory."""
    settings = ["search.sampler=tpe", "search.pruner=asha", f"search.seeds={seeds}", f"search.trials={trials}"]
    settings += ["search.order=sync", "ensemble.finalists=0"]
    words = ["ensemble", "tune", "--space", SPACE, "--results", results]
    words += [word for setting in settings for word in ("--set", setting)]
    say(command(*words))
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)
    return results / load(SPACE).first.experiment


def main() -> None:
    parser = Parser(__doc__, quick={"trials": 2, "seeds": 1})
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse()
    announce(options, f"A search of {options.trials} configurations by Ray Tune against its replay", 3)
    with tempfile.TemporaryDirectory() as name:
        report(Table.read(), search(Path(name) / "results", options.trials, options.seeds))


if __name__ == "__main__":
    main()
