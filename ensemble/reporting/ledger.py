"""What a search cost and how optimistic it was: compute ledger, optimism of the finalists, importances, overview."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensemble.reporting.comparison import unpaired
from ensemble.reporting.groups import Group
from ensemble.reporting.number_format import count, number
from ensemble.reporting.results import LABEL
from ensemble.reporting.run import MemberRow, Run
from ensemble.reporting.search_run import Search
from ensemble.reporting.table import Column, Table, TableRow, number_text, share_text, spread_text
from ensemble.reporting.versus import by_seed
from ensemble.text import duration, plural

_KINDS = {"completed": "useful", "pruned": "stopped early", "diverged": "failed", "failed": "failed"}
_PHASES = {"search": "search", "finalist": "finalists", "ensemble": "ensemble"}


def ledger_table(run: Run) -> Table:
    """Lay out member-steps and hours by phase: useful, stopped early, failed; the last row is the sum."""
    roles = [role for role in _PHASES if any(member["role"] == role for member in run.members)]
    rows = [_ledger_row(_PHASES[role], [m for m in run.members if m["role"] == role]) for role in roles]
    rows.append({**_ledger_row("all", run.members), "kind": "sum"})
    # Diverged and failed members are one kind: their compute is lost alike.
    kinds = tuple(dict.fromkeys(_KINDS.values()))
    columns = (
        Column("phase", "phase", align="left"),
        Column("members", "members", count),
        *(Column(f"member-steps {kind}", f"{kind} steps", _percentage_text) for kind in kinds),
        Column("member-steps", "steps", count),
        *(Column(f"hours {kind}", f"{kind} hours", duration) for kind in kinds),
        Column("hours", "hours", duration),
    )
    return Table("ledger", "Compute ledger", columns, tuple(rows), _ledger_notes(run))


def _ledger_row(phase: str, members: Sequence[MemberRow]) -> TableRow:
    steps, hours = Counter[str](), dict.fromkeys(_KINDS.values(), 0.0)
    for member in members:
        kind = _KINDS[member["status"]]
        steps[kind] += int(member["steps"] or 0)
        hours[kind] += float(member["seconds"] or 0.0) * int(member["world_size"] or 1)
    total = sum(steps.values())
    return {
        "phase": phase,
        "members": len(members),
        **{f"{kind} steps": (steps[kind], total) for kind in hours},
        "steps": total,
        **{f"{kind} hours": spent for kind, spent in hours.items()},
        "hours": sum(hours.values()),
    }


def _percentage_text(value: tuple[int, int]) -> str:
    part, whole = value
    return f"{count(part)} ({part / whole:.0%})" if whole else count(part)


def _ledger_notes(run: Run) -> tuple[str, ...]:
    notes = [
        "Useful: members that completed. Stopped early: pruned. Failed: diverged or ended by an error. A member-step "
        "is one optimizer step of one member; hours are those of the process, shared by the members of a pack, times "
        "the processes of a member."
    ]
    saved = sum(max(0, int(m.get("train.steps") or 0) - int(m["steps"] or 0)) for m in run.members if _stopped(m))
    if saved:
        notes.append(f"Stopping early left {count(saved)} member-steps undone.")
    budget = run.search.facts.get("budget") if run.search else None
    if budget:
        spent = sum(int(m["steps"] or 0) for m in run.members if m["role"] == "search")
        notes.append(f"Budget of the search: {count(spent)} of {count(int(budget))} member-steps spent.")
    return tuple(notes)


def _stopped(member: MemberRow) -> bool:
    return bool(member["status"] == "pruned")


def ledger_line(table: Table) -> str:
    """Say the ledger in one line."""
    total = table.rows[-1]
    kinds = dict.fromkeys(_KINDS.values())
    parts = [f"{_percentage_text(total[f'{kind} steps'])} {kind}" for kind in kinds]
    return f"{count(total['steps'])} member-steps in {duration(total['hours'])} of training: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Optimism:
    """A finalist's score on the seeds of the search against its score on fresh ones, by the search metric."""

    search: Group
    fresh: Group
    difference: float  # search - fresh: the optimism
    low: float
    high: float


