"""The report of closed loops laid out: a table for each noise, `evaluation.md`, `evaluation.csv`, and on a terminal."""

import math
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from ensemble.closed_loop.report import Evaluation
from ensemble.closed_loop.statistics import METRICS, Measured
from ensemble.lock import held
from ensemble.reporting.number_format import interval, number, plus_minus, setting
from ensemble.reporting.render.csv import render_csv
from ensemble.reporting.render.templates import markdown_table
from ensemble.reporting.render.terminal import render_table
from ensemble.reporting.table import Column, Table, TableRow, filled_columns
from ensemble.run_directory import RunDirectory
from ensemble.store import write_text
from ensemble.text import plural

_CSV_TAILS = ("", "_std", "_ci_low", "_ci_high", "_ci_method", "_episode_error")  # of the columns of a metric


def write_evaluation(found: Evaluation, figures: bool = True) -> Evaluation:
    """Write `evaluation.md`, `evaluation.csv` and the figure next to the rows; return it with its figure.

    Where there is a table of other episodes already, another seed's or another number's, they get a name of their own.
    """
    run = RunDirectory(found.path)
    with held(run.path / ".evaluation.lock"):  # figure and tables are of the same rows
        name = report_name(found)
        if figures:
            from ensemble.closed_loop.figure import draw_evaluation

            found = replace(found, figures=(draw_evaluation(found, name.replace("evaluation", "closed_loop")),))
        write_text(run.evaluation_report("md", name), to_markdown(found))
        write_text(run.evaluation_report("csv", name), to_csv(found))
    return found


def report_name(found: Evaluation) -> str:
    """Return the name of the report's files: `evaluation`, or with the episodes where that one has others."""
    first = RunDirectory(found.path).evaluation_report("md")
    if not first.is_file() or _episodes(found) in first.read_text(encoding="utf-8", errors="replace").splitlines():
        return first.stem
    return f"{first.stem}_{found.episodes}_of_seed_{found.episode_seed}"


def _episodes(found: Evaluation) -> str:
    """Return the line of the report that names its episodes."""
    return f"{plural(found.episodes, 'episode')} of seed {found.episode_seed}, the same for every controller."


def render_evaluation(found: Evaluation, console: Console) -> None:
    """Print the tables, then what follows from them."""
    episodes = f"{plural(found.episodes, 'episode')} of seed {found.episode_seed}"
    report = RunDirectory(found.path).evaluation_report("md", report_name(found))
    for table in tables(found):
        title = f"{found.name}, {table.title.lower()}, {episodes}"
        console.print(render_table(table, title, console.width, report.name, len(table.rows)))
    console.print(Text(CAPTION))
    for line in (*found.words, *found.hidden):
        console.print(Text(line))
    console.print(Text(f"report: {report} (and {report.stem}.csv, evaluation.parquet)"), soft_wrap=True)


def mean_and_error(found: Measured | None) -> str:
    """Write mean ± std over members (error over episodes): `0.933 ± 0.054 (0.014)`."""
    if found is None:
        return "-"
    text = plus_minus(found.found.mean, found.found.std)
    return text if math.isnan(found.error) or text == "-" else f"{text} ({number(found.error, 2)})"


def rate(found: Measured | None) -> str:
    """Write a rate with three decimals throughout: `0.933 ± 0.054 (0.014)`, `1.000 ± 0.000 (0)`."""
    if found is None or not found.found.n:
        return "-"
    text = f"{found.found.mean:.3f}" + ("" if math.isnan(found.found.std) else f" ± {found.found.std:.3f}")
    return text if math.isnan(found.error) else f"{text} ({f'{found.error:.3f}' if found.error else '0'})"


def _rate_interval(found: Measured | None) -> str:
    if found is None or math.isnan(found.found.ci_low):
        return "-"
    low, high = max(found.found.ci_low, 0.0), min(found.found.ci_high, 1.0)  # of a rate: there is nothing beyond
    return f"[{low:.3f}, {high:.3f}] {_OVER.get(found.found.ci_method, found.found.ci_method)}"


def _interval(found: Measured | None) -> str:
    if found is None or math.isnan(found.found.ci_low):
        return "-"
    s = found.found
    spread = found.error if math.isnan(s.std) else s.std  # of one controller the episodes' alone
    return interval(s.ci_low, s.ci_high, s.mean, spread, _OVER.get(s.ci_method, s.ci_method))


