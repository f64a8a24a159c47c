"""The tables of a search: `trials.parquet`, `rungs.parquet` and `importances.parquet`, with `search.json`."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa

from ensemble.config import Experiment
from ensemble.run_directory import RunDirectory, config_hash
from ensemble.schema import IMPORTANCE_COLUMNS, RUNG_COLUMNS, TRIAL_COLUMNS
from ensemble.search.judge import Judge
from ensemble.search.records import Configuration
from ensemble.search.space import settings_of
from ensemble.search_log import rung_rows_of, trial_row
from ensemble.store import table_of, write_record, write_table
from ensemble.text import plural


@dataclass(frozen=True)
class Findings:
    """The tables of a search, and its configurations, best first."""

    trials: pa.Table
    rungs: pa.Table
    importances: pa.Table
    facts: Mapping[str, Any]
    ranking: tuple[Experiment, ...]
    planned: tuple[tuple[str, int], ...]  # (config_hash, seed)


def findings(judge: Judge) -> Findings:
    """Return the tables of a search as they are now."""
    ranking = judge.ranking()
    # Only at the end: importances need every outcome in the study, and sync order delays these on purpose.
    importances = judge.importances() if judge.finished else {}
    seed_counts = Counter(number for number, _ in judge.members)
    return Findings(
        trials=table_of([_trial_row(judge, c, seed_counts[c.number]) for c in judge.configurations], TRIAL_COLUMNS),
        rungs=table_of([row for c in judge.configurations for row in _rung_rows(c)], RUNG_COLUMNS),
        importances=table_of(_importance_rows(importances, len(ranking)), IMPORTANCE_COLUMNS),
        facts=_facts(judge),
        ranking=tuple(c.experiment for c in ranking),
        planned=tuple((config_hash(judge.configurations[n].experiment), seed) for n, seed in judge.members),
    )


def early_end_reason(judge: Judge) -> str | None:
    """Return why a search ended before all planned configurations were tried; None where it did not."""
    tried, search = len(judge.configurations), judge.search
    if not judge.finished or judge.planned is None or tried >= judge.planned:
        return None
    reason = (
        f"the space holds no other ({judge.infeasible} impossible and {judge.repeated} repeated ones were left out)"
    )
    if search.budget is not None and judge.spent >= (search.budget / 2 if search.race else search.budget):
        reason = f"search.budget of {search.budget:,} member-steps is spent ({judge.spent:,})"
    return f"ended with {tried} of {plural(judge.planned, 'configuration')}: {reason}"


def write_findings(run: Path, tables: Findings, finalists: tuple[str, ...], finished: bool) -> None:
    """Write the tables of a search to its run directory."""
    directory = RunDirectory(run)
    write_table(directory.trials_file, tables.trials)
    write_table(directory.rungs_file, tables.rungs)
    write_table(directory.importances_file, tables.importances)
    write_record(directory.search_file, {**tables.facts, "finalists": list(finalists), "finished": finished})


def _trial_row(judge: Judge, c: Configuration, seeds: int) -> dict[str, Any]:
    settings = settings_of(c.parameters, judge.file)
    metrics = (judge.search.metric, *judge.search.also)
    return trial_row(
        c.number, config_hash(c.experiment), c.state, c.steps, seeds, c.parameters, settings, c.values, metrics
    )


def _rung_rows(c: Configuration) -> list[dict[str, Any]]:
    identity = config_hash(c.experiment)
    return [
        row
        for step, (values, kept) in sorted(c.rungs.items())
        for row in rung_rows_of(c.number, identity, step, values, kept)
    ]


def _importance_rows(importances: Mapping[str, float], trials: int) -> list[dict[str, Any]]:
    return [
        {"parameter": name, "importance": share, "method": "PED-ANOVA", "trials": trials}
        for name, share in sorted(importances.items(), key=lambda item: (-item[1], item[0]))
    ]


def _facts(judge: Judge) -> dict[str, Any]:
    search = judge.search
    settings = ("sampler", "pruner", "order", "metric", "mode", "also", "budget", "race", "seed")
    return {
        **{name: getattr(search, name) for name in settings},
        # The space may be exhausted, or the budget spent, before the planned number is reached.
        "trials_planned": len(judge.configurations) if judge.finished else judge.planned,
        "points": len(search.points),
        "infeasible": judge.infeasible,
        "repeated": judge.repeated,
        "optuna": optuna.__version__,
    }
