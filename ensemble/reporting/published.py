"""Published figures of closed loops, from a CSV, to stand beside our own in a table.

Columns: `method, noise, replan, members, episodes` and for a metric `<metric>` and, where it is known, `<metric>_std`
over members; `source` says where they come from. Empty is unknown.
"""

import csv
import math
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from ensemble.errors import UsageError
from ensemble.reporting.episodes import LEVEL, METRICS, Measured, Setting
from ensemble.reporting.statistics import Statistics
from ensemble.reporting.tables import Row

_NAN = math.nan


def read_published(file: Path) -> dict[Setting, list[Row]]:
    """Read rows of a table, by setting; UsageError names file, line and column that cannot be read."""
    found: dict[Setting, list[Row]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            for line, cells in enumerate(csv.DictReader(stream), start=2):
                setting, row = _row(cells, f"{file}:{line}")
                found.setdefault(setting, []).append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from error
    if not found:
        raise UsageError(f"{file}: holds no row")
    return found


def _row(cells: dict[str, Any], where: str) -> tuple[Setting, Row]:
    members = int(_number(cells, "members", where))
    setting = Setting(_number(cells, "noise", where), int(_number(cells, "replan", where)))
    row: Row = {
        "kind": "published",
        "label": f"{cells.get('method', '')} (published)",
        "replan": setting.replan,
        "noise": setting.noise,
        "episodes": int(_number(cells, "episodes", where)),
        "n": members,
        "source": cells.get("source"),
    }
    for metric in METRICS:
        if cells.get(metric):
            std = _number(cells, f"{metric}_std", where) if cells.get(f"{metric}_std") else _NAN
            row[metric] = Measured(_statistics(_number(cells, metric, where), std, members), _NAN)
    return setting, row


def _number(cells: dict[str, Any], column: str, where: str) -> float:
    text = cells.get(column)
    try:
        value = float(text or "")
    except ValueError:
        raise UsageError(f"{where}: column {column}: {text!r} is no number") from None
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"{where}: column {column}: {text} is out of range")
    return value


def _statistics(mean: float, std: float, n: int) -> Statistics:
    """Describe what is known of n members: Student's interval from their mean and deviation alone."""
    if math.isnan(std) or n < 2:
        return Statistics(n, mean, _NAN, _NAN, _NAN, "none", _NAN, _NAN, _NAN)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * std / math.sqrt(n)
    return Statistics(n, mean, std, mean - half, mean + half, "t", _NAN, _NAN, _NAN)
