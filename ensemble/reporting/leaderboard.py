"""The leaderboards of a search: finalists on fresh seeds, all configurations, the Pareto front of several objectives.

Every row counts how its seeds ended. A configuration that was stopped early is listed as stopped, at its step, with
the last value it reported and without a mean.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ensemble.reporting.groups import Group, is_finite, rank_search
from ensemble.reporting.number_format import count, setting
from ensemble.reporting.results import BEST_SEED, INTERVAL, LABEL, MEAN, PARAMETERS, STATUS, TIME, X_BETTER
from ensemble.reporting.search_run import Search, SearchTrial
from ensemble.reporting.statistics import Statistics, describe
from ensemble.reporting.table import Column, Table, TableRow, filled_columns, number_text, share_text, spread_text
from ensemble.schema import Float64, Mode
from ensemble.text import plural

COUNTS: tuple[Column, ...] = (
    Column("ok", "n_ok"),
    Column("planned", "n_planned"),
    Column("pruned", "n_pruned"),
    Column("diverged", "n_diverged"),
    Column("failed", "n_failed"),
)
_FRONT = Column("Pareto front", "on_front", priority=8)
_STATUS = STATUS._replace(priority=7, lines=1)  # on a terminal it says what the one count of seeds does not
FINALISTS = (LABEL, *COUNTS, MEAN, INTERVAL, BEST_SEED, PARAMETERS, TIME, X_BETTER, _STATUS)
_COUNT_KEYS = {column.key for column in COUNTS}
_MOST = 20  # configurations that the page shows at once

# On a terminal the number of a trial leads, the counts are one column, and the settings, which may be long, come last.
_MARK = Column("", "mark", align="left")
_OK_PLANNED = Column("ok/planned", "ok_planned", share_text, priority=9)
_SETTINGS = LABEL._replace(key="settings", lines=4)
# What a status says that the counts say as well.
_COUNTED = r"-|completed|None|baseline|\d+ (pruned|diverged|failed)(, \d+ (pruned|diverged|failed))*"


def finalists(table: Table, metric: str) -> Table | None:
    """Lay out the configurations that were trained on fresh seeds, and the baselines; None where there are none."""
    confirmed = [row for row in table.rows if row["role"] not in ("search", None)]
    if not confirmed:
        return None
    rows = _led([*confirmed, *(row for row in table.rows if row["kind"] == "baseline")], MEAN)
    return Table("finalists", f"Finalists on fresh seeds, by {metric}", _filled(FINALISTS, rows), rows)


def leaderboard(search: Search, table: Table, metric: str) -> Table:
    """Lay out every configuration of the search, best first by what the search compared; `metric` is next to it."""
    front = set(pareto_front(search)[0]) if len(search.objectives) > 1 else None
    found = [_search_row(row, front) for row in table.rows if row["role"] == "search"]
    alone = not any(row["role"] not in ("search", None) for row in table.rows)
    further = (MEAN._replace(header=f"{metric} mean ± std", priority=4),) if metric != search.metric else ()
    mean = MEAN._replace(key="search_statistics")
    columns = (
        LABEL,
        *COUNTS,
        mean,
        INTERVAL._replace(key="search_statistics"),
        *further,
        Column("stopped: shown last", "stopped", _stopped_text, priority=4),
        PARAMETERS,
        *((_FRONT,) if front is not None else ()),
        _STATUS._replace(key="status_text"),
    )
    baselines = [row for row in table.rows if row["kind"] == "baseline"] if alone and further else []
    title = f"All {plural(len(found), 'configuration')}, by {search.metric} on the seeds of the search"
    rows = _led([*found, *baselines], mean)
    return Table("leaderboard", title, _filled(columns, found), rows, _notes(found), _MOST)


def without_counted_status(table: Table) -> Table:
    """Leave out a status that says no more than the counts of seeds next to it."""
    status = next((column for column in table.columns if column.header == STATUS.header), None)
    if status is None or not all(re.fullmatch(_COUNTED, status.text(row)) for row in table.rows):
        return table
    return replace(table, columns=tuple(column for column in table.columns if column is not status))


def terminal_leaderboard(table: Table) -> Table:
    """Lay a leaderboard out for a terminal: number of the trial first, settings last, the counts in one column."""
    others = [column for column in table.columns if column.key not in (LABEL.key, *_COUNT_KEYS)]
    rows = tuple({**row, **_brief_cells(row)} for row in table.rows)
    return replace(table, columns=(_MARK, _OK_PLANNED, *others, _SETTINGS), rows=rows, notes=())


def _brief_cells(row: TableRow) -> TableRow:
    """Split a label into number and settings; a baseline has only a name."""
    if row.get("number") is None:
        return {"mark": "", "settings": str(row["label"]), "ok_planned": None}
    mark = f"#{setting(row['number'])}"
    settings = str(row["label"]).removeprefix(mark).strip()
    return {"mark": mark, "settings": settings, "ok_planned": (row["n_ok"], row["n_planned"])}


def _led(rows: Sequence[TableRow], mean: Column) -> tuple[TableRow, ...]:
    """Highlight the first row, if it has a mean."""
    return tuple({**row, "highlight": i == 0 and mean.text(row) != "-"} for i, row in enumerate(rows))


def _search_row(row: TableRow, front: set[int] | None) -> TableRow:
    stopped = row["state"] == "pruned"
    ended = row["search_status"] if row["n_planned"] else "no member has ended"
    running = row["state"] == "running" and row["n_planned"]
    return {
        **row,
        "n_ok": row["search_n"],
        "on_front": "yes" if front and row["number"] in front else "",
        "stopped": (row["last_value"], row["stopped_at"]) if stopped else None,
        "status_text": f"{ended}, running" if running else ended,
    }


def _stopped_text(stopped: tuple[float | None, int] | None) -> str:
    return "-" if stopped is None else f"{number_text(stopped[0])} at {count(stopped[1])}"


def _notes(rows: Sequence[TableRow]) -> tuple[str, ...]:
    notes = ["These seeds chose the configurations: the best of many looks better here than it is."]
    if any(row["state"] == "pruned" for row in rows):
        notes.append(
            "Stopped early (pruned): what they showed last, over the seeds evaluated at that rung, is no mean of "
            "finished members; they rank below those, ordered by how far they came."
        )
    if any(row["state"] in ("diverged", "failed") for row in rows):
        notes.append("A configuration that lost a seed ranks below those that lost none, whatever its mean.")
    return tuple(notes)


def pareto(search: Search, groups: Sequence[Group], labels: dict[str, str]) -> Table | None:
    """Lay out the front: completed configurations that no other beats in one objective without losing in another."""
    if len(search.objectives) < 2:
        return None
    numbers, _ = pareto_front(search)
    by_number = {trial.number: trial for trial in search.trials}
    by_hash = {group.config_hash: group for group in rank_search(list(groups), search)}
    rows = [_front_row(by_number[n], by_hash[by_number[n].config_hash], search, labels) for n in numbers]
    objectives = [
        Column(f"{name} ({'lower' if mode == 'min' else 'higher'} is better)", name, _objective_text)
        for name, mode in search.objectives.items()
    ]
    columns = (LABEL, *COUNTS, *objectives, STATUS)
    completed = sum(trial.state == "completed" for trial in search.trials)
    note = (
        f"{len(numbers)} of {plural(completed, 'completed configuration')}. Mean ± std over the seeds of the search, "
        "by which they were chosen; differences within the spread over seeds may change which are on the front."
    )
    return without_counted_status(Table("pareto", "Pareto front", columns, tuple(rows), (note,), _MOST))


def _front_row(trial: SearchTrial, group: Group, search: Search, labels: dict[str, str]) -> TableRow:
    # Counted over members, not over trials: a configuration that was suggested again counts once.
    statuses = [member["status"] for member in group.members]
    return {
        "label": labels.get(trial.config_hash, search.label(trial.config_hash)),
        "n_ok": len(group.counted(search.metric)),
        "n_planned": group.n_planned,
        **{f"n_{status}": statuses.count(status) for status in ("pruned", "diverged", "failed")},
        **{name: _objective(trial, group, name) for name in search.objectives},
        "status": group.status(search.metric),
    }


def _objective(trial: SearchTrial, group: Group, name: str) -> Statistics | float | None:
    """Describe an objective over the members that have it as a column, else return what the search says."""
    values = [float(member[name]) for member in group.completed if is_finite(member.get(name))]
    return describe(np.array(values, np.float64)) if values else trial.objectives.get(name)


def _objective_text(value: Statistics | float | None) -> str:
    if isinstance(value, Statistics):
        if value.std == 0:
            return count(int(value.mean)) if value.mean.is_integer() else setting(value.mean)
        return f"{spread_text(value)} (n = {value.n})"
    return number_text(value)


def pareto_front(search: Search) -> tuple[list[int], Float64]:
    """Return the numbers of the trials on the front, best first by the search metric, and their objectives (N, K)."""
    trials = [t for t in search.trials if t.state == "completed" and search.objectives.keys() <= t.objectives.keys()]
    if not trials:
        return [], np.zeros((0, len(search.objectives)))
    values = np.array([[trial.objectives[name] for name in search.objectives] for trial in trials], np.float64)
    kept = np.flatnonzero(non_dominated(values, tuple(search.objectives.values())))
    sign = 1.0 if search.mode == "min" else -1.0
    order = sorted(kept, key=lambda i: (sign * values[i, 0], trials[i].number))
    return [trials[i].number for i in order], values[order]


def non_dominated(values: Float64, modes: Sequence[Mode]) -> npt.NDArray[np.bool_]:
    """Tell which rows of `values` (N, K) no other dominates: as good everywhere, better somewhere."""
    signed = values * np.array([1.0 if mode == "min" else -1.0 for mode in modes])
    no_worse = (signed[:, None] <= signed).all(axis=2)  # (N, N): row i as good as row j everywhere
    better = (signed[:, None] < signed).any(axis=2)
    beaten: npt.NDArray[np.bool_] = (no_worse & better).any(axis=0)
    return ~beaten


def _filled(columns: Sequence[Column], rows: Sequence[TableRow]) -> tuple[Column, ...]:
    """Leave out the columns that no row fills; the counts of how seeds ended and the interval always stay."""
    return filled_columns(columns, rows, keep={*_COUNT_KEYS, INTERVAL.key})
