"""The `report` of run directories: read the Parquet, write summary, tables, page and figures, print, say what failed.

Generating it twice gives the same bytes: no time, no host and no path is written.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ensemble.errors import NothingFinishedError, UsageError
from ensemble.reporting.contents import Picture, Report, compose, smallest_rate
from ensemble.reporting.groups import summary_table
from ensemble.reporting.number_format import setting
from ensemble.reporting.render.html import render_html
from ensemble.reporting.render.latex import render_latex
from ensemble.reporting.render.markdown import render_markdown
from ensemble.reporting.render.terminal import render_findings, render_leaderboard
from ensemble.reporting.run import read_run
from ensemble.reporting.table_text import to_csv, to_rich
from ensemble.reporting.tables import Table, join_tables
from ensemble.store import write_table, write_text
from ensemble.text import plural

_FAILURES = 10  # printed to a terminal


def write_report(run: Path, metric: str | None = None, figures: bool = True) -> Report:
    """Write `summary.parquet`, `report.md`, `.html`, `.csv`, `.tex` and `figures/` of a run directory.

    After a search `comparisons.csv` as well.

    `metric` is any metric column, by default test/rollout_rmse, else test/loss. UsageError for a metric or directory
    that does not exist, StorageError for a damaged file. A run where nothing completed is written as well: see
    `require_finished`.
    """
    report = compose(read_run(run), metric)
    if figures:
        report = replace(report, pictures=_draw(report))
    write_table(report.run.directory.summary_file, summary_table(report.run))
    write_text(run / "report.csv", to_csv(report.table))
    write_text(run / "report.md", render_markdown(report))
    write_text(run / "report.html", render_html(report))
    write_text(run / "report.tex", render_latex(report))
    if report.findings is not None:
        write_text(run / "comparisons.csv", report.findings.comparisons)
    return report


def render_terminal(report: Report, console: Console) -> None:
    """Print the table of a run, and beneath it who failed, where their logs lie and which seeds are missing."""
    search = report.run.search
    if report.findings is None or (search is not None and search.compares_all):
        unfinished = " (not finished)" if search is not None and search.unfinished else ""
        console.print(to_rich(report.table, f"{report.run.name}, by {report.metric}{unfinished}", console.width))
    else:
        render_leaderboard(report.findings, report.run.name, console)
    if report.findings is not None:
        render_findings(report.findings, console)
    for failure in report.failures[:_FAILURES]:
        console.print(
            Text(f"{failure.label}, seed {failure.seed} {failure.status}: {failure.error.splitlines()[0]}", "red")
        )
        console.print(Text(f"  log: {report.run.path / failure.log}"), soft_wrap=True)
    if len(report.failures) > _FAILURES:
        console.print(Text(f".. and {len(report.failures) - _FAILURES} more in report.md", "red"))
    most = len(report.missing) if report.findings is None else _FAILURES
    for line in report.missing[:most]:
        console.print(Text(line, "yellow"))
    if len(report.missing) > most:
        console.print(Text(f".. and {len(report.missing) - most} more in report.md", "yellow"))
    page = report.run.path / "report.html"
    files = "report.md, report.csv" if report.findings is None else "report.md, .csv, .tex, comparisons.csv"
    extra = f" (and {files}, {plural(len(report.pictures), 'figure')})"
    console.print(Text(f"report: {page}{extra}"), soft_wrap=True)


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
    return join_tables([report.table for report in reports], reports[0].run.mode(metrics[0]))


def show(runs: Sequence[Path], console: Console, metric: str | None = None, figures: bool = True) -> list[Report]:
    """Do what `ensemble report RUN..` does: write and print each report, and one joint table of several runs.

    Raises NothingFinishedError after all is printed.
    """
    reports = [write_report(run, metric, figures) for run in runs]
    for report in reports:
        render_terminal(report, console)
    if len(reports) > 1:
        title = f"all {len(reports)} runs, by {reports[0].metric}"
        console.print(to_rich(joint_table(reports), title, console.width))
        if len({m["data_fingerprint"] for report in reports for m in report.run.members}) > 1:
            console.print(Text("these runs were trained on different data: their errors do not compare", "yellow"))
    require_finished(reports)
    return reports


def _draw(report: Report) -> tuple[Picture, ...]:
    """Draw the figures; matplotlib is loaded here and nowhere else."""
    from ensemble.reporting.figures.curves import draw_figures

    return draw_figures(report)
