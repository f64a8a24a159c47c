"""Rows as CSV: one value a cell in full precision, empty for none."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def render_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a CSV file with the columns `names`; what a row lacks stays empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return out.getvalue()


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)
