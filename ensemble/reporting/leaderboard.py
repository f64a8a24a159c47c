"""The leaderboards of a search: finalists on fresh seeds, all configurations, the Pareto front of several objectives.

Every row counts how its seeds ended. A configuration that was stopped early stands there as stopped, at its step, with
what it showed last and without a mean.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ensemble.reporting.groups import Group, is_finite, rank_search
from ensemble.reporting.number_format import count, setting, times
from ensemble.reporting.search_run import Search, Trial
from ensemble.reporting.sheets import Sheet, interval_text, number_text, plain_text, spread_text
from ensemble.reporting.statistics import Statistics, describe
from ensemble.reporting.tables import Column, Row, Table
from ensemble.schema import Float64, Mode
from ensemble.text import duration, plural

COUNTS: tuple[Column, ...] = (
    Column("ok", "n_ok", plain_text),
    Column("planned", "n_planned", plain_text),
    Column("pruned", "n_pruned", plain_text),
    Column("diverged", "n_diverged", plain_text),
    Column("failed", "n_failed", plain_text),
)
FINALISTS: tuple[Column, ...] = (
    Column("configuration", "label", str),
    *COUNTS,
    Column("mean ± std", "statistics", spread_text),
    Column("95 % interval", "statistics", interval_text),
    Column("best seed", "best_seed", plain_text),
    Column("parameters", "parameters", count),
    Column("time", "seconds", duration),
    Column("x better", "x_better", times),
    Column("status", "status", plain_text),
)
_FRONT = Column("Pareto front", "on_front", plain_text)


def finalists(table: Table) -> Sheet | None:
    """Lay out the configurations that were trained on fresh seeds, and the baselines; None where there are none."""
    confirmed = [row for row in table.rows if row["role"] not in ("search", None)]
    if not confirmed:
        return None
    rows = [*confirmed, *(row for row in table.rows if row["kind"] == "baseline")]
    title = f"Finalists on fresh seeds, by {table.metric}"
    return Sheet("finalists", title, _filled(FINALISTS, rows), tuple(rows), most=len(rows))


def leaderboard(search: Search, table: Table) -> Sheet:
    """Lay out every configuration of the search, best first by what the search compared; `table.metric` beside it."""
    rows = [_search_row(row) for row in table.rows if row["role"] == "search"]
    front = set(pareto_front(search)[0]) if len(search.objectives) > 1 else None
    for row in rows:
        row["on_front"] = "yes" if front and row["number"] in front else ""
    alone = not any(row["role"] not in ("search", None) for row in table.rows)
    beside = (Column(f"{table.metric} mean ± std", "statistics", spread_text),) if table.metric != search.metric else ()
    columns = (
        Column("configuration", "label", str),
        *COUNTS,
        Column("mean ± std", "search_statistics", spread_text),
        Column("95 % interval", "search_statistics", interval_text),
        *beside,
        Column("stopped: shown last", "stopped", _stopped_text),
        Column("parameters", "parameters", count),
        *((_FRONT,) if front is not None else ()),
        Column("status", "status_text", plain_text),
    )
    baselines = [row for row in table.rows if row["kind"] == "baseline"] if alone and beside else []
    title = f"All {plural(len(rows), 'configuration')}, by {search.metric} on the seeds of the search"
    return Sheet("leaderboard", title, _filled(columns, rows), (*rows, *baselines), _notes(rows))


def _search_row(row: Row) -> Row:
    stopped = row["state"] == "pruned"
    ended = row["search_status"] if row["n_planned"] else "no member has ended"
    running = row["state"] == "running" and row["n_planned"]
    return {
        **row,
        "n_ok": row["search_n"],
        "stopped": (row["last_value"], row["stopped_at"]) if stopped else None,
        "status_text": f"{ended}, running" if running else ended,
    }


def _stopped_text(stopped: tuple[float | None, int] | None) -> str:
    return "-" if stopped is None else f"{number_text(stopped[0])} at {count(stopped[1])}"


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    notes = ["These seeds chose the configurations: the best of many looks better here than it is."]
    if any(row["state"] == "pruned" for row in rows):
        notes.append(
            "Stopped early (pruned): what they showed last, over the seeds that were asked then, is no mean of "
            "finished members; they stand behind, ordered by how far they came."
        )
    if any(row["state"] in ("diverged", "failed") for row in rows):
        notes.append("A configuration that lost a seed stands behind those that lost none, whatever its mean.")
    return tuple(notes)


def pareto(search: Search, groups: Sequence[Group], labels: dict[str, str]) -> Sheet | None:
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
    columns = (Column("configuration", "label", str), *COUNTS, *objectives, Column("status", "status", plain_text))
    completed = sum(trial.state == "completed" for trial in search.trials)
    note = (
        f"{len(numbers)} of {plural(completed, 'completed configuration')}. Mean ± std over the seeds of the search, "
        "by which they were chosen; differences within the spread over seeds may change who is on the front."
    )
    return Sheet("pareto", "Pareto front", columns, tuple(rows), (note,))


def _front_row(trial: Trial, group: Group, search: Search, labels: dict[str, str]) -> Row:
    statuses = [member["status"] for member in group.members]
    return {
        "label": labels.get(trial.config_hash, search.label(trial.config_hash)),
        "n_ok": len(group.counted(search.metric)),
        "n_planned": group.n_planned,
        **{f"n_{status}": statuses.count(status) for status in ("pruned", "diverged", "failed")},
        **{name: _objective(trial, group, name) for name in search.objectives},
        "status": group.status(search.metric),
    }


def _objective(trial: Trial, group: Group, name: str) -> Statistics | float | None:
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


def _filled(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Leave out the columns that no row fills; the counts of how seeds ended always stand."""
    counts = {column.key for column in COUNTS}

    def fills(column: Column) -> bool:
        values = [row.get(column.key) for row in rows]
        return any(v not in (None, "") and not (isinstance(v, Statistics) and v.mean != v.mean) for v in values)

    return tuple(column for column in columns if column.key in counts or fills(column))
