"""A table on a terminal of any width: which of its columns have room, and how wide each is.

What names a row always stays. Other columns go, in an order that the table gives, and the caption says which they are.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from ensemble.reporting.tables import Column

_BETWEEN = 3  # characters from one column to the next
_SHORTEST = 8  # characters of the column that names a row, where nothing else is left to give way


class Extent(NamedTuple):
    """How wide a column is with its texts on one line each, and at least, when they are broken."""

    longest: int
    least: int


def extent(header: Iterable[str], cells: Iterable[str]) -> Extent:
    """Measure a column whose texts are not broken; `header` are its header's lines."""
    longest = max(map(len, (*header, *cells)))
    return Extent(longest, longest)


def fit(extents: Mapping[Column, Extent], name: Column, first_to_go: Iterable[Column], width: int) -> dict[Column, int]:
    """Return the columns that fit into `width` characters, each with its width; `name` is what names a row.

    Columns go in the order of `first_to_go` until the others fit. Room that is left lengthens what could be broken,
    the name first; where even then there is too little, the name is shortened.
    """
    kept = dict(extents)
    for column in first_to_go:
        if _whole(kept) <= width:
            break
        kept.pop(column, None)
    room = width - _whole(kept)
    widths = {column: each.least for column, each in kept.items()}
    for column in sorted(kept, key=lambda each: each != name):
        more = min(max(room, 0), kept[column].longest - kept[column].least)
        widths[column] += more
        room -= more
    widths[name] = min(widths[name], max(_SHORTEST, widths[name] + room))
    return widths


def _whole(columns: Mapping[Column, Extent]) -> int:
    return sum(each.least + _BETWEEN for each in columns.values()) - 1


def new_table(title: str) -> Table:
    """Return an empty table in the style of all; brackets in its title are no markup."""
    return Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
