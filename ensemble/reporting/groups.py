"""Members to summary: group by (configuration, role), count how members ended, describe every metric over seeds.

Only completed members with a finite value enter a mean; every other one is counted against n_planned.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ensemble.reporting.run import MemberRow, Run
from ensemble.reporting.search_run import Search
from ensemble.reporting.statistics import Statistics, best_index, describe
from ensemble.schema import SUMMARY_COLUMNS, Mode

ROLE_ORDER = ("ensemble", "finalist", "search")


@dataclass(frozen=True, slots=True)
class Group:
    """The members of one configuration in one role, ordered by seed."""

    config_hash: str
    role: str
    members: tuple[MemberRow, ...]
    missing: tuple[int, ...]  # seeds planned, never ended

    @property
    def n_planned(self) -> int:
        """How many members there should be."""
        return len(self.members) + len(self.missing)

    @property
    def completed(self) -> tuple[MemberRow, ...]:
        """The members that may enter a mean."""
        return tuple(member for member in self.members if member["status"] == "completed")

    def counted(self, metric: str) -> tuple[MemberRow, ...]:
        """Return the members that enter the mean of `metric`: completed, with a finite value."""
        return tuple(member for member in self.completed if is_finite(member.get(metric)))

    def describe(self, metric: str) -> Statistics:
        """Describe `metric` over the seeds that count."""
        return describe(np.array([member[metric] for member in self.counted(metric)], np.float64))

    def best_seed(self, metric: str, mode: Mode) -> int | None:
        """Return the seed of the best member by `metric`; None where no member counts."""
        counted = self.counted(metric)
        if not counted:
            return None
        values = np.array([member[metric] for member in counted], np.float64)
        return int(counted[best_index(values, mode)]["seed"])

    def status(self, metric: str) -> str:
        """Say how the members ended, "completed" when all did: `2 diverged, 1 missing`."""
        counts = Counter(member["status"] for member in self.members)
        counts["not measured"] = sum(member.get(metric) is None for member in self.completed)
        counts["not finite"] = len(self.completed) - len(self.counted(metric)) - counts["not measured"]
        counts["missing"] = len(self.missing)
        kinds = ("pruned", "diverged", "failed", "not measured", "not finite", "missing")
        return ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind]) or "completed"

    @property
    def diverged(self) -> bool:
        """Whether a seed diverged, which ranks the configuration behind those where none did."""
        return any(member["status"] == "diverged" for member in self.members)


def group_members(run: Run) -> list[Group]:
    """Group the members of a run by role and configuration, in the order of ROLE_ORDER and then of the hash."""
    present: dict[tuple[str, str], list[MemberRow]] = {}
    absent: dict[tuple[str, str], list[int]] = {}
    for member in run.members:
        present.setdefault((member["role"], member["config_hash"]), []).append(member)
    # A planned member without a row is still running, or was lost with its process.
    ended = {(member["config_hash"], member["role"], member["seed"]) for member in run.members}
    for config_hash, role, seed in run.planned:
        if (config_hash, role, seed) not in ended:
            absent.setdefault((role, config_hash), []).append(seed)
    keys = sorted(present.keys() | absent.keys(), key=lambda key: (role_rank(key[0]), *key))
    return [
        Group(
            config_hash, role, tuple(present.get((role, config_hash), ())), tuple(absent.get((role, config_hash), ()))
        )
        for role, config_hash in keys
    ]


def rank(groups: Sequence[Group], metric: str, mode: Mode) -> list[Group]:
    """Order groups by role, then best first; behind come those with a diverged seed, last those with no value.

    A configuration that loses a seed to divergence is no winner by the mean of the survivors (as in the search).
    """
    sign = 1.0 if mode == "min" else -1.0

    def place(group: Group) -> tuple[int, bool, bool, float, str]:
        mean = group.describe(metric).mean
        nothing = math.isnan(mean)
        return role_rank(group.role), nothing, group.diverged, 0.0 if nothing else sign * mean, group.config_hash

    return sorted(groups, key=place)


def summary_table(run: Run) -> pa.Table:
    """Return `summary.parquet` of a run: one row per configuration, role and metric, in that order."""
    rows = [_summary_row(group, metric, run.mode(metric)) for group in group_members(run) for metric in run.metrics]
    rows.sort(key=lambda row: (str(row["config_hash"]), str(row["role"]), str(row["metric"])))
    return pa.Table.from_pylist(rows, schema=SUMMARY_COLUMNS)


def is_finite(value: object) -> bool:
    """Tell whether a metric's value can be compared: a number, not null, NaN or infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


