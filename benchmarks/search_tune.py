"""Whether a search by Ray Tune, with real training, goes as its replay on the recorded table does.

    ensemble tune --space benchmarks/tables/space.yaml --results DIR --set search.sampler=tpe --set search.pruner=asha \
        --set search.seeds=3 --set search.trials=32 --set search.order=sync --set ensemble.finalists=0
    python -m benchmarks.search --tune DIR/search_table

In order `sync` a search does not depend on which trial happened to end first, so the two agree trial by trial: the same
configurations in the same order, stopped at the same rungs, and values equal up to the table's float32. That holds for
one version of the code: a default that has changed since the run shows here.
"""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_replay import climb
from benchmarks.search_table import Table
from ensemble.config.loading import load
from ensemble.run_directory import config_hash
from ensemble.search.judge import Judge
from ensemble.store import read_table


def report(table: Table, run: Path) -> None:
    """Print how many trials and decisions of the run at `run` agree with its replay."""
    judge = Judge(load(run / "experiment.yaml"))
    climb(judge, table, table.seeds, concurrency=judge.search.lag)
    trials = {row["number"]: row for row in read_table(run / "trials.parquet").to_pylist()}
    kept = {(row["number"], row["step"]): row["kept"] for row in read_table(run / "rungs.parquet").to_pylist()}
    equal, asked, distance = 0, 0, 0.0
    for each in judge.configurations:
        row: dict[str, Any] = trials.get(each.number, {})
        mean = each.mean(judge.search.metric)
        same = (row.get("config_hash"), row.get("state")) == (config_hash(each.experiment), each.state)
        equal += same and row["steps"] == each.steps
        asked += sum(kept.get((each.number, step)) == answer for step, (_, answer) in each.rungs.items())
        if same and each.state == "completed" and mean:
            distance = max(distance, abs(row["value"] / mean - 1))
    states = [each.state for each in judge.configurations]
    decisions = sum(len(each.rungs) for each in judge.configurations)
    print(f"Ray Tune against the replay: {judge.search.sampler} and {judge.search.pruner}, order {judge.search.order}")
    print(f"  {len(trials)} trials by Tune, {len(states)} replayed ({states.count('pruned')} pruned)")
    print(f"  the same configuration, end and member-steps: {equal} of {len(states)} trials")
    print(f"  the same answer: at {asked} of {decisions} rungs")
    print(f"  largest relative difference of a value: {distance:.1e} (float32: {np.finfo(np.float32).eps:.1e})")
