"""Rows of the report and the columns that show them: one list of `(header, key, format)`, three renderings.

A row is a dictionary: the keys made here, and every column of `members.parquet` that is the same for the row's
members. So a further column is one tuple, e.g. `("batch", "train.batch_size", setting)`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ensemble.reporting.groups import SEARCH_KEYS, Group, rank_run, role_rank, search_facts
from ensemble.reporting.number_format import count, interval, plus_minus, setting, short_names, times
from ensemble.reporting.run import Baseline, MemberRow, Run
from ensemble.reporting.statistics import NOTHING, Statistics
from ensemble.schema import Mode
from ensemble.text import duration

Row = dict[str, Any]


class Column(NamedTuple):
    """One column of the report."""

    header: str
    key: str  # of a row
    format: Callable[[Any], str]


def _spread(found: Statistics) -> str:
    return plus_minus(found.mean, found.std)


def _interval(found: Statistics) -> str:
    return interval(found.ci_low, found.ci_high, found.mean, found.std, found.ci_method)


def _plain(value: object) -> str:
    return "-" if value is None else str(value)


COLUMNS: tuple[Column, ...] = (
    Column("configuration", "label", str),
    Column("n ok/planned", "n", _plain),
    Column("mean ± std", "statistics", _spread),
    Column("95 % interval", "statistics", _interval),
    Column("best seed", "best_seed", _plain),
    Column("parameters", "parameters", count),
    Column("time", "seconds", duration),
    Column("x better", "x_better", times),
    Column("status", "status", _plain),
)
ROLE = Column("role", "role", _plain)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in the order they are shown: configurations best first, then what they have to beat."""

    metric: str
    rows: tuple[Row, ...]
    searched: tuple[str, ...]  # hyperparameters that differ between the rows
    extra: tuple[str, ...] = ()  # further keys of the rows, for the CSV alone

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns worth showing: without those that no row fills, and with the role where there are several."""
        shown = [c for c in COLUMNS if c.key != "x_better" or any(row.get("x_better") is not None for row in self.rows)]
        several = len({row["role"] for row in self.rows if row["role"] is not None}) > 1
        return (shown[0], ROLE, *shown[1:]) if several else tuple(shown)

    def cells(self) -> list[list[str]]:
        """Return the text of every cell."""
        return [[column.format(row.get(column.key)) for column in self.columns] for row in self.rows]

    @property
    def best(self) -> Row | None:
        """The first row with a value; None where nothing finished."""
        return next((row for row in self.rows if row["kind"] == "configuration" and row["statistics"].n), None)


def build_table(run: Run, metric: str) -> Table:
    """Lay out the table of one run by `metric`."""
    ranked = rank_run(run, metric)
    searched = differing_keys([group.members[0] for group in ranked if group.members], run.hyperparameters)
    labels = label_groups(run, ranked, searched)
    rows = [_configuration_row(run, group, metric, labels[group.config_hash]) for group in ranked]
    extra = SEARCH_KEYS if run.search else ()
    return Table(metric, (*rows, *_baseline_rows(run, rows, metric, labels)), searched, extra)


def join_tables(tables: Sequence[Table], mode: Mode) -> Table:
    """Lay the tables of several runs into one, best first, each row named by its experiment. All show one metric."""
    sign = 1.0 if mode == "min" else -1.0
    rows = [{**row, "label": _joint_label(row, table)} for table in tables for row in table.rows]
    behind = {"configuration": 0, "baseline": 1}

    def place(row: Row) -> tuple[int, int, bool, bool, float, str]:
        found: Statistics = row["statistics"]
        nothing = np.isnan(found.mean)
        mean = 0.0 if nothing else sign * found.mean
        role = role_rank(row["role"])
        return behind[row["kind"]], role, bool(nothing), bool(row.get("diverged")), mean, row["label"]

    searched = tuple(dict.fromkeys(key for table in tables for key in table.searched))
    return Table(tables[0].metric, tuple(sorted(rows, key=place)), searched)


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
    taken = list(labels.values())
    return {
        h: label if label and taken.count(label) == 1 else f"{label} {h[:6]}".strip() for h, label in labels.items()
    }


def _configuration_row(run: Run, group: Group, metric: str, label: str) -> Row:
    seconds = [m["seconds"] for m in group.completed if m["seconds"] is not None]
    found = group.describe(metric)
    return {
        **_shared(group.members),
        **(search_facts(group, run.search) if run.search else {}),
        "kind": "configuration",
        "experiment": run.name,
        "label": label,
        "config_hash": group.config_hash,
        "role": group.role,
        "metric": metric,
        "n": f"{found.n}/{group.n_planned}",
        "n_ok": found.n,
        "n_planned": group.n_planned,
        "statistics": found,
        "best_seed": group.best_seed(metric, run.mode(metric)),
        "parameters": next((m["parameters"] for m in group.members if m["parameters"] is not None), None),
        "seconds": float(np.mean(seconds)) if seconds else None,
        "status": group.status(metric),
        "diverged": group.diverged,
    }


def _baseline_rows(run: Run, rows: Sequence[Row], metric: str, labels: dict[str, str]) -> list[Row]:
    """Lay out the baselines of `metric`; one that is the same for several configurations stands once.

    `x_better` holds against the best of those configurations.
    """
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


def _baseline_row(run: Run, metric: str, label: str, value: float, best: Row | None) -> Row:
    return {
        "kind": "baseline",
        "experiment": run.name,
        "label": label,
        "role": None,
        "metric": metric,
        "statistics": replace(NOTHING, mean=value),
        "x_better": None if best is None else _ratio(value, best["statistics"].mean, run.mode(metric)),
        "status": "baseline",
    }


def _ratio(baseline: float, mean: float, mode: Mode) -> float | None:
    above, below = (baseline, mean) if mode == "min" else (mean, baseline)
    return above / below if above > 0 and below > 0 else None


def _shared(members: Sequence[MemberRow]) -> Row:
    """Keep the columns in which all members agree."""
    if not members:
        return {}
    return {key: value for key, value in members[0].items() if all(m.get(key) == value for m in members)}


def _settings(member: MemberRow, names: dict[str, str]) -> str:
    found = [f"{short}={setting(member[key])}" for key, short in names.items() if member.get(key) is not None]
    return ", ".join(found or [f"{short}=null" for short in names.values()])


def _joint_label(row: Row, table: Table) -> str:
    alone = len({r["config_hash"] for r in table.rows if r["kind"] == "configuration"}) == 1
    return row["experiment"] if alone and row["kind"] == "configuration" else f"{row['experiment']}: {row['label']}"
