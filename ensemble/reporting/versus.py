"""Which configuration is better, by how much, and how sure that is: each against the best and the baseline.

Differences are paired by seed, p values corrected by Holm within one table. The baseline configuration is trial 0: the
first of `search.points`, or else the first that was suggested.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter

import numpy as np

from ensemble.reporting.comparison import (
    MANN_WHITNEY,
    PAIRED_T,
    Improvement,
    Paired,
    holm,
    paired,
    probability_of_improvement,
    seeds_needed,
)
from ensemble.reporting.groups import Group
from ensemble.reporting.render.csv import render_csv
from ensemble.reporting.results import LABEL
from ensemble.reporting.search_run import Search
from ensemble.reporting.table import Column, Table, TableRow, interval_text, lower_bound, spread_text
from ensemble.schema import Float64, Mode


def p_text(p: float | None) -> str:
    """Write a p value: `0.043`, `< 0.001`."""
    if p is None or p != p:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def improvement_text(found: Improvement | None) -> str:
    """Write a probability with its interval: `0.93 [0.78, 0.98]`."""
    if found is None or found.value != found.value:
        return "-"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


COLUMNS: tuple[Column, ...] = (
    LABEL,
    Column("pairs", "pairs"),
    Column("difference, mean ± std", "difference", spread_text),
    Column("95 % interval (paired t)", "difference", interval_text, sort=lower_bound),
    Column("p", "p", p_text),
    Column("p after Holm", "p_holm", p_text),
    Column("P(a run is better)", "improvement", improvement_text, sort=attrgetter("value")),
    Column("seeds to separate", "needed"),
)
_MOST = 20  # comparisons that the page shows at once


@dataclass(frozen=True, slots=True)
class Comparison:
    """One configuration against the reference."""

    group: Group
    found: Paired  # configuration - reference
    improvement: Improvement  # that a run of the configuration is better than one of the reference
    p_holm: float = math.nan

    @property
    def needed(self) -> int | None:
        """Pairs that would separate them; None beyond 1000, or where nothing is known."""
        return seeds_needed(self.found.found.mean, self.found.found.std)


@dataclass(frozen=True, slots=True)
class Versus:
    """Configurations of one role against one of them."""

    role: str
    metric: str
    mode: Mode
    reference: Group
    kind: str  # best | baseline
    comparisons: tuple[Comparison, ...]


def against(
    reference: Group, groups: Sequence[Group], metric: str, mode: Mode, kind: str, level: float = 0.95
) -> Versus:
    """Compare every group that has a value with the reference; groups without one are left out."""
    # A diverged run has no value, but it is no missing one either: it loses against every run.
    worst = math.inf if mode == "min" else -math.inf
    others = [group for group in groups if group is not reference and group.counted(metric)]
    comparisons = [
        Comparison(
            group,
            paired(by_seed(group, metric), by_seed(reference, metric)),
            probability_of_improvement(runs(group, metric, worst), runs(reference, metric, worst), mode, level),
        )
        for group in others
    ]
    adjusted = holm([comparison.found.p for comparison in comparisons])
    held = tuple(replace(comparison, p_holm=p) for comparison, p in zip(comparisons, adjusted, strict=True))
    return Versus(reference.role, metric, mode, reference, kind, held)


def by_seed(group: Group, metric: str) -> dict[int, float]:
    """Return the values that count, by seed."""
    return {int(member["seed"]): float(member[metric]) for member in group.counted(metric)}


def runs(group: Group, metric: str, worst: float) -> Float64:
    """Return the values that count, and `worst` for every diverged run."""
    lost = sum(member["status"] == "diverged" for member in group.members)
    return np.array([*by_seed(group, metric).values(), *[worst] * lost], np.float64)


def compare(groups: Sequence[Group], search: Search, metric: str, mode: Mode) -> list[Versus]:
    """Compare the ranked groups of one role with their best and, where it is among them, with the baseline."""
    ranked = [group for group in groups if group.counted(metric)]
    if len(ranked) < 2:
        return []
    found = [against(ranked[0], ranked, metric, mode, "best")]
    baseline = next((group for group in ranked if is_baseline(group, search)), None)
    if baseline is not None and baseline is not ranked[0]:
        found.append(against(baseline, ranked, metric, mode, "baseline"))
    return found


def is_baseline(group: Group, search: Search) -> bool:
    """Tell whether a configuration is the one that others have to beat: trial 0."""
    return any(trial.number == 0 for trial in search.trials_of(group.config_hash))


def describe_baseline(search: Search) -> str:
    """Say which configuration is the baseline and why."""
    return "the first of search.points" if search.points else "the first that was suggested"


def versus_table(versus: Versus, search: Search, folded: bool) -> Table:
    """Lay out a comparison."""
    name = search.mark(versus.reference.config_hash)
    rows = tuple(_row(comparison, search) for comparison in versus.comparisons)
    seeds = "fresh seeds" if versus.role == "finalist" else "seeds of the search"
    reference = "the best" if versus.kind == "best" else "the baseline configuration"
    title = f"Against {reference}, {name}, by {versus.metric} on {seeds}"
    return Table(f"versus_{versus.kind}_{versus.role}", title, COLUMNS, rows, _notes(versus, search), _MOST, folded)


def _row(comparison: Comparison, search: Search) -> TableRow:
    found = comparison.found.found
    needed = comparison.needed
    return {
        "label": search.label(comparison.group.config_hash),
        "pairs": found.n,
        "difference": found,
        "p": comparison.found.p,
        "p_holm": comparison.p_holm,
        "improvement": comparison.improvement,
        "needed": None if found.n < 2 else needed if needed is not None else "more than 1000",
    }


def _notes(versus: Versus, search: Search) -> tuple[str, ...]:
    name, sign = search.mark(versus.reference.config_hash), "Above" if versus.mode == "min" else "Below"
    notes = [
        f"Difference: the row's value minus that of {name}, over members with equal seeds; {sign.lower()} zero the row "
        f"is worse. p: {PAIRED_T}, two-sided; after Holm: for all {len(versus.comparisons)} rows together. "
        f"P: that a run of the row is better than a run of {name} (Agarwal et al. 2021; {MANN_WHITNEY}), a diverged "
        "run losing. Seeds to separate: pairs for a power of 0.8 at level 0.05, were difference and spread as "
        "estimated."
    ]
    if versus.kind == "best":
        notes.append(f"{name} was picked as the best of these very numbers, so its lead is somewhat flattered.")
    else:
        notes.append(f"The baseline configuration {name} is {describe_baseline(search)}.")
    if versus.role == "search" and versus.kind == "best":
        notes.append("These seeds chose the finalists; the comparison on fresh seeds is the one to trust.")
    return tuple(notes)


_CSV = (
    "role", "metric", "reference", "reference_hash", "reference_is", "configuration", "config_hash", "pairs", "mean",
    "std", "ci_low", "ci_high", "ci_method", "p", "p_method", "p_holm", "p_better", "p_better_low", "p_better_high",
    "p_better_method", "seeds_to_separate",
)  # fmt: skip


def comparisons_csv(found: Sequence[Versus], search: Search) -> str:
    """Return `comparisons.csv`: every comparison in full precision."""
    rows = (_csv_row(versus, comparison, search) for versus in found for comparison in versus.comparisons)
    return render_csv(_CSV, rows)


def _csv_row(versus: Versus, comparison: Comparison, search: Search) -> TableRow:
    configuration, reference = comparison.group.config_hash, versus.reference.config_hash
    better = comparison.improvement
    return {
        **asdict(comparison.found.found),
        "role": versus.role,
        "metric": versus.metric,
        "reference": search.label(reference),
        "reference_hash": reference,
        "reference_is": versus.kind,
        "configuration": search.label(configuration),
        "config_hash": configuration,
        "pairs": comparison.found.found.n,
        "p": comparison.found.p,
        "p_method": PAIRED_T,
        "p_holm": comparison.p_holm,
        "p_better": better.value,
        "p_better_low": better.low,
        "p_better_high": better.high,
        "p_better_method": MANN_WHITNEY,
        "seeds_to_separate": comparison.needed,
    }