def _summary_row(group: Group, metric: str, mode: Mode) -> dict[str, object]:
    found = group.describe(metric)
    return {
        "config_hash": group.config_hash,
        "role": group.role,
        "metric": metric,
        "n_planned": group.n_planned,
        "n_ok": found.n,
        "mean": found.mean,
        "std": found.std,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "ci_method": found.ci_method,
        "median": found.median,
        "min": found.min,
        "max": found.max,
        "best_seed": group.best_seed(metric, mode),
    }


def role_rank(role: str | None) -> int:
    """Return a role's place in ROLE_ORDER; a row without one comes last."""
    return ROLE_ORDER.index(role) if role in ROLE_ORDER else len(ROLE_ORDER)


# What the rows of a search have beyond those of a plain ensemble.
SEARCH_KEYS = (
    "number",
    "state",
    "n_pruned",
    "n_diverged",
    "n_failed",
    "n_missing",
    "stopped_at",
    "member_steps",
    "search_metric",
    "search_n",
    "search_mean",
    "search_std",
    "search_ci_low",
    "search_ci_high",
)
_STATES = ("completed", "running", "diverged", "failed")


def rank_run(run: Run, metric: str) -> list[Group]:
    """Order the groups of a run by role, then best first by `metric`; those of a search by what the search compared."""
    ranked = rank(group_members(run), metric, run.mode(metric))
    if run.search is None:
        return ranked
    confirmed = [group for group in ranked if group.role != "search"]
    return confirmed + rank_search([group for group in ranked if group.role == "search"], run.search)


def rank_search(groups: list[Group], search: Search) -> list[Group]:
    """Order all configurations of a search, those that left no member as well.

    First the completed ones by their mean of the search metric, then those that lost a seed, then the stopped ones by
    how far they came, last what has no value.
    """
    known = {group.config_hash for group in groups}
    # A trial whose members all ended without a row has no group yet.
    silent = dict.fromkeys(t.config_hash for t in search.trials if t.config_hash not in known)
    sign = 1.0 if search.mode == "min" else -1.0

    def place(group: Group) -> tuple[int, float, float, str]:
        state = state_of(group, search)
        mean = group.describe(search.metric).mean
        trials = search.trials_of(group.config_hash)
        number = float(trials[0].number) if trials else math.inf
        if state == "pruned":
            last = search.last_value(trials[0]) if trials else None
            return 2, -float(reached(group, search)), sign * last if last is not None else math.inf, group.config_hash
        if math.isnan(mean):
            return 3 + _STATES.index(state), number, 0.0, group.config_hash
        return int(state != "completed"), sign * mean, number, group.config_hash

    return sorted([*groups, *(Group(config_hash, "search", (), ()) for config_hash in silent)], key=place)


def state_of(group: Group, search: Search) -> str:
    """Say how a configuration of a search ended: as the search says, and never better than its members did."""
    reported = {trial.state for trial in search.trials_of(group.config_hash)}
    # The survivors of a divergence are no sample of the configuration.
    if group.diverged or "diverged" in reported:
        return "diverged"
    if "completed" in reported:
        return "completed"
    seen = reported | {str(member["status"]) for member in group.members}
    return next((state for state in ("failed", "pruned", "completed") if state in seen), "running")


def reached(group: Group, search: Search) -> int:
    """Return the step at which a configuration was stopped, or the furthest that a seed of it came."""
    stops = [search.stops[t.number] for t in search.trials_of(group.config_hash) if t.number in search.stops]
    return max(stops) if stops else max((int(m["steps"] or 0) for m in group.members), default=0)


def search_cells(group: Group, search: Search) -> dict[str, Any]:
    """Return the cells of a configuration in a search, SEARCH_KEYS and some more: how its seeds ended, each counted."""
    trials = search.trials_of(group.config_hash)
    statuses = [member["status"] for member in group.members]
    found = group.describe(search.metric)
    of_search = group.role == "search"
    return {
        "number": trials[0].number if trials else None,
        "state": state_of(group, search) if of_search else None,
        **{f"n_{status}": statuses.count(status) for status in ("pruned", "diverged", "failed")},
        "n_missing": len(group.missing),
        "stopped_at": reached(group, search) if of_search and state_of(group, search) == "pruned" else None,
        "member_steps": sum(int(member["steps"] or 0) for member in group.members),
        "search_metric": search.metric,
        "search_n": found.n,
        "search_mean": found.mean,
        "search_std": found.std,
        "search_ci_low": found.ci_low,
        "search_ci_high": found.ci_high,
        "search_statistics": found,
        "search_best_seed": group.best_seed(search.metric, search.mode),
        "search_status": group.status(search.metric),
        "last_value": search.last_value(trials[0]) if trials and of_search else None,
    }