def optimisms(search: Search, finalists: Sequence[Group], searched: Mapping[str, Group]) -> list[Optimism]:
    """Return the optimism of each finalist that has a score on both sides."""
    found = []
    for fresh in finalists:
        before = searched.get(fresh.config_hash)
        if before is None:
            continue
        a, b = (np.array([*by_seed(group, search.metric).values()], np.float64) for group in (before, fresh))
        # Fresh seeds are other seeds, so the two samples are independent: Welch, not paired.
        if a.size and b.size:
            found.append(Optimism(before, fresh, *unpaired(a, b)))
    return found


def optimism_table(search: Search, found: Sequence[Optimism]) -> Table | None:
    """Lay out both scores of each finalist and their difference."""
    if not found:
        return None
    columns = (
        LABEL,
        Column("seeds of the search", "n_search", share_text),
        Column("search score", "search", spread_text),
        Column("fresh seeds", "n_fresh", share_text),
        Column("fresh score", "fresh", spread_text),
        Column("optimism", "difference", number_text),
        Column("95 % interval (Welch's t)", "interval", _pair_text),
    )
    worse = "Below" if search.mode == "min" else "Above"
    note = (
        f"Optimism: search score minus fresh score, both {search.metric}. {worse} zero, the search overestimated the "
        "configuration. The fresh score is the one to quote."
    )
    rows = tuple(_optimism_row(search, each) for each in found)
    return Table("optimism", f"Optimism of the search, by {search.metric}", columns, rows, (note,))


def _optimism_row(search: Search, each: Optimism) -> TableRow:
    before, fresh = each.search.describe(search.metric), each.fresh.describe(search.metric)
    return {
        "label": search.label(each.fresh.config_hash),
        "n_search": (before.n, each.search.n_planned),
        "search": before,
        "n_fresh": (fresh.n, each.fresh.n_planned),
        "fresh": fresh,
        "difference": each.difference,
        "interval": (each.low, each.high),
    }


def optimism_line(search: Search, each: Optimism) -> str:
    """Say a finalist's optimism in one line."""
    before, fresh = each.search.describe(search.metric), each.fresh.describe(search.metric)
    span = "" if math.isnan(each.low) else f" {_pair_text((each.low, each.high))} Welch's t"
    return (
        f"{search.mark(each.fresh.config_hash)}: {search.metric} {spread_text(before)} on {plural(before.n, 'seed')} "
        f"of the search, {spread_text(fresh)} on {fresh.n} fresh ones: optimism {number(each.difference, 2)}{span}"
    )


def _pair_text(value: tuple[float, float]) -> str:
    low, high = value
    return "-" if math.isnan(low) else f"[{number(low, 2)}, {number(high, 2)}]"


def importance_table(search: Search) -> Table | None:
    """Lay out the importances of the searched values; None where none were computed."""
    if not search.importances:
        return None
    columns = (Column("parameter", "parameter", align="left"), Column("importance", "share", _percent))
    rows: list[TableRow] = [{"parameter": each.parameter, "share": each.share} for each in search.importances]
    first = search.importances[0]
    note = (
        f"{first.method} over {plural(first.trials, 'completed configuration')}: the share of each parameter in what "
        "tells good configurations from the others, one at a time. With few of them it is a hint, no more."
    )
    return Table("importances", "Importance of the searched values", columns, tuple(rows), (note,))


def _percent(value: float) -> str:
    return f"{value:.1%}"


def search_overview(search: Search) -> tuple[tuple[str, str], ...]:
    """List how the search went: sampler, pruner, and how many configurations ended how."""
    facts = search.facts
    states = Counter(trial.state for trial in search.trials)
    ended = ", ".join(f"{states[s]} {s}" for s in ("completed", "pruned", "diverged", "failed", "running") if states[s])
    listed: list[tuple[str, Any]] = [
        ("sampler", facts.get("sampler")),
        ("pruner", facts.get("pruner")),
        ("order", facts.get("order")),
        ("objectives", ", ".join(f"{name} ({mode})" for name, mode in search.objectives.items())),
        ("configurations", f"{len(search.trials)} of {facts.get('trials_planned', '?')} planned: {ended}"),
        ("suggestions left out as impossible", _size(facts.get("infeasible"))),
        ("suggestions repeated", _size(facts.get("repeated"))),
        ("race", facts.get("race")),
        ("optuna", facts.get("optuna")),
    ]
    return tuple((name, str(value)) for name, value in listed if value not in (None, False, "", 0))


def _size(value: Any) -> Any:
    return len(value) if isinstance(value, list | dict) else value
