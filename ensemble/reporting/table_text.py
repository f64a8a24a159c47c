"""Tables as text: Markdown, CSV and a terminal's, of the same rows and columns."""

import csv
import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from ensemble.reporting.narrow import Extent, extent, fit, new_table
from ensemble.reporting.tables import Column, Table
from ensemble.text import plural

# Headers of the first to go where a terminal is narrow; configuration and mean stay. An interval outlives the status,
# which says no more than `n ok/planned` of who has completed.
_FIRST_TO_GO = ("parameters", "best seed", "time", "x better", "status", "95 % interval", "n ok/planned", "role")
_STATISTICS = ("mean", "std", "ci_low", "ci_high", "ci_method", "median", "min", "max")
_CSV_KEYS = ("experiment", "configuration", "config_hash", "role", "metric", "n_planned", "n_ok", *_STATISTICS)
_CSV_TAIL = ("best_seed", "parameters", "seconds", "x_better", "status")


def to_markdown(table: Table) -> str:
    """Render as a Markdown table; the columns after the first are aligned to the right."""
    return markdown_table([column.header for column in table.columns], table.cells())


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay cells out as Markdown; the columns after the first are aligned to the right, the last to the left."""
    rule = [":--", *("--:" for _ in headers[1:-1]), ":--"]
    lines = [headers, rule, *([escape_cell(cell) for cell in cells] for cells in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def to_csv(table: Table) -> str:
    """Render as CSV: one number a column in full precision, every searched hyperparameter a column, empty for none."""
    keys = (*_CSV_KEYS, *table.extra, *(key for key in table.searched if key not in _CSV_TAIL), *_CSV_TAIL)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    for row in table.rows:
        numbers = {name: getattr(row["statistics"], name) for name in _STATISTICS}
        cells = {**row, **numbers, "configuration": row["label"]}
        writer.writerow([csv_cell(cells.get(key)) for key in keys])
    return out.getvalue()


def to_rich(table: Table, title: str, width: int = 160, most: int = 30) -> RichTable:
    """Render for a terminal of `width` characters; what had no room, columns or rows, is named in the caption."""
    shown, columns = new_table(title), fit_columns(table, width)
    texts = (table.columns[0], table.columns[-1])
    for column, size in columns.items():
        justify: Literal["left", "right"] = "left" if column in texts else "right"
        header = escape("\n".join(_header_lines(column.header)))
        wraps = column in texts
        shown.add_column(header, justify=justify, no_wrap=not wraps, overflow="fold", vertical="top", width=size)
    kept = [i for i, row in enumerate(table.rows) if i < most or row["kind"] == "baseline"]
    for row in (table.rows[i] for i in kept):
        style = "dim" if row["kind"] == "baseline" else "bold" if row is table.best else ""
        shown.add_row(*(Text(column.format(row.get(column.key))) for column in columns), style=style)
    lacking = [column.header for column in table.columns if column not in columns]
    if len(kept) < len(table.rows):
        lacking.append(plural(len(table.rows) - len(kept), "more configuration"))
    if lacking:
        shown.caption = escape(f"in report.csv: {', '.join(lacking)}")
    return shown


def fit_columns(table: Table, width: int) -> dict[Column, int]:
    """Return the columns that fit into `width` characters, each with its width.

    The first column may take three lines; the last, which is text as well, a line a word.
    """
    columns = table.columns
    cells = {c: [c.format(row.get(c.key)) for row in table.rows] for c in columns}
    extents = {c: extent(_header_lines(c.header), cells[c]) for c in columns}
    longest = extents[columns[0]].longest
    extents[columns[0]] = Extent(longest, max(len(columns[0].header), -(-longest // 3)))
    words = [columns[-1].header, *(word for text in cells[columns[-1]] for word in text.split())]
    extents[columns[-1]] = extents[columns[-1]]._replace(least=max(map(len, words)))
    order = (c for header in _FIRST_TO_GO for c in columns if c.header == header)
    return fit(extents, columns[0], order, width)


def _header_lines(header: str) -> tuple[str, ...]:
    """Break a header before its last word, so that it is no wider than the numbers below it."""
    first, _, last = header.rpartition(" ")
    return (first, last) if first and first != "mean ±" else (header,)


def csv_cell(value: object) -> str:
    """Return a value in full precision, empty for none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def escape_cell(cell: str) -> str:
    """Return a text that cannot break out of a Markdown table."""
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
