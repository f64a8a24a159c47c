"""How figures look: palette, type, bands over seeds, labels at the ends of lines, files without dates.

Colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish; a configuration keeps its colour
in all figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ensemble.reporting.groups import Group
from ensemble.schema import Float64
from ensemble.store import atomic_file

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK, SOFT, REST = "#1c2430", "#5d6b7c", "#b6bec8"
WIDTH = 8.0  # inches; 1200 pixels
DPI = 150

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8ecf0",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "text.parse_math": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A configuration as it is drawn."""

    group: Group
    label: str
    color: str
    named: bool  # has a colour and a label of its own


@dataclass(frozen=True, slots=True)
class Series:
    """One member's values along an axis; both arrays are (points,)."""

    x: Float64
    y: Float64


@dataclass(frozen=True, slots=True)
class Band:
    """Members together: their mean, and mean ± std from three on, least to greatest below. All arrays are (points,)."""

    x: Float64
    mean: Float64
    low: Float64
    high: Float64


def band_of(members: Sequence[Series]) -> Band:
    """Put members together where they have values; std as everywhere with ddof 1.

    Where all values are positive, mean - std at or below zero gives way to the least value (the axis is logarithmic).
    """
    x = np.unique(np.concatenate([series.x for series in members]))
    values = np.full((len(members), x.size), np.nan)
    for row, series in zip(values, members, strict=True):
        row[np.searchsorted(x, series.x)] = series.y
    kept = np.isfinite(values).any(axis=0)
    x, values = x[kept], values[:, kept]
    n = np.isfinite(values).sum(axis=0)
    mean, least, most = np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    deviation = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.maximum(n - 1, 1))
    below = mean - deviation
    # On a logarithmic axis a band down to zero would fill the figure.
    if least.min(initial=1.0) > 0:
        below = np.where(below > 0, below, least)
    low = np.where(n < 3, least, below)
    return Band(x, mean, low, np.where(n < 3, most, mean + deviation))


def draw_band(axes: Axes, band: Band, drawn: Drawn, marker: str = "") -> None:
    """Draw a mean line over its band; a configuration without a colour of its own is a thin line behind the others."""
    if not drawn.named:
        axes.plot(band.x, band.mean, color=drawn.color, linewidth=0.6, zorder=2)
        return
    draw_line(axes, band, drawn.color, marker)


def draw_line(axes: Axes, band: Band, color: str, marker: str = "") -> None:
    """Draw a mean line over its band in `color`."""
    axes.fill_between(band.x, band.low, band.high, color=color, alpha=0.2, linewidth=0, zorder=2.5)
    axes.plot(band.x, band.mean, color=color, marker=marker, markersize=3.5, zorder=3)


def fit_values(axes: Axes, values: Sequence[Float64]) -> None:
    """Give the y axis room for `values` and no more, logarithmic where all are positive."""
    every = np.concatenate([v[np.isfinite(v)] for v in values])
    low, high = float(every.min()), float(every.max())
    if low > 0:
        axes.set_yscale("log")
        margin = max((high / low) ** 0.06, 1.05)
        axes.set_ylim(low / margin, high * margin)
        plain_log_ticks(axes, "y")
    else:
        margin = 0.06 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)


def plain_log_ticks(axes: Axes, which: str) -> None:
    """Label a logarithmic axis with plain numbers, in between the decades too where it spans few of them."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    decades = np.log10(high / low)
    steps = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 3.0, 5.0, 7.0)
    # The fewer decades an axis spans, the more ticks between them are needed to read a value.
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    if decades < 0.35:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    axis.set_minor_formatter(NullFormatter())


def tick(value: float) -> str:
    """Write a tick: `0.03`, `1e-5`, `2k`."""
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]], height: float) -> None:
    """Write (y, text, colour) next to the right end of lines, pushed apart; `height` of the axes is in inches."""
    if not labels:
        return
    low, high = axes.get_ylim()
    # Labels are pushed apart on the screen, so positions are measured in axes fractions.
    turn = np.log if axes.get_yscale() == "log" else np.asarray
    place = [float((turn(y) - turn(low)) / (turn(high) - turn(low))) for y, _, _ in labels]
    for position, i in zip(push_apart(place, 11.5 / 72 / height), np.argsort(place, kind="stable"), strict=True):
        _, text, color = labels[i]
        axes.annotate(
            text, (1, position), (5, 0), "axes fraction", "offset points", color=color, va="center", fontsize=8.5
        )


def push_apart(places: Sequence[float], gap: float) -> list[float]:
    """Return the sorted `places` at least `gap` apart and moved least (in squares), then pushed back into 0..1.

    With y_i = place_i - i gap this is isotonic regression: pool neighbours that are out of order into their mean.
    """
    pools: list[tuple[float, int]] = []  # mean, size
    for i, place in enumerate(sorted(places)):
        mean, size = place - i * gap, 1
        while pools and pools[-1][0] > mean:
            before, n = pools.pop()
            mean, size = (before * n + mean * size) / (n + size), n + size
        pools.append((mean, size))
    level = [mean for mean, size in pools for _ in range(size)]
    top = 1.0 - (len(level) - 1) * gap
    return [min(max(y, 0.0), max(top, 0.0)) + i * gap for i, y in enumerate(level)]


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, by default of README width, in inches. It belongs to no window and no global state."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, file: Path) -> None:
    """Write a PNG that depends on nothing but its content: no date, no software version."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE), atomic_file(file) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
