"""The `report` of run directories: read the Parquet, write summary, tables, page and figures, print, say what failed.

Generating it twice gives the same bytes: no time, no host and no path is written.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ensemble.errors import NothingFinishedError, UsageError
from ensemble.lock import held
from ensemble.reporting.contents import Picture, Report, compose_report, smallest_rate
from ensemble.reporting.groups import summary_table
from ensemble.reporting.number_format import setting
from ensemble.reporting.render.templates import render_html, render_latex, render_markdown
from ensemble.reporting.render.terminal import render_table
from ensemble.reporting.results import join_tables, results_csv
from ensemble.reporting.run import read_run
from ensemble.reporting.search_report import SearchReport
from ensemble.reporting.table import Table
from ensemble.store import write_table, write_text
from ensemble.text import command, plural

_FAILURES = 10  # printed to a terminal
_CONFIGURATIONS = 10  # of a search, where there are no finalists
_FORMATS: dict[str, Callable[[Report], str]] = {"md": render_markdown, "html": render_html, "tex": render_latex}


def write_report(run: Path, metric: str | None = None, figures: bool = True) -> Report:
    """Write `summary.parquet`, `report.md`, `.html`, `.csv`, `.tex` and `figures/` of a run directory.

    After a search `comparisons.csv` as well.

    `metric` is any metric column, by default test/rollout_rmse, else test/loss. UsageError for a metric or directory
    that does not exist, StorageError for a damaged file. A run where nothing completed is written as well: see
    `require_finished`.
    """
    report = compose_report(read_run(run), metric)
    directory = report.run.directory
    with held(run / ".report.lock"):  # page and figures are of the same rows
        if figures:
            report = replace(report, pictures=_draw(report))
        write_table(directory.summary_file, summary_table(report.run))
        write_text(directory.report_file("csv"), results_csv(report.run, report.table))
        for suffix, render in _FORMATS.items():
            write_text(directory.report_file(suffix), render(report))
        if report.findings is not None:
            write_text(directory.comparisons_file, report.findings.comparisons)
    return replace(report, written=True)


def render_terminal(report: Report, console: Console) -> None:
    """Print the table of a run, then the failures with their logs, and the seeds that are missing."""
    search, found = report.run.search, report.findings

    # Table, or what a search found
    if found is None or (search is not None and search.compares_all):
        unfinished = " (not finished)" if search is not None and search.unfinished else ""
        console.print(render_table(report.table, f"{report.table.title}{unfinished}", console.width, "report.csv"))
    else:
        leaderboard, title = found.terminal_leaderboard, f"{report.run.name}: {found.leaderboard.title}"
        console.print(render_table(leaderboard, title, console.width, "report.html", _CONFIGURATIONS))
    if found is not None:
        _print_findings(found, console)

    # Members that did not finish
    for failure in report.failures[:_FAILURES]:
        console.print(Text(f"{failure.label}, seed {failure.seed} {failure.status}: {failure.first_line}", "red"))
        console.print(Text(f"  log: {report.run.path / failure.log}"), soft_wrap=True)
    _print_more(len(report.failures) - _FAILURES, "red", console)
    most = len(report.missing) if found is None else _FAILURES
    _print_lines(report.missing[:most], console, "yellow")
    _print_more(len(report.missing) - most, "yellow", console)

    _print_lines(report.doubts, console, "yellow")

    # Files
    page = report.run.directory.report_file("html")
    files = "report.md, report.csv" if found is None else "report.md, .csv, .tex, comparisons.csv"
    extra = f" (and {files}, {plural(len(report.pictures), 'figure')})"
    text = f"report: {page}{extra}" if report.written else _unwritten_text(report, page)
    console.print(Text(text), soft_wrap=True)


def _unwritten_text(report: Report, page: Path) -> str:
    again = command("ensemble", "report", report.run.path)
    if not os.access(report.run.path, os.W_OK):
        return f"report: printed only; {report.run.path} is read-only"
    return (
        f"report: printed only; {page} stays as it is"
        if page.exists()
        else f"report: printed only; `{again}` writes it"
    )


def _print_findings(found: SearchReport, console: Console) -> None:
    """Print the answer, the optimism of all finalists but the best, which the answer has, and the ledger."""
    _print_lines((line.replace("**", "") for line in found.answer), console)
    _print_lines((*found.optimisms[1:], f"ledger: {found.ledger}"), console)


def _print_lines(lines: Iterable[str], console: Console, style: str = "") -> None:
    for line in lines:
        console.print(Text(line, style))


def _print_more(count: int, style: str, console: Console) -> None:
    if count > 0:
        console.print(Text(f".. and {count} more in report.md", style))


def require_finished(reports: Sequence[Report]) -> None:
    """Raise NothingFinishedError where no member of any run completed, with the smallest learning rate tried."""
    if any(report.finished for report in reports):
        return
    rates = [rate for report in reports if (rate := smallest_rate(report.run)) is not None]
    tried = f"; smallest learning rate tried {setting(min(rates))}" if rates else ""
    raise NothingFinishedError(f"no member finished{tried}")


def joint_table(reports: Sequence[Report]) -> Table:
    """Lay several runs into one table; UsageError where they were not compared by one metric."""
    metrics = sorted({report.metric for report in reports})
    if len(metrics) > 1:
        raise UsageError(f"these runs have no common default metric ({', '.join(metrics)}); choose one with --metric")
    return join_tables([report.table for report in reports], metrics[0], reports[0].run.mode(metrics[0]))


def show(runs: Sequence[Path], console: Console, metric: str | None = None, figures: bool = True) -> list[Report]:
    """Do what `ensemble report RUN..` does: print each report, and one joint table of several runs.

    The page of a run is written for one run with its own metric and all figures; every other view is printed alone,
    so that it never replaces a page by a poorer one. So is a run that this user may not write. Raises
    NothingFinishedError after all is printed.
    """
    whole = len(runs) == 1 and metric is None and figures and (not runs[0].is_dir() or os.access(runs[0], os.W_OK))
    reports = [write_report(run) if whole else compose_report(read_run(run), metric) for run in runs]
    for report in reports:
        render_terminal(report, console)
    if len(reports) > 1:
        joint = joint_table(reports)
        console.print(render_table(joint, joint.title, console.width, "report.csv"))
        if len({m["data_fingerprint"] for report in reports for m in report.run.members}) > 1:
            console.print(Text("these runs were trained on different data: their errors do not compare", "yellow"))
    # Last: what failed has been printed by now.
    require_finished(reports)
    return reports


def _draw(report: Report) -> tuple[Picture, ...]:
    """Draw the figures; matplotlib is loaded here and nowhere else."""
    from ensemble.reporting.figures.draw import draw_figures

    return draw_figures(report)
