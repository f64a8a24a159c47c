"""Which configuration stands before which: the order of every table and figure.

A configuration with a diverged seed is no winner by the mean of the survivors, and one that was stopped early is none
by what it showed before it was stopped.
"""

import math
from typing import Any

from ensemble.reporting.run import Run
from ensemble.reporting.summary import Group, group_members, rank
from ensemble.reporting.trials import Search

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
    told = {trial.state for trial in search.trials_of(group.config_hash)}
    if group.diverged or "diverged" in told:
        return "diverged"
    if "completed" in told:
        return "completed"
    seen = told | {str(member["status"]) for member in group.members}
    return next((state for state in ("failed", "pruned", "completed") if state in seen), "running")


def reached(group: Group, search: Search) -> int:
    """Return the step at which a configuration was stopped, or the furthest that a seed of it came."""
    stops = [search.stops[t.number] for t in search.trials_of(group.config_hash) if t.number in search.stops]
    return max(stops) if stops else max((int(m["steps"] or 0) for m in group.members), default=0)


def search_facts(group: Group, search: Search) -> dict[str, Any]:
    """Return what a search says of a configuration, by SEARCH_KEYS and some more: how its seeds ended, each counted."""
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
