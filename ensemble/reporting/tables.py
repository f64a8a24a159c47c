"""Rows of the report and the columns that show them: one list of `(header, key, format)`, three renderings.

A row is a dictionary: the keys made here, and every column of `members.parquet` that is the same for the row's
members. So a further column is one tuple, e.g. `("batch", "train.batch_size", setting)`.
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from ensemble.reporting.digits import count, duration, interval, plus_minus, setting, times
from ensemble.reporting.run import Baseline, MemberRow, Run
from ensemble.reporting.statistics import NOTHING, Mode, Statistics
from ensemble.reporting.summary import Group, group_members, rank, role_rank

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
DISPENSABLE = ("parameters", "best_seed", "seconds", "x_better")  # the first to go where a terminal is narrow

_STATISTICS = ("mean", "std", "ci_low", "ci_high", "ci_method", "median", "min", "max")
_CSV_KEYS = ("experiment", "configuration", "config_hash", "role", "metric", "n_planned", "n_ok", *_STATISTICS)
_CSV_TAIL = ("best_seed", "parameters", "seconds", "x_better", "status")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in the order they are shown: configurations best first, then what they have to beat."""

    metric: str
    rows: tuple[Row, ...]
    searched: tuple[str, ...]  # hyperparameters that differ between the rows

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
    ranked = rank(group_members(run), metric, run.mode(metric))
    searched = differing_keys([group.members[0] for group in ranked if group.members], run.hyperparameters)
    labels = label_groups(run, ranked, searched)
    rows = [_configuration_row(run, group, metric, labels[group.config_hash]) for group in ranked]
    return Table(metric, (*rows, *_baseline_rows(run, rows, metric, labels)), searched)


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


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shorten dotted keys as far as they differ: `train.optimizer.lr` is `lr`, `train.optimizer.name` `optimizer`."""
    trimmed = {key: key.removesuffix(".name").removesuffix(".family").split(".") for key in keys}
    names = {}
    for key, parts in trimmed.items():
        others = [other for k, other in trimmed.items() if k != key]
        lengths = range(1, len(parts) + 1)
        size = next((n for n in lengths if not any(other[-n:] == parts[-n:] for other in others)), None)
        names[key] = key if size is None else ".".join(parts[-size:])
    return names


def label_groups(run: Run, groups: Sequence[Group], searched: Sequence[str]) -> dict[str, str]:
    """Name each configuration by its searched hyperparameters, or by the experiment where there is only one."""
    names = short_names(searched)
    hashes = list(dict.fromkeys(group.config_hash for group in groups))
    if len(hashes) == 1:
        return {hashes[0]: run.name}
    first = {group.config_hash: group.members[0] for group in reversed(groups) if group.members}
    labels = {h: _settings(first[h], names) if h in first else "" for h in hashes}
    taken = list(labels.values())
    return {
        h: label if label and taken.count(label) == 1 else f"{label} {h[:6]}".strip() for h, label in labels.items()
    }


def to_markdown(table: Table) -> str:
    """Render as a Markdown table; the columns after the first are aligned to the right."""
    headers = [column.header for column in table.columns]
    rule = [":--", *("--:" for _ in headers[1:-1]), ":--"]
    lines = [headers, rule, *([_escape(cell) for cell in cells] for cells in table.cells())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def to_csv(table: Table) -> str:
    """Render as CSV: one number a column in full precision, every searched hyperparameter a column, empty for none."""
    keys = (*_CSV_KEYS, *(key for key in table.searched if key not in _CSV_TAIL), *_CSV_TAIL)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    for row in table.rows:
        numbers = {name: getattr(row["statistics"], name) for name in _STATISTICS}
        cells = {**row, **numbers, "configuration": row["label"]}
        writer.writerow([_csv_cell(cells.get(key)) for key in keys])
    return out.getvalue()


def to_rich(table: Table, title: str, width: int = 160, most: int = 30) -> RichTable:
    """Render for a terminal of `width` characters; what had no room, columns or rows, is named in the caption."""
    shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    columns = fit_columns(table, width)
    last = len(columns) - 1
    for i, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if i in (0, last) else "right"
        header = "\n".join(_header_lines(column.header))
        shown.add_column(header, justify=justify, no_wrap=0 < i < last, overflow="fold", vertical="top")
    kept = [i for i, row in enumerate(table.rows) if i < most or row["kind"] == "baseline"]
    for row in (table.rows[i] for i in kept):
        style = "dim" if row["kind"] == "baseline" else "bold" if row is table.best else ""
        shown.add_row(*(Text(column.format(row.get(column.key))) for column in columns), style=style)
    lacking = [column.header for column in table.columns if column not in columns]
    if len(kept) < len(table.rows):
        lacking.append(f"{len(table.rows) - len(kept)} more configurations")
    if lacking:
        shown.caption = f"in report.csv: {', '.join(lacking)}"
    return shown


def fit_columns(table: Table, width: int) -> tuple[Column, ...]:
    """Return the columns that fit into `width` characters with the first column on at most three lines."""
    columns = table.columns
    text = {c: [*_header_lines(c.header), *(c.format(row.get(c.key)) for row in table.rows)] for c in columns}
    needed = {c: max(map(len, text[c])) for c in columns}
    needed[columns[0]] = max(min(needed[columns[0]], 16), -(-needed[columns[0]] // 3))
    for key in DISPENSABLE:
        if sum(needed[c] + 2 for c in columns) <= width:
            break
        columns = tuple(c for c in columns if c.key != key)
    return columns


def _header_lines(header: str) -> tuple[str, ...]:
    """Break a header before its last word, so that it is no wider than the numbers below it."""
    first, _, last = header.rpartition(" ")
    return (first, last) if first and first != "mean ±" else (header,)


def _configuration_row(run: Run, group: Group, metric: str, label: str) -> Row:
    seconds = [m["seconds"] for m in group.completed if m["seconds"] is not None]
    found = group.describe(metric)
    return {
        **_shared(group.members),
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


def _csv_cell(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _escape(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
