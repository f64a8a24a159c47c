"""A sheet: one table of a search's report, rendered alike by page, Markdown, LaTeX, CSV and terminal.

`leaderboard`, `versus`, `optimism`, `ledger` and `importance` lay them out. Columns are those of `tables`:
`(header, key, format)`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ensemble.reporting.comparison import Improvement, Paired
from ensemble.reporting.number_format import interval, number, plus_minus
from ensemble.reporting.statistics import Statistics
from ensemble.reporting.table_text import escape_cell, markdown_table
from ensemble.reporting.tables import Column, Row

_COUNTED = r"completed|None|baseline|\d+ (pruned|diverged|failed)(, \d+ (pruned|diverged|failed))*"


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows in the order they are shown, under a title and above some notes."""

    key: str  # names it in files
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    most: int = 20  # rows shown at once; the others are folded
    folded: bool = False  # the whole sheet

    @property
    def shown(self) -> tuple[Row, ...]:
        """The first rows, and what they have to beat."""
        kept = [row for i, row in enumerate(self.rows) if i < self.most or row.get("kind") == "baseline"]
        return tuple(kept)

    @property
    def rest(self) -> tuple[Row, ...]:
        """The rows that are folded."""
        return tuple(row for row in self.rows[self.most :] if row.get("kind") != "baseline")

    @property
    def visible_columns(self) -> tuple[Column, ...]:
        """The columns beside which the counts stand: without a status that says no more than they do."""
        counted = any(column.key == "n_pruned" for column in self.columns)
        status = {str(row.get(c.key)) for c in self.columns if c.header == "status" for row in self.rows}
        more = any(not re.fullmatch(_COUNTED, text) for text in status)
        return tuple(c for c in self.columns if c.header != "status" or more or not counted)

    def texts(self, rows: Sequence[Row]) -> list[list[str]]:
        """Return the text of every cell of some rows, in the columns `told`."""
        return [[column.format(row.get(column.key)) for column in self.visible_columns] for row in rows]


def sheet_markdown(sheet: Sheet) -> str:
    """Render the rows that are shown, with how many more there are and where."""
    text = markdown_table([column.header for column in sheet.visible_columns], sheet.texts(sheet.shown))
    more = f"\n.. and {len(sheet.rest)} more in `report.csv` and on the page.\n" if sheet.rest else ""
    notes = "".join(f"\n{escape_cell(note)}\n" for note in sheet.notes)
    return f"{text}{more}{notes}"


def sort_value(value: Any) -> str:
    """Return what a cell sorts by; empty sorts last."""
    if isinstance(value, tuple):
        value = value[0]
    if isinstance(value, Statistics):
        value = value.mean
    if isinstance(value, Paired):
        value = value.found.mean
    if isinstance(value, Improvement):
        value = value.value
    return "" if value is None or value != value else str(value)


def spread_text(found: Statistics | None) -> str:
    """Write mean ± std."""
    return "-" if found is None else plus_minus(found.mean, found.std)


def interval_text(found: Statistics | None) -> str:
    """Write the interval of a mean, and its method."""
    if found is None:
        return "-"
    return interval(found.ci_low, found.ci_high, found.mean, found.std, found.ci_method)


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


def number_text(value: float | None) -> str:
    """Write a number with three digits."""
    return number(value, 3)


def plain_text(value: object) -> str:
    """Write a count or a word."""
    return "-" if value is None else str(value)
