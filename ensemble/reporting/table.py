"""The one table of every report: columns, rows in their order, a title and notes; `render/` has a renderer a format.

A row is a dictionary, and a column shows one key of it. Two keys say how a row looks: `kind` (a `baseline` is never
folded) and `highlight` (it leads). A further column is one line, e.g. `Column("batch", "train.batch_size", setting)`.
Deliberately not here: which rows there are, and the CSV files, which hold every number in full precision.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ensemble.reporting.number_format import interval, number, plus_minus
from ensemble.reporting.statistics import Statistics

TableRow = dict[str, Any]
ALWAYS = 99  # priority of a column that every terminal shows


def plain_text(value: object) -> str:
    """Write a count or a word."""
    return "-" if value is None else str(value)


def number_text(value: float | None) -> str:
    """Write a number with three digits."""
    return number(value, 3)


def spread_text(found: Statistics | None) -> str:
    """Write mean ± std."""
    return "-" if found is None else plus_minus(found.mean, found.std)


def interval_text(found: Statistics | None) -> str:
    """Write the interval of a mean, and its method."""
    if found is None:
        return "-"
    return interval(found.ci_low, found.ci_high, found.mean, found.std, found.ci_method)


def share_text(value: tuple[int, int] | None) -> str:
    """Write how many of how many: `3/5`."""
    return "-" if value is None else f"{value[0]}/{value[1]}"


def sort_value(value: Any) -> Any:
    """Return what a cell sorts by: the mean of statistics, the first of several values."""
    if isinstance(value, tuple):
        return value[0]
    return value.mean if isinstance(value, Statistics) else value


def lower_bound(found: Statistics | None) -> float | None:
    """Return what the cell of an interval sorts by."""
    return None if found is None else found.ci_low


class Column(NamedTuple):
    """One column of a table."""

    header: str
    key: str  # of a row
    format: Callable[[Any], str] = plain_text
    align: Literal["left", "right"] = "right"
    priority: int = ALWAYS  # where a terminal is too narrow for all columns, the greatest stay
    lines: int = 1  # into which a terminal may break a text, between words
    sort: Callable[[Any], Any] = sort_value

    def text(self, row: TableRow) -> str:
        """Return the text of its cell in a row."""
        return self.format(row.get(self.key))

    def sort_key(self, row: TableRow) -> str:
        """Return what its cell in a row sorts by; empty sorts last."""
        value = self.sort(row.get(self.key))
        return "" if value is None or value != value else str(value)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in the order they are shown, under a title and above some notes."""

    key: str  # names it in files
    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()
    most: int | None = None  # rows shown at once, all by default; the others are folded
    folded: bool = False  # the whole table
    ruled_by: str = ""  # key of the rows: a terminal draws a rule where its value changes

    def is_folded(self, index: int) -> bool:
        """Tell whether a row is folded: it is beyond the first `most`, and no baseline."""
        return self.most is not None and index >= self.most and self.rows[index].get("kind") != "baseline"

    @property
    def shown(self) -> tuple[TableRow, ...]:
        """The rows that are shown at once: the first ones, and the baselines."""
        return tuple(row for index, row in enumerate(self.rows) if not self.is_folded(index))

    @property
    def rest(self) -> tuple[TableRow, ...]:
        """The rows that are folded."""
        return tuple(row for index, row in enumerate(self.rows) if self.is_folded(index))

    @property
    def highlighted(self) -> TableRow | None:
        """The row that leads; None where no row does."""
        return next((row for row in self.rows if row.get("highlight")), None)

    def cells(self, rows: Sequence[TableRow]) -> list[list[str]]:
        """Return the text of every cell of some rows."""
        return [[column.text(row) for column in self.columns] for row in rows]


def filled_columns(
    columns: Sequence[Column], rows: Sequence[TableRow], keep: Container[str] = ()
) -> tuple[Column, ...]:
    """Leave out the columns that no row fills, but for those of the keys in `keep`."""

    def is_filled(column: Column) -> bool:
        return any(column.text(row) not in ("", "-") for row in rows)

    return tuple(column for column in columns if column.key in keep or is_filled(column))
