"""The figure of every member: a dot is a seed, next to the mean and the interval of its configuration."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ensemble.reporting.contents import Picture, Report
from ensemble.reporting.figures.style import INK, SOFT, Drawn, new_figure, plain_log_ticks, save
from ensemble.reporting.number_format import number, plus_minus
from ensemble.schema import Float64

_ROWS = 20  # configurations, the best


def draw_members(report: Report, drawn: Sequence[Drawn], file: Path) -> Picture | None:
    """Draw every member's value of the report's metric, with mean and interval of its configuration."""
    shown = [d for d in drawn if d.group.counted(report.metric)][:_ROWS]
    if sum(len(row.group.counted(report.metric)) for row in shown) < 2:
        return None
    figure = new_figure(1.0 + 0.42 * len(shown))
    axes = figure.subplots()
    for y, row in enumerate(shown):
        _draw_dots(axes, y, row, report.metric)
    _fit_dots(axes, shown, report.metric)
    axes.set_yticks(range(len(shown)), [row.label for row in shown], color=INK)
    axes.set(xlabel=report.metric, ylim=(len(shown) - 0.4, -0.6))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    # Only now, with the limits of the axis known
    outside = _draw_baselines(axes, report)
    save(figure, file)
    more = f" The best {_ROWS} of {len(drawn)} configurations." if len(drawn) > _ROWS else ""
    several = any(row.group.describe(report.metric).n > 1 for row in shown)
    bar = "; the diamond is the mean, the bar its 95 % interval (Student's t)" if several else ""
    return Picture(file.relative_to(report.run.path), "Every member", f"A dot is a seed{bar}.{outside}{more}")


def _draw_dots(axes: Axes, y: int, row: Drawn, metric: str) -> None:
    found = row.group.describe(metric)
    values = _values(row, metric)
    # Dots are spread vertically, so that members of almost equal value stay visible.
    offsets = np.linspace(-0.16, 0.16, values.size) if values.size > 1 else np.zeros(1)
    color = row.color if row.named else SOFT
    if found.n > 1:
        axes.plot([found.ci_low, found.ci_high], [y, y], color=color, alpha=0.28, linewidth=7, solid_capstyle="butt")
        axes.plot(found.mean, y, marker="D", markersize=6.5, color="white", markeredgecolor=color, markeredgewidth=1.6)
    axes.scatter(values, y + offsets, s=16, color=color, linewidth=0, zorder=4)
    status = row.group.status(metric)
    tail = "" if status == "completed" else f"  {status}"
    note = f"{plus_minus(found.mean, found.std)}   n = {found.n}{tail}"
    axes.annotate(note, (1, y), (8, 0), ("axes fraction", "data"), "offset points", va="center", fontsize=8.5)


def _fit_dots(axes: Axes, shown: Sequence[Drawn], metric: str) -> None:
    """Give every dot and interval room; logarithmic where the dots span more than a factor of ten."""
    values = np.concatenate([_values(row, metric) for row in shown])
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 10:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        plain_log_ticks(axes, "x")
        return
    ends = [v for row in shown for v in _interval(row, metric) if np.isfinite(v)]
    low, high = min(low, *ends) if ends else low, max(high, *ends) if ends else high
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_xlim(low - margin, high + margin)


def _draw_baselines(axes: Axes, report: Report) -> str:
    """Draw the baselines that lie within the axis as dotted lines; return a sentence on those beyond it."""
    low, high = axes.get_xlim()
    rows = sorted((r for r in report.table.rows if r["kind"] == "baseline"), key=lambda r: float(r["statistics"].mean))
    level, before, beyond = 0, -np.inf, []
    # A baseline far from the members would squeeze them to a point: it is named in the caption instead.
    for row in rows:
        value = float(row["statistics"].mean)
        if not low <= value <= high:
            beyond.append(f"{row['label']} {number(value, 3)}")
            continue
        level = level + 1 if value - before < 0.25 * (high - low) else 0  # labels of near lines are in tiers
        before = value
        axes.axvline(value, color=SOFT, linestyle=(0, (1, 1.6)), linewidth=1.2, zorder=1)
        offset, where = (0, 2 + 11 * level), ("data", "axes fraction")
        axes.annotate(row["label"], (value, 1), offset, where, "offset points", ha="center", color=SOFT, fontsize=8)
    return f" Beyond the axis: {', '.join(beyond)}." if beyond else ""


def _values(row: Drawn, metric: str) -> Float64:
    return np.array([member[metric] for member in row.group.counted(metric)], np.float64)


def _interval(row: Drawn, metric: str) -> tuple[float, float]:
    found = row.group.describe(metric)
    return found.ci_low, found.ci_high
