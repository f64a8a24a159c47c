"""The evaluation of a run, written into its directory and printed: a table for each noise, and the verdict."""

from dataclasses import replace
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from ensemble.closed_loop.report import Evaluation, sheets, to_csv, to_markdown
from ensemble.reporting.narrow import Extent, extent, fit, new_table
from ensemble.reporting.sheets import Sheet
from ensemble.reporting.tables import Column
from ensemble.store import write_text
from ensemble.text import plural

# The first to go where a terminal is narrow, by header and key; the others are the answer.
_DISPENSABLE = (
    ("ms a chunk", "chunk_seconds"),
    ("length", "episode_length"),
    ("95 % interval", "cart_velocity_std"),
    ("converge step", "converge_step"),
    ("success", "success"),
    ("95 % interval", "converge_rate"),
    ("velocity std [m/s]", "cart_velocity_std"),
    ("n", "n"),
    ("replan", "replan"),
)
_STYLES = {"baseline": "dim", "published": "italic", "ensemble": ""}


def write_evaluation(found: Evaluation, figures: bool = True) -> Evaluation:
    """Write `evaluation.md`, `evaluation.csv` and the figure beside the rows; return it with its figure."""
    if figures:
        from ensemble.closed_loop.figure import draw_evaluation

        found = replace(found, figures=(draw_evaluation(found),))
    write_text(found.path / "evaluation.md", to_markdown(found))
    write_text(found.path / "evaluation.csv", to_csv(found))
    return found


def render_evaluation(found: Evaluation, console: Console) -> None:
    """Print the tables, then what follows from them."""
    episodes = f"{plural(found.episodes, 'episode')} of seed {found.episode_seed}"
    for sheet in sheets(found):
        console.print(_to_rich(sheet, f"{found.name}, {sheet.title.lower()}, {episodes}", console.width))
    for line in (*found.words, *found.hidden):
        console.print(Text(line))
    console.print(
        Text(f"report: {found.path / 'evaluation.md'} (and evaluation.csv, evaluation.parquet)"), soft_wrap=True
    )


def _to_rich(sheet: Sheet, title: str, width: int) -> RichTable:
    shown, columns = new_table(title), _fit(sheet, width)
    for column, size in columns.items():
        name = column is sheet.columns[0]
        justify: Literal["left", "right"] = "left" if name else "right"
        shown.add_column(escape(column.header), justify=justify, no_wrap=not name, overflow="fold", width=size)
    for row, after in zip(sheet.rows, [*sheet.rows[1:], None], strict=True):
        cells = (Text(column.format(row.get(column.key))) for column in columns)
        ends = after is not None and after["replan"] != row["replan"]
        shown.add_row(*cells, style=_STYLES.get(row["kind"], "bold"), end_section=ends)
    lacking = [column.header for column in sheet.columns if column not in columns]
    if lacking:
        shown.caption = escape(f"in evaluation.md: {', '.join(lacking)}")
    return shown


def _fit(sheet: Sheet, width: int) -> dict[Column, int]:
    """Return the columns that fit, each with its width; the first may take two lines."""
    extents = {c: extent([c.header], [c.format(row.get(c.key)) for row in sheet.rows]) for c in sheet.columns}
    name = sheet.columns[0]
    longest = extents[name].longest
    extents[name] = Extent(longest, min(longest, max(16, longest // 2)))
    order = (c for header, key in _DISPENSABLE for c in sheet.columns if (c.header, c.key) == (header, key))
    return fit(extents, name, order, width)
