"""A search on a terminal: the leaderboard, the answer, the optimism and the ledger in a line each."""

from collections.abc import Sequence
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from ensemble.reporting.findings import Findings
from ensemble.reporting.narrow import Extent, extent, fit, new_table
from ensemble.reporting.number_format import setting
from ensemble.reporting.sheets import Sheet
from ensemble.reporting.tables import Column, Row
from ensemble.text import plural

_ROWS = 10  # configurations where there are no finalists
_SETTINGS = 24  # characters, at least, of the column that says what a configuration is
_MARK, _NAME = Column("", "number", str), Column("configuration", "label", str)
_COUNTED = ("n_planned", "n_pruned", "n_diverged", "n_failed")  # in `ok/planned` and in the status
# The first to go where a terminal is narrow.
_DISPENSABLE = (
    "parameters",
    "seconds",
    "best_seed",
    "x_better",
    "statistics",
    "stopped",
    "search_statistics",
)


def render_leaderboard(found: Findings, name: str, console: Console) -> None:
    """Print the leaderboard of finalists, or of the best ten configurations."""
    console.print(_to_rich(found.leaderboard, f"{name}: {found.leaderboard.title}", console.width))


def render_findings(found: Findings, console: Console) -> None:
    """Print the answer, the optimism and the ledger."""
    for line in found.answer:
        console.print(Text(line.replace("**", "")))
    for line in found.optimisms[1:]:
        console.print(Text(line))
    console.print(Text(f"ledger: {found.ledger}"))


def _to_rich(sheet: Sheet, title: str, width: int) -> RichTable:
    shown, widths = new_table(title), _fit(sheet, width)
    columns = [column for column in widths if column not in (_MARK, _NAME)]
    shown.add_column("", no_wrap=True, width=widths[_MARK])
    for column in columns:
        justify: Literal["left", "right"] = "left" if column is sheet.columns[-1] else "right"
        shown.add_column(escape(_header(column)), justify=justify, no_wrap=True, width=widths[column])
    shown.add_column(_NAME.header, overflow="fold", width=widths[_NAME])
    beaten = any(column.key == "statistics" and "±" in column.header for column in columns)
    whole = [row for row in sheet.rows if row.get("kind") != "baseline"]
    rows = [*whole[:_ROWS], *(row for row in sheet.rows if row.get("kind") == "baseline" and beaten)]
    for i, row in enumerate(rows):
        style = "dim" if row.get("kind") == "baseline" else "bold" if i == 0 else ""
        mark, settings = _name(row)
        shown.add_row(Text(mark), *(Text(_cell(column, row)) for column in columns), Text(settings), style=style)
    lacking = [c.header for c in sheet.columns[1:] if c not in columns and c.key not in _COUNTED]
    if len(whole) > _ROWS:
        lacking.append(plural(len(whole) - _ROWS, "more configuration"))
    if lacking:
        shown.caption = escape(f"in report.html: {', '.join(lacking)}")
    return shown


def _fit(sheet: Sheet, width: int) -> dict[Column, int]:
    """Return the columns that fit between number and settings: all but the counts, and fewer the narrower it is."""
    columns = [column for column in sheet.columns[1:] if column.key not in _COUNTED]
    marks, settings = zip(*map(_name, sheet.rows), strict=True) if sheet.rows else ((), ())
    extents = {_MARK: extent([""], marks)}
    extents |= {c: extent([_header(c)], [_cell(c, row) for row in sheet.rows]) for c in columns}
    longest = extent([_NAME.header], settings).longest
    extents[_NAME] = Extent(longest, min(longest, _SETTINGS))
    return fit(extents, _NAME, _first_to_go(columns), width)


def _first_to_go(columns: Sequence[Column]) -> list[Column]:
    """Return the columns in the order in which they go; the mean by which the rows stand in order is none of them."""
    of_search = any(column.key == "search_statistics" for column in columns)
    mean = "search_statistics" if of_search else "statistics"
    others = [c for c in columns if c.key != mean or "interval" in c.header]
    named = [c for key in _DISPENSABLE for c in others if c.key == key]
    return [*named, *(c for c in reversed(others) if c not in named)]


def _header(column: Column) -> str:
    return "ok/planned" if column.key == "n_ok" else column.header


def _cell(column: Column, row: Row) -> str:
    if column.key == "n_ok" and row.get("n_planned") is not None:
        return f"{row['n_ok']}/{row['n_planned']}"
    return column.format(row.get(column.key))


def _name(row: Row) -> tuple[str, str]:
    """Part a label into number and settings; a baseline has only a name."""
    if row.get("number") is None:
        return "", str(row["label"])
    mark = f"#{setting(row['number'])}"
    return mark, str(row["label"]).removeprefix(mark).strip()
