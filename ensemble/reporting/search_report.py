"""What a search found, before it has a format: the answer in sentences, the tables, the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ensemble.reporting.groups import Group, rank_run, state_of
from ensemble.reporting.leaderboard import (
    finalists,
    leaderboard,
    pareto,
    pareto_front,
    terminal_leaderboard,
    without_counted_status,
)
from ensemble.reporting.ledger import (
    Optimism,
    importance_table,
    ledger_line,
    ledger_table,
    optimism_line,
    optimism_table,
    optimisms,
    search_overview,
)
from ensemble.reporting.number_format import interval, number, plus_minus
from ensemble.reporting.run import Run
from ensemble.reporting.search_run import Search
from ensemble.reporting.table import Table
from ensemble.reporting.versus import (
    Comparison,
    Versus,
    compare,
    comparisons_csv,
    describe_baseline,
    improvement_text,
    p_text,
    versus_table,
)
from ensemble.schema import Mode

_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class SearchReport:
    """All that is said about a search beyond the report of any run."""

    answer: tuple[str, ...]  # sentences; **bold** as in Markdown
    leaderboard: Table  # the finalists, or where there are none all configurations
    terminal_leaderboard: Table  # the same for a terminal
    tables: tuple[Table, ...]  # after the leaderboard, before the figures
    accounts: tuple[Table, ...]  # after the figures
    optimisms: tuple[str, ...]  # the optimism, one line a finalist
    ledger: str  # in one line
    comparisons: str  # csv
    overview: tuple[tuple[str, str], ...]  # how the search went
    best: str | None  # config_hash
    mark: str | None  # of the best: `#12`

    @property
    def all_tables(self) -> tuple[Table, ...]:
        """Every table in the order of the page."""
        return self.leaderboard, *self.tables, *self.accounts


def report_search(run: Run, search: Search, table: Table, metric: str) -> SearchReport:
    """Put together what the search of a run found, by `metric`; `table` holds the results of the run."""
    # Configurations by phase
    ranked = rank_run(run, metric)
    confirmed = [group for group in ranked if group.role == "finalist"]
    searched = [group for group in ranked if group.role == "search"]
    whole = [group for group in searched if state_of(group, search) in ("completed", "diverged", "failed")]

    # Comparisons, on fresh seeds and on those of the search
    fresh = compare(confirmed, search, metric, run.mode(metric))
    old = compare(whole, search, search.metric, search.mode)
    promised = optimisms(search, confirmed, {group.config_hash: group for group in searched})

    # Answer
    leading = [group for group in confirmed if group.counted(metric)]
    compared = metric if leading else search.metric
    leaders = leading or [group for group in whole if group.counted(compared)]
    mode = run.mode(compared) if leading else search.mode
    answer = _answer(search, leaders, compared, mode, fresh if leading else old, old, promised)
    if search.unfinished:
        answer = (f"**This search is {search.unfinished}.**", *answer)

    # Tables
    finals, configurations, ledger = finalists(table, metric), leaderboard(search, table, metric), ledger_table(run)
    labels = {row["config_hash"]: row["label"] for row in table.rows if row["kind"] == "configuration"}
    tables = (
        *(versus_table(each, search, folded=False) for each in fresh),
        optimism_table(search, promised),
        without_counted_status(configurations) if finals else None,
        *(versus_table(each, search, folded=finals is not None) for each in old),
        pareto(search, searched, labels),
    )
    leading_table = finals or configurations
    if search.unfinished:
        leading_table = replace(leading_table, title=f"{leading_table.title} (not finished)")
    return SearchReport(
        answer=answer,
        leaderboard=without_counted_status(leading_table),
        terminal_leaderboard=terminal_leaderboard(leading_table),
        tables=tuple(each for each in tables if each is not None),
        accounts=tuple(each for each in (importance_table(search), ledger) if each is not None),
        optimisms=tuple(optimism_line(search, each) for each in promised),
        ledger=ledger_line(ledger),
        comparisons=comparisons_csv([*fresh, *old], search),
        overview=search_overview(search),
        best=leaders[0].config_hash if leaders else None,
        mark=search.mark(leaders[0].config_hash) if leaders else None,
    )


def _answer(
    search: Search,
    leaders: Sequence[Group],
    metric: str,
    mode: Mode,
    found: Sequence[Versus],
    old: Sequence[Versus],
    promised: Sequence[Optimism],
) -> tuple[str, ...]:
    if not leaders:
        return ("**No configuration finished.**",)
    best = leaders[0]
    d = best.describe(metric)
    fresh = best.role == "finalist"
    seeds = f"{d.n} {'fresh ' if fresh else ''}seed{'s' if d.n > 1 else ''}{'' if fresh else ' of the search'}"
    span = "" if d.n < 2 else f", 95 % interval {interval(d.ci_low, d.ci_high, d.mean, d.std, d.ci_method)}"
    lines = [
        f"Best: **{search.label(best.config_hash)}**, **{plus_minus(d.mean, d.std)}** {metric} over {seeds}{span}."
    ]
    if best.status(metric) != "completed":
        lines.append(f"Of its {best.n_planned} seeds {best.status(metric)}.")
    if len(search.objectives) > 1:
        numbers = [f"#{number}" for number in pareto_front(search)[0]]
        front = ", ".join(numbers[:12]) + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")
        lines.append(f"Best by {metric} alone; with {', '.join([*search.objectives][1:])} the Pareto front is {front}.")
    over = next((versus for versus in found if versus.kind == "best"), None)
    if over is not None and over.comparisons:
        lines.append(_runner_up(over, over.comparisons[0], search, mode))
    lines.append(_baseline_sentence(best, found, old, search, mode))
    of_best = [each for each in promised if each.fresh is best]
    lines += [f"What the search promised, {optimism_line(search, each)}." for each in of_best]
    if not fresh:
        lines.append("No finalist was trained on fresh seeds: the best of many by its own seeds is flattered.")
    return tuple(line for line in lines if line)


def _runner_up(versus: Versus, second: Comparison, search: Search, mode: Mode) -> str:
    """Say how far the second is behind, and how sure that is."""
    name, best = search.mark(second.group.config_hash), search.mark(versus.reference.config_hash)
    d = second.found.found
    if d.n < 2:
        return f"The second, {name}, shares {d.n} seed with {best}: too few to compare."
    sure = second.p_holm < _LEVEL
    needed = second.needed
    count = "more than 1000" if needed is None else f"about {needed}"
    verdict = "The two are separated" if sure else "**The two are not separated**"
    seeds = f"{count} paired seeds are needed to tell them apart four times in five"
    return f"{_behind(name, second, mode)} {verdict}: {seeds} (power 0.8, level 0.05), {d.n} were trained."


def _behind(name: str, comparison: Comparison, mode: Mode) -> str:
    d = comparison.found.found
    worse = (d.mean > 0) == (mode == "min")
    return (
        f"Against the second, {name}: {name} is {'worse' if worse else 'better'} by {number(abs(d.mean), 3)} "
        f"(paired by {d.n} seeds, std {number(d.std, 2)}, 95 % interval "
        f"{interval(d.ci_low, d.ci_high, d.mean, d.std, d.ci_method)}, p {p_text(comparison.found.p)}, after Holm "
        f"{p_text(comparison.p_holm)}); a run of it is better with probability "
        f"{improvement_text(comparison.improvement)}."
    )


def _baseline_sentence(best: Group, found: Sequence[Versus], old: Sequence[Versus], search: Search, mode: Mode) -> str:
    """Say how far the best is ahead of the baseline configuration: on fresh seeds, or on those of the search."""
    for versus in (*found, *old):
        if versus.kind != "baseline":
            continue
        comparison = next((c for c in versus.comparisons if c.group.config_hash == best.config_hash), None)
        if comparison is None or comparison.found.found.n < 2:
            continue
        d = comparison.found.found
        ahead = (d.mean < 0) == (versus.mode == "min")
        where = "fresh seeds" if versus.role == "finalist" else "seeds of the search, which chose it"
        name = search.mark(versus.reference.config_hash)
        return (
            f"Against the baseline configuration, {name} ({describe_baseline(search)}): "
            f"{'better' if ahead else 'worse'} by {number(abs(d.mean), 3)} {versus.metric} (paired by {d.n} {where}; "
            f"std {number(d.std, 2)}, 95 % interval {interval(d.ci_low, d.ci_high, d.mean, d.std, d.ci_method)}, "
            f"p after Holm {p_text(comparison.p_holm)}); a run of it is better with probability "
            f"{improvement_text(comparison.improvement)}."
        )
    if search.trials_of(best.config_hash) and search.trials_of(best.config_hash)[0].number == 0:
        return f"The best is the baseline configuration itself ({describe_baseline(search)})."
    return (
        f"The baseline configuration, #0 ({describe_baseline(search)}), {_fate(search)}: there is nothing to compare."
    )


def _fate(search: Search) -> str:
    """Say how trial 0 ended."""
    first = next((trial for trial in search.trials if trial.number == 0), None)
    if first is None:
        return "has no row in trials.parquet"
    stopped = f"was stopped at step {search.stops[0]}" if 0 in search.stops else "was stopped early"
    fates = {"pruned": stopped, "running": "has not ended", "diverged": "diverged", "failed": "failed"}
    return fates.get(first.state, "shares fewer than two seeds with the best")