_OVER = {"members and starts": "m,s", "starts": "s", "members": "m", "t": "m"}  # as CAPTION explains them
CAPTION = "95 % intervals cover the drawing of other members (m), other starts (s) or both (m,s)."


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else number(1e3 * seconds, 2)


# Where a terminal is narrow the rates stay: they are the answer.
COLUMNS: tuple[Column, ...] = (
    Column("controller", "label", str, "left", lines=2),
    Column("replan", "replan", priority=9),
    Column("n", "n", priority=8),
    Column("success", "success", rate, priority=5),
    Column("converge rate", "converge_rate", rate),
    Column("95 % interval", "converge_rate", _rate_interval, priority=6),
    Column("converge step", "converge_step", mean_and_error, priority=4),
    Column("velocity std [m/s]", "cart_velocity_std", mean_and_error, priority=7),
    Column("95 % interval", "cart_velocity_std", _interval, priority=3),
    Column("length", "episode_length", mean_and_error, priority=2),
    Column("ms a chunk", "chunk_seconds", _milliseconds, priority=1),
)

READING = (
    "mean ± std over the n members of a configuration (n - 1); in brackets the sampling error of that mean had other "
    "episodes been drawn, all members meeting the same ones.",
    f"{CAPTION} Of a configuration it is both: members and starts are crossed random effects, with Satterthwaite's "
    "degrees of freedom (Searle, Casella and McCulloch 1992), for a rate Wilson's interval of as many trials as have "
    "that variance (Franco et al. 2019). One controller has its starts alone, published figures their members alone "
    "(Student's t, a rate cut at 0 and 1).",
    "success: all 100 steps without a fall. Converged: |theta| < 0.02 rad over 10 steps in a row; converge step: the "
    "first of them, over the episodes that converged. velocity std: of the cart, over all steps; lower is smoother, "
    "but an episode that ends early by a fall is also slow.",
    "A rate with the error (0) came out alike in all N episodes: up to about 3/N either way is possible all the same.",
    "mean of chunks, nearest to the median: all members act as one controller. expert and zero control are baselines, "
    "asked at each step.",
    "ms a chunk: time of the policy divided by the chunks it gave, all members and episodes in one batch; a share, not "
    "the delay of a single answer.",
)


def tables(found: Evaluation) -> list[Table]:
    """Lay the lines out, a table for each noise; columns that no line fills are left out."""
    columns = filled_columns(COLUMNS, found.lines)
    laid = []
    for noise in found.noises:
        rows = tuple(line for line in found.lines if line["noise"] == noise)
        name = setting(noise)
        laid.append(Table(f"noise_{name}", f"Action noise {name}", columns, rows, ruled_by="replan"))
    return laid


def to_markdown(found: Evaluation) -> str:
    """Return `evaluation.md`; nothing in it depends on when or where it was made."""
    parts = [f"# Closed loop: {found.name}\n"]
    parts.append(f"{_episodes(found)}\n")
    parts += ["## Verdict\n", "".join(f"- {line}\n" for line in found.words)] if found.words else []
    for table in tables(found):
        parts += [f"## {table.title}\n", markdown_table(table)]
    parts += [f"![Converge rate and velocity]({figure.as_posix()})\n" for figure in found.figures]
    parts += [
        "## How to read it\n",
        "".join(f"- {line}\n" for line in (*READING, *published_sources(found), *found.hidden)),
    ]
    return "\n".join(parts)


def published_sources(found: Evaluation) -> list[str]:
    """Say where published lines come from."""
    named = {line["source"]: None for line in found.lines if line["kind"] == "published" and line.get("source")}
    return [f"published: {source}" for source in named if source != "as above"]


def to_csv(found: Evaluation) -> str:
    """Return every line in full precision, with deviation, interval and error over episodes of every metric."""
    keys = ("label", "kind", "config_hash", "family", "noise", "replan", "episodes", "episode_seed", "n")
    names = (*keys, *(f"{metric}{tail}" for metric in METRICS for tail in _CSV_TAILS), "chunk_seconds", "source")
    return render_csv(names, map(_csv_row, found.lines))


def _csv_row(line: TableRow) -> TableRow:
    row = {**line, **dict.fromkeys(METRICS)}
    for metric in METRICS:
        found: Measured | None = line.get(metric)
        if found is not None:
            s = found.found
            values = (s.mean, s.std, s.ci_low, s.ci_high, s.ci_method, found.error)
            row |= {f"{metric}{tail}": value for tail, value in zip(_CSV_TAILS, values, strict=True)}
    return row
