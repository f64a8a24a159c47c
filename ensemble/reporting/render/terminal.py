"""A table on a terminal of any width: which of its columns have room, and how wide each is.

What names a row always stays. Of the others those of the least priority go, and the caption says which they are.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from ensemble.reporting.table import ALWAYS, Column, Table, TableRow
from ensemble.text import plural

_BETWEEN = 3  # characters from one column to the next
_SHORTEST = 8  # characters of the column that names a row, where nothing else is left to give way
_MOST = 30  # rows
_STYLES = {"baseline": "dim", "published": "italic"}  # by kind of row


class Extent(NamedTuple):
    """How wide a column is with its texts on one line each, and at least, when they are broken."""

    longest: int
    least: int


def render_table(table: Table, title: str, width: int, elsewhere: str, most: int = _MOST) -> RichTable:
    """Return a table of `width` characters; what had no room, columns or rows, the caption finds in `elsewhere`."""
    # Rows, and the columns that have room for them
    rows = [row for i, row in enumerate(table.rows) if i < most or row.get("kind") == "baseline"]
    columns = fit_columns(table, rows, width)
    rows = [row for row in rows if row.get("kind") != "baseline" or _says_something(row, list(columns))]

    # Columns
    shown = RichTable(
        title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left"
    )
    for column, size in columns.items():
        header = escape("\n".join(_header_lines(column, rows)))
        shown.add_column(header, justify=column.align, no_wrap=column.lines == 1, overflow="fold", width=size)

    # Cells
    for row, following in zip_longest(rows, rows[1:]):
        style = "bold" if row.get("highlight") else _STYLES.get(row.get("kind", ""), "")
        ends = following is not None and row.get(table.ruled_by) != following.get(table.ruled_by)
        shown.add_row(*(Text(column.text(row)) for column in columns), style=style, end_section=ends)

    # Caption
    lacking = [column.header for column in table.columns if column not in columns]
    hidden = sum(row.get("kind") != "baseline" for row in table.rows[most:])
    if hidden:
        lacking.append(plural(hidden, "more configuration"))
    if lacking:
        shown.caption = escape(f"in {elsewhere}: {', '.join(lacking)}")
    return shown


def fit_columns(table: Table, rows: Sequence[TableRow], width: int) -> dict[Column, int]:
    """Return the columns that fit into `width` characters, each with its width.

    Columns of the least priority go until the others fit. Room that is left lengthens what could be broken, the name
    of a row first; where even then there is too little, the name is shortened.
    """
    kept = {column: _extent(column, rows) for column in table.columns}
    for column in sorted(table.columns, key=lambda each: each.priority):
        if _whole(kept) <= width or column.priority == ALWAYS:
            break
        del kept[column]
    name = next((column for column in kept if column.priority == ALWAYS and column.lines > 1), table.columns[0])
    # Room that is left, to the name first
    room = width - _whole(kept)
    widths = {column: extent.least for column, extent in kept.items()}
    for column in sorted(widths, key=lambda each: each != name):
        more = min(max(room, 0), kept[column].longest - kept[column].least)
        widths[column] += more
        room -= more
    widths[name] = min(widths[name], max(_SHORTEST, widths[name] + room))
    return widths


def _whole(extents: Mapping[Column, Extent]) -> int:
    return sum(each.least + _BETWEEN for each in extents.values()) - 1


def _extent(column: Column, rows: Sequence[TableRow]) -> Extent:
    """Measure a column; a text that may be broken needs room for its longest word, and for its share of the lines."""
    header = max(map(len, _header_lines(column, rows)))
    texts = [column.text(row) for row in rows]
    longest = max([header, *map(len, texts)])
    if column.lines == 1:
        return Extent(longest, longest)
    word = max((len(word) for text in texts for word in text.split()), default=0)
    return Extent(longest, max(header, word, math.ceil(longest / column.lines)))


def _header_lines(column: Column, rows: Sequence[TableRow]) -> tuple[str, ...]:
    """Break a header before its last word where it is wider than the cells below; what ± joins stays together."""
    words = re.fullmatch(r"(.+)(?<!±) (?!±)(.+)", column.header)
    if words is None or len(column.header) <= max((len(column.text(row)) for row in rows), default=0):
        return (column.header,)
    return words.groups()


def _says_something(row: TableRow, columns: Sequence[Column]) -> bool:
    """Tell whether a baseline has a number in one of the columns that had room."""
    return any(column.text(row) not in ("", "-") for column in columns if column.lines == 1)
