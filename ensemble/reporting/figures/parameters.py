"""The searched parameters as figures: all at once in parallel coordinates, and each against the search metric."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ensemble.reporting.contents import Picture
from ensemble.reporting.figures.axes import NOT_USED, ParameterAxis, parameter_axis, shorten
from ensemble.reporting.figures.search import LOST, FigureContext, describe_marks, faintness, scatter
from ensemble.reporting.figures.style import INK, REST, SOFT, WIDTH, new_figure, save
from ensemble.reporting.search_run import SearchTrial
from ensemble.text import plural

_MOST_AXES = 10  # of parallel coordinates; the most important


def parameter_axes(context: FigureContext, experiment: dict[str, object]) -> list[ParameterAxis]:
    """Return an axis for each searched parameter, the most important first."""
    trials = [trial.parameters for trial in context.search.trials]
    return [parameter_axis(name, trials, experiment) for name in context.search.parameters]


def draw_parallel(context: FigureContext, axes_of: Sequence[ParameterAxis]) -> Picture | None:
    """Draw every trial as a line over the parameters; completed ones reach the axis of the search metric."""
    search, shown = context.search, axes_of[:_MOST_AXES]
    done = [t for t in search.trials if t.state == "completed" and t.value is not None]
    if len(shown) < 2 or len(done) < 2:
        return None
    figure = new_figure(3.8)
    axes = figure.subplots()
    metric = _metric_axis([float(t.value) for t in done if t.value is not None])
    # Lines, the leaders in their colours
    faint = faintness(search)
    colors = {trial.number: context.leaders[trial.config_hash] for trial in context.leading}
    for trial in search.trials:
        if trial.state != "running":
            _draw_line(axes, trial, shown, metric, colors.get(trial.number), faint)
    # Axes and their names
    for x, axis in enumerate([*shown, metric]):
        _draw_axis(axes, x, axis)
    names = [search.names[axis.name] for axis in shown]
    axes.set_xticks(range(len(shown) + 1), [*(shorten(n, 18) for n in names), search.metric], rotation=20, ha="right",
                    rotation_mode="anchor", color=INK, fontsize=8.5)  # fmt: skip
    axes.set(ylim=(NOT_USED - 0.05 if any(a.conditional for a in shown) else -0.03, 1.03), yticks=[])
    axes.set_xlim(-0.25, len(shown) + 0.45)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0)
    _label_leaders(axes, context, metric, len(shown))
    save(figure, context.folder / "parallel.png")
    # Caption
    left = f" The {_MOST_AXES} most important of {len(axes_of)} parameters." if len(axes_of) > _MOST_AXES else ""
    states = {trial.state for trial in search.trials}
    light = " Light: stopped early." if "pruned" in states else ""
    lost = " Dashed: lost a seed." if states & {"diverged", "failed"} else ""
    words = f"A line is a configuration; only completed ones reach the last axis.{light}{lost}{left}"
    return context.picture("parallel.png", "Parallel coordinates", words)


def _metric_axis(values: Sequence[float]) -> ParameterAxis:
    scale = "log" if min(values) > 0 and max(values) / min(values) > 3 else "linear"
    return ParameterAxis("value", "log" if scale == "log" else "linear", (), min(values), max(values), False)


def _draw_line(
    axes: Axes,
    trial: SearchTrial,
    shown: Sequence[ParameterAxis],
    metric: ParameterAxis,
    color: str | None,
    faint: float,
) -> None:
    y = [axis.place(trial.parameters) for axis in shown]
    completed = trial.state == "completed" and trial.value is not None
    y += [metric.place({"value": trial.value})] if completed else []
    lost = trial.state in ("diverged", "failed")
    tone = color or (LOST if lost else SOFT if completed else REST)
    width, level = (2.0, 4) if color else (0.9, 3) if completed or lost else (0.6, 2)
    axes.plot(range(len(y)), y, color=tone, linewidth=width, zorder=level, alpha=1 if color else faint,
              linestyle=(0, (3, 2)) if lost else "-")  # fmt: skip


def _draw_axis(axes: Axes, x: int, axis: ParameterAxis) -> None:
    axes.plot([x, x], [0, 1], color=SOFT, linewidth=0.9, zorder=5)
    for place, text in axis.ticks():
        axes.plot([x - 0.03, x], [place, place], color=SOFT, linewidth=0.9, zorder=5)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
        axes.annotate(text, (x, place), (-4, 0), "data", "offset points", ha="right", va="center", fontsize=7.5,
                      color=INK, bbox=box, zorder=6)  # fmt: skip


def _label_leaders(axes: Axes, context: FigureContext, metric: ParameterAxis, x: int) -> None:
    ranked = sorted((metric.place({"value": t.value}), t.number, t.config_hash) for t in context.leading if t.value)
    before = -np.inf
    # Leaders are near each other on this axis by nature; labels are pushed up until they do not overlap.
    for place, number, config_hash in ranked:
        y = max(place, before + 0.05)
        before = y
        axes.annotate(f"#{number}", (x, y), (5, 0), "data", "offset points", va="center", fontsize=8.5,
                      color=context.leaders[config_hash])  # fmt: skip


def draw_parameters(context: FigureContext, axes_of: Sequence[ParameterAxis]) -> list[Picture]:
    """Draw a figure for each searched parameter: its value against what the configuration reached."""
    names = file_names(axes_of)
    return [_draw_parameter(context, axis, names[axis.name]) for axis in axes_of if _reached(context)]


def file_names(axes_of: Sequence[ParameterAxis]) -> dict[str, str]:
    """Return a file name for each parameter, without brackets, dots or spaces; names that collide are numbered."""
    plain = {axis.name: re.sub(r"[^A-Za-z0-9]+", "_", axis.name).strip("_").lower() for axis in axes_of}
    taken = list(plain.values())
    return {
        name: f"parameter_{text}{i if taken.count(text) > 1 else ''}.png"
        for i, (name, text) in enumerate(plain.items())
    }


def _reached(context: FigureContext) -> bool:
    return any(context.search.last_value(trial) is not None for trial in context.search.trials)


def _draw_parameter(context: FigureContext, axis: ParameterAxis, file: str) -> Picture:
    search = context.search
    figure = new_figure(2.6, WIDTH / 2)
    axes = figure.subplots()
    used = [trial for trial in search.trials if axis.name in trial.parameters]
    spread = {trial.number: axis.place(trial.parameters) for trial in used}
    if axis.scale == "options":  # marks of one option are side by side in the order of their numbers
        for option in {spread[t.number] for t in used}:
            same = [t.number for t in used if spread[t.number] == option]
            width = 0.5 / len(axis.options)
            spread |= dict(zip(same, option + np.linspace(-width / 2, width / 2, len(same) + 2)[1:-1], strict=True))
    scatter(axes, context, spread, labels=False)
    ticks = [(place, text) for place, text in axis.ticks() if place >= 0]
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    axes.set(xlim=(-0.05, 1.05), xlabel=search.names[axis.name], ylabel=search.metric)
    save(figure, context.folder / file)
    absent = len(search.trials) - len(used)
    rest = f" Not used by {plural(absent, 'configuration')}." if absent else ""
    share = next((each for each in search.importances if each.parameter == axis.name), None)
    weight = f" Importance {share.share:.0%}." if share else ""
    return context.picture(file, axis.name, f"{describe_marks(context)}{rest}{weight}", half=True)
