"""The figure of closed loops: converge rate and smoothness by noise and replan, a dot a member."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ensemble.closed_loop.report import Evaluation
from ensemble.closed_loop.statistics import Measured, Setting, measure
from ensemble.closed_loop.verdict import Contender
from ensemble.reporting.figures.style import INK, PALETTE, SOFT, STYLE, WIDTH, new_figure, save
from ensemble.reporting.number_format import setting

_ROWS = (("converge_rate", "converge rate"), ("cart_velocity_std", "cart velocity std [m/s]"))
_JOINT = {"mean": "^", "median": "v"}


def draw_evaluation(found: Evaluation, name: str = "closed_loop") -> Path:
    """Write the figure into the run directory, and return its path relative to it."""
    file = Path("figures", f"{name}.png")
    with matplotlib.rc_context(STYLE):
        _draw(found, found.contenders[: len(PALETTE)], found.path / file)
    return file


def _draw(found: Evaluation, shown: tuple[Contender, ...], file: Path) -> None:
    noises = found.noises
    figure = new_figure(5.4, max(WIDTH, 2.7 * len(noises)))
    panels = figure.subplots(2, len(noises), sharex="col", sharey="row", squeeze=False)
    for row, (metric, words) in zip(panels, _ROWS, strict=True):
        row[0].set_ylabel(words)
        for axes, noise in zip(row, noises, strict=True):
            _panel(axes, found, shown, metric, noise)
    for axes, noise in zip(panels[0], noises, strict=True):
        axes.set_title(f"action noise {setting(noise)}", color=INK)
    for axes in panels[1]:
        axes.set_xlabel("replan [steps]")
    figure.legend(handles=_legend(shown), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, file)


def _panel(axes: Axes, found: Evaluation, shown: tuple[Contender, ...], metric: str, noise: float) -> None:
    replans = sorted({at.replan for each in shown for at in each.members if at.noise == noise})
    width = 0.7 / max(1, len(shown))
    for number, each in enumerate(shown):
        for place, replan in enumerate(replans):
            middle = place + (number - (len(shown) - 1) / 2) * width
            _dots(axes, each, Setting(noise, replan), metric, middle, width, PALETTE[number])
    for line in found.lines:
        measured: Measured | None = line.get(metric)
        if line["noise"] == noise and measured is not None and line["label"] == "expert":
            axes.axhline(measured.found.mean, color=SOFT, linestyle=(0, (1, 1.6)), linewidth=1.2, zorder=1)
    axes.set_xticks(range(len(replans)), [str(replan) for replan in replans])
    axes.set_xlim(-0.6, max(len(replans) - 0.4, 0.6))
    axes.grid(visible=False, axis="x")


def _dots(axes: Axes, each: Contender, at: Setting, metric: str, x: float, width: float, color: str) -> None:
    values = np.array([row[metric] for row in each.members.get(at, ())], np.float64)
    # Members, spread over the width so that equal rates stay visible
    offsets = np.linspace(-0.25, 0.25, values.size) * width if values.size > 1 else np.zeros(values.size)
    axes.scatter(x + offsets, values, s=13, color=color, linewidth=0, zorder=3)
    # Mean and interval, and the members as one controller
    found = measure(each.members.get(at, ()), metric).found
    if found.n > 1:
        axes.plot([x, x], [found.ci_low, found.ci_high], color=color, alpha=0.25, linewidth=7, zorder=2)
        axes.plot(x, found.mean, marker="D", markersize=5.5, color="white", markeredgecolor=color, zorder=4)
    for kind, marker in _JOINT.items():
        for row in each.joint.get(kind, {}).get(at, ()):
            axes.plot(x + 0.4 * width, row[metric], marker=marker, markersize=5, color=color, zorder=5)


def _legend(shown: tuple[Contender, ...]) -> list[Line2D]:
    plain: dict[str, Any] = {"linestyle": "", "color": SOFT}
    marks = [
        Line2D([], [], marker="o", label=each.label, linestyle="", color=PALETTE[i]) for i, each in enumerate(shown)
    ]
    marks += [
        Line2D([], [], marker="o", markersize=4, label="a member", **plain),
        Line2D([], [], marker="D", markerfacecolor="white", label="mean, 95 % interval (members and starts)", **plain),
    ]
    if any(each.joint for each in shown):
        marks.append(Line2D([], [], marker="^", label="mean of chunks", **plain))
        marks.append(Line2D([], [], marker="v", label="nearest to the median", **plain))
    return [*marks, Line2D([], [], color=SOFT, linestyle=(0, (1, 1.6)), label="expert")]
