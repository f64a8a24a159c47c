"""The results of a run as a table: a row a configuration and role, best first, then the baselines.

A row has the keys made here, and every column of `members.parquet` in which the row's members agree; so a
hyperparameter is shown by a further column in COLUMNS, e.g. `Column("batch", "train.batch_size", setting)`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

import numpy as np

from ensemble.reporting.groups import SEARCH_KEYS, Group, group_members, rank_run, role_rank, search_cells
from ensemble.reporting.number_format import count, setting, short_names, times
from ensemble.reporting.render.csv import render_csv
from ensemble.reporting.run import Baseline, MemberRow, Run
from ensemble.reporting.statistics import NOTHING, Statistics, has_ratios
from ensemble.reporting.table import (
    Column,
    Table,
    TableRow,
    filled_columns,
    interval_text,
    lower_bound,
    share_text,
    spread_text,
)
from ensemble.schema import Mode
from ensemble.text import duration

LABEL = Column("configuration", "label", str, "left", lines=3)
MEAN = Column("mean ± std", "statistics", spread_text)
# An interval outlives the status, which says little more than `n ok/planned` of how the seeds ended.
INTERVAL = Column("95 % interval", "statistics", interval_text, priority=6, sort=lower_bound)
BEST_SEED = Column("best seed", "best_seed", priority=2)
PARAMETERS = Column("parameters", "parameters", count, priority=1)
TIME = Column("time", "seconds", duration, priority=3)
X_BETTER = Column("x better", "x_better", times, priority=4)
STATUS = Column("status", "status", align="left", priority=5, lines=9)
COLUMNS = (
    LABEL,
    Column("n ok/planned", "n", share_text, priority=7),
    MEAN,
    INTERVAL,
    BEST_SEED,
    PARAMETERS,
    TIME,
    X_BETTER,
    STATUS,
)
ROLE = Column("role", "role", priority=8)

_STATISTICS = ("mean", "std", "ci_low", "ci_high", "ci_method", "median", "min", "max")
_CSV_KEYS = ("experiment", "configuration", "config_hash", "role", "metric", "n_planned", "n_ok", *_STATISTICS)
_CSV_TAIL = ("best_seed", "parameters", "seconds", "x_better", "status")


def result_table(run: Run, metric: str) -> Table:
    """Lay out the table of one run by `metric`."""
    ranked = rank_run(run, metric)
    labels = label_groups(run, ranked, searched_keys(run))
    rows = [_configuration_row(run, group, metric, labels[group.config_hash]) for group in ranked]
    baselines = _baseline_rows(run, rows, metric, labels)
    return _table("result", f"{run.name}, by {metric}", [*rows, *baselines])


def join_tables(tables: Sequence[Table], metric: str, mode: Mode) -> Table:
    """Lay the tables of several runs into one, best first, each row named by its experiment. All show one metric."""
    sign = 1.0 if mode == "min" else -1.0
    rows = [{**row, "label": _joint_label(row, table)} for table in tables for row in table.rows]
    behind = {"configuration": 0, "baseline": 1}

    def place(row: TableRow) -> tuple[int, int, bool, bool, float, str]:
        found: Statistics = row["statistics"]
        nothing = np.isnan(found.mean)
        mean = 0.0 if nothing else sign * found.mean
        role = role_rank(row["role"])
        return behind[row["kind"]], role, bool(nothing), bool(row.get("diverged")), mean, row["label"]

    return _table("joint", f"all {len(tables)} runs, by {metric}", sorted(rows, key=place))


def _table(key: str, title: str, rows: Sequence[TableRow]) -> Table:
    """Choose the columns (x better where a baseline has it, the role where there are several) and mark the best row."""
    best = next((row for row in rows if row["kind"] == "configuration" and row["statistics"].n), None)
    marked = tuple({**row, "highlight": row is best} for row in rows)
    several = len({row["role"] for row in rows if row["role"] is not None}) > 1
    columns = (COLUMNS[0], ROLE, *COLUMNS[1:]) if several else COLUMNS
    keep = {column.key for column in columns} - {X_BETTER.key}
    return Table(key, title, filled_columns(columns, marked, keep), marked)


def results_csv(run: Run, table: Table) -> str:
    """Return `report.csv`: one number a column in full precision, every searched hyperparameter a column."""
    further = (key for key in searched_keys(run) if key not in _CSV_TAIL)
    names = (*_CSV_KEYS, *(SEARCH_KEYS if run.search else ()), *further, *_CSV_TAIL)
    return render_csv(names, ({**r, **asdict(r["statistics"]), "configuration": r["label"]} for r in table.rows))


def searched_keys(run: Run) -> tuple[str, ...]:
    """Return the hyperparameters that differ between the configurations of a run."""
    return differing_keys([group.members[0] for group in group_members(run) if group.members], run.hyperparameters)


def differing_keys(members: Sequence[MemberRow], keys: Iterable[str]) -> tuple[str, ...]:
    """Return the hyperparameters that differ between members."""
    return tuple(key for key in keys if len({repr(member.get(key)) for member in members}) > 1)


def label_groups(run: Run, groups: Sequence[Group], searched: Sequence[str]) -> dict[str, str]:
    """Name each configuration by its searched hyperparameters, or by the experiment where there is only one."""
    names = short_names(searched)
    hashes = list(dict.fromkeys(group.config_hash for group in groups))
    if run.search is not None:
        return {h: run.search.label(h) for h in hashes}
    if len(hashes) == 1:
        return {hashes[0]: run.name}
    first = {group.config_hash: group.members[0] for group in reversed(groups) if group.members}
    labels = {h: _settings(first[h], names) if h in first else "" for h in hashes}
    # Labels that do not tell configurations apart are completed by the hash.
    taken = list(labels.values())
    return {
        h: label if label and taken.count(label) == 1 else f"{label} {h[:6]}".strip() for h, label in labels.items()
    }


def _configuration_row(run: Run, group: Group, metric: str, label: str) -> TableRow:
    seconds = [m["seconds"] for m in group.completed if m["seconds"] is not None]
    found = group.describe(metric)
    return {
        **_shared(group.members),
        **(search_cells(group, run.search) if run.search else {}),
        "kind": "configuration",
        "experiment": run.name,
        "label": label,
        "config_hash": group.config_hash,
        "role": group.role,
        "metric": metric,
        "n": (found.n, group.n_planned),
        "n_ok": found.n,
        "n_planned": group.n_planned,
        "statistics": found,
        "best_seed": group.best_seed(metric, run.mode(metric)),
        "parameters": next((m["parameters"] for m in group.members if m["parameters"] is not None), None),
        "seconds": float(np.mean(seconds)) if seconds else None,
        "status": group.status(metric),
        "diverged": group.diverged,
    }


def _baseline_rows(run: Run, rows: Sequence[TableRow], metric: str, labels: dict[str, str]) -> list[TableRow]:
    """Lay out the baselines of `metric`; one that is the same for several configurations is listed once.

    `x_better` holds against the best of those configurations.
    """
    # Configurations on the same windows have equal baselines; other windows give others of the same name.
    shared: dict[tuple[str, float], list[Baseline]] = {}
    for baseline in run.baselines:
        if baseline.metric == metric.removeprefix("best_rollout/") and baseline.config_hash in labels:
            shared.setdefault((baseline.name, baseline.value), []).append(baseline)
    names = [name for name, _ in shared]
    made = []
    for (name, value), group in shared.items():
        hashes = {baseline.config_hash for baseline in group}
        best = next((row for row in rows if row["config_hash"] in hashes), None)
        of = f" ({labels[min(hashes)]}{', ..' if len(hashes) > 1 else ''})" if names.count(name) > 1 else ""
        made.append(_baseline_row(run, metric, f"{name}{of}", value, best))
    return made


def _baseline_row(run: Run, metric: str, label: str, value: float, best: TableRow | None) -> TableRow:
    return {
        "kind": "baseline",
        "experiment": run.name,
        "label": label,
        "role": None,
        "metric": metric,
        "statistics": replace(NOTHING, mean=value),
        "x_better": _ratio(value, best["statistics"].mean, run.mode(metric)) if best and has_ratios(metric) else None,
        "status": "baseline",
    }


def _ratio(baseline: float, mean: float, mode: Mode) -> float | None:
    above, below = (baseline, mean) if mode == "min" else (mean, baseline)
    return above / below if above > 0 and below > 0 else None


def _shared(members: Sequence[MemberRow]) -> TableRow:
    """Keep the columns in which all members agree."""
    if not members:
        return {}
    return {key: value for key, value in members[0].items() if all(m.get(key) == value for m in members)}


def _settings(member: MemberRow, names: dict[str, str]) -> str:
    found = [f"{short}={setting(member[key])}" for key, short in names.items() if member.get(key) is not None]
    return ", ".join(found or [f"{short}=null" for short in names.values()])


def _joint_label(row: TableRow, table: Table) -> str:
    alone = len({r["config_hash"] for r in table.rows if r["kind"] == "configuration"}) == 1
    return row["experiment"] if alone and row["kind"] == "configuration" else f"{row['experiment']}: {row['label']}"
