"""The figures of a search: how it went by trial and by step, what mattered, and the Pareto front.

The configurations that lead (the finalists, or else the best three) have the colours that they have in all figures;
completed ones are dark, stopped ones light, and those that lost a seed are crosses at the edge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ensemble.reporting.contents import Picture, Report
from ensemble.reporting.figures.axes import shorten
from ensemble.reporting.figures.style import (
    INK,
    PALETTE,
    REST,
    SOFT,
    WIDTH,
    Drawn,
    fit_values,
    label_ends,
    new_figure,
    plain_log_ticks,
    save,
    tick,
)
from ensemble.reporting.leaderboard import pareto_front
from ensemble.reporting.search_run import Search, SearchTrial
from ensemble.schema import Float64
from ensemble.text import plural

LOST = "#D55E00"
_LEADERS = 3  # without finalists


@dataclass(frozen=True, slots=True)
class FigureContext:
    """What the figures share: the search, the colours of the leaders by configuration, and their directory."""

    search: Search
    leaders: Mapping[str, str]
    folder: Path
    run: Path

    def picture(self, name: str, title: str, caption: str, half: bool = False) -> Picture:
        """Return a picture that has been written to `folder`."""
        return Picture((self.folder / name).relative_to(self.run), title, caption, half)

    @property
    def leading(self) -> list[SearchTrial]:
        """The trials of the leaders."""
        return [trial for config_hash in self.leaders for trial in self.search.trials_of(config_hash)[:1]]


def figure_context(report: Report, search: Search, drawn: Sequence[Drawn]) -> FigureContext:
    """Choose the leaders: those that come first in the tables."""
    confirmed = bool(drawn) and drawn[0].group.role != "search"
    first = [d for d in drawn if d.named][: None if confirmed else _LEADERS]
    colors = {d.group.config_hash: d.color for d in first}
    return FigureContext(search, colors, report.run.directory.figures, report.run.path)


def draw_history(context: FigureContext) -> Picture | None:
    """Draw the value of each trial by its number, and the best so far."""
    search = context.search
    done = [t for t in search.trials if t.state == "completed" and t.value is not None]
    if len(search.trials) < 2 or not done:
        return None
    figure = new_figure(3.2)
    axes = figure.subplots()
    # Best so far, drawn on to the last trial even where that one was stopped
    values = np.array([trial.value for trial in done], np.float64)
    best = np.minimum.accumulate(values) if search.mode == "min" else np.maximum.accumulate(values)
    end = max(trial.number for trial in search.trials) + 0.5
    x = np.array([*(trial.number for trial in done), end])
    axes.step(x, np.append(best, best[-1]), where="post", color=PALETTE[0], linewidth=1.2, zorder=2.5)
    # Trials
    scatter(axes, context, {trial.number: float(trial.number) for trial in search.trials})
    axes.set(xlabel="trial", ylabel=search.metric, xlim=(-0.7, end + 0.2))
    axes.locator_params(axis="x", integer=True)
    label_ends(axes, [(float(best[-1]), "best so far", PALETTE[0])], 2.5)
    _legend(axes, context)
    save(figure, context.folder / "history.png")
    return context.picture(
        "history.png", "Optimization history", f"A mark is a configuration. {describe_marks(context)}"
    )


def scatter(axes: Axes, context: FigureContext, places: Mapping[int, float], labels: bool = True) -> None:
    """Draw every trial with a place at the value it reached; y is fitted to them."""
    search = context.search
    shown = {trial.number: search.last_value(trial) for trial in search.trials}  # all figures have one scale
    fit_values(axes, [np.array([v for v in shown.values() if v is not None], np.float64)])
    leading = {trial.number for trial in context.leading}
    points: dict[str, list[tuple[float, float]]] = {"pruned": [], "completed": [], "lost": []}
    for trial in search.trials:
        if trial.number not in places or trial.state == "running":
            continue
        x, y = places[trial.number], shown[trial.number]
        if trial.state in ("diverged", "failed") or y is None:
            points["lost"].append((x, 1.0 if search.mode == "min" else 0.0))
        elif trial.number in leading and trial.state == "completed":
            _draw_leader(axes, context, trial, (x, y), labels)
        else:
            points["pruned" if trial.state == "pruned" else "completed"].append((x, y))
    for kind, found in points.items():
        _draw_marks(axes, kind, np.array(found, np.float64).reshape(-1, 2))


def _draw_marks(axes: Axes, kind: str, points: Float64) -> None:
    x, y = points.T
    if kind == "lost":  # at the edge of the axes, whatever the scale
        edge = axes.get_xaxis_transform()
        axes.plot(x, y, "x", color=LOST, markersize=5.5, markeredgewidth=1.5, clip_on=False, transform=edge, zorder=3)
    elif kind == "pruned":
        axes.plot(x, y, "v", color=REST, markersize=4.5, markeredgewidth=0, zorder=2)
    else:
        axes.plot(x, y, "o", color=SOFT, markersize=4.5, markeredgewidth=0, zorder=3)


def _draw_leader(
    axes: Axes, context: FigureContext, trial: SearchTrial, point: tuple[float, float], label: bool
) -> None:
    color = context.leaders[trial.config_hash]
    axes.plot(*point, marker="o", color=color, markersize=6.5, zorder=4)
    if label:
        up = 6 if context.search.mode == "min" else -6  # away from the line of the best so far
        text = f"#{trial.number}"
        axes.annotate(text, point, (4, up), "data", "offset points", va="center", color=color, fontsize=8, zorder=5)


def describe_marks(context: FigureContext) -> str:
    """Say what the marks mean, mentioning only what there is."""
    states = {trial.state for trial in context.search.trials}
    words = []
    if context.leaders:
        words.append("Coloured: those that lead the tables.")
    if "pruned" in states:
        words.append("Triangle: stopped early, at what it showed last.")
    if states & {"diverged", "failed"}:
        words.append("Cross at the edge: lost a seed.")
    return " ".join(words)


def _legend(axes: Axes, context: FigureContext) -> None:
    states = {trial.state for trial in context.search.trials}
    marks = [("o", SOFT, "completed")]
    marks += [("v", REST, "stopped early")] if "pruned" in states else []
    marks += [("x", LOST, "lost a seed")] if states & {"diverged", "failed"} else []
    handles = [
        Line2D([], [], marker=marker, color=color, linestyle="none", markersize=5, label=text)
        for marker, color, text in marks
    ]
    assert axes.figure is not None
    axes.figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=8.5)


def draw_courses(context: FigureContext) -> Picture | None:
    """Draw the course of every configuration over the rungs; stopped ones end where they were stopped."""
    search = context.search
    courses = {trial.number: _course(search, trial) for trial in search.trials}
    courses = {number: course for number, course in courses.items() if course[0].size}
    if not search.rungs or not courses:
        return None
    figure = new_figure(3.4)
    axes = figure.subplots()
    leading = {trial.number: context.leaders[trial.config_hash] for trial in context.leading}
    for trial in search.trials:
        if trial.number in courses:
            _draw_course(axes, trial, courses[trial.number], leading.get(trial.number), faintness(search))
    # Axes: y fits what was reached, x has a tick at each rung
    fit_values(axes, [y for _, y in courses.values()])
    steps = np.unique(np.concatenate([x for x, _ in courses.values()]))
    if steps[-1] / steps[0] > 4:
        # Rungs of successive halving are a constant factor apart.
        axes.set_xscale("log")
        axes.set_xticks(steps if steps.size <= 8 else steps[:: -(-steps.size // 8)])
        axes.xaxis.set_major_formatter(lambda value, _: tick(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set(xlabel="optimizer step", ylabel=f"{search.metric}, mean over seeds", xlim=(steps[0] * 0.93, steps[-1]))
    # Numbers of the leaders, and what was stopped
    ends = [(float(courses[n][1][-1]), f"#{n}", color) for n, color in leading.items() if n in courses]
    label_ends(axes, ends, 2.7)
    save(figure, context.folder / "courses.png")
    stopped = sum(trial.state == "pruned" for trial in search.trials)
    words = f" Stopped early, at the triangle: {plural(stopped, 'configuration')}." if stopped else ""
    return context.picture("courses.png", "Configurations rung by rung", f"What decided which trials continued.{words}")


def _course(search: Search, trial: SearchTrial) -> tuple[Float64, Float64]:
    """Return the steps and means of a trial; a completed one continues to its last step and value."""
    x, y = search.courses.get(trial.number, (np.array([]), np.array([])))
    last = trial.steps / trial.seeds if trial.seeds else 0.0
    if trial.state == "completed" and trial.value is not None and x.size and last > x[-1]:
        return np.append(x, last), np.append(y, trial.value)
    return x, y


def faintness(search: Search) -> float:
    """Return the opacity of a line that does not lead: many of them leave the leaders in sight."""
    return max(0.1, min(0.75, 30 / len(search.trials)))


def _draw_course(
    axes: Axes, trial: SearchTrial, course: tuple[Float64, Float64], color: str | None, faint: float
) -> None:
    x, y = course
    line = color or (SOFT if trial.state == "completed" else REST)
    width, level = (1.8, 4) if color else (0.9, 3) if trial.state == "completed" else (0.7, 2)
    alpha = 1 if color else faint
    axes.plot(x, y, color=line, linewidth=width, zorder=level, alpha=alpha)
    if trial.state == "pruned":
        axes.plot(x[-1], y[-1], "v", color=SOFT, markersize=4, markeredgewidth=0, zorder=level + 0.5, alpha=alpha)


def draw_importances(context: FigureContext) -> Picture | None:
    """Draw the importance of each searched value as a bar."""
    shares = context.search.importances
    if not shares:
        return None
    figure = new_figure(0.75 + 0.27 * max(len(shares), 3), WIDTH / 2)
    axes = figure.subplots()
    names = [shorten(context.search.names.get(each.parameter, each.parameter), 22) for each in shares]
    axes.barh(range(len(shares)), [each.share for each in shares], height=0.62, color=PALETTE[0])
    for y, each in enumerate(shares):
        axes.annotate(f"{each.share:.0%}", (each.share, y), (4, 0), "data", "offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(shares)), names, color=INK)
    axes.set(ylim=(len(shares) - 0.4, -0.6), xlim=(0, max(each.share for each in shares) * 1.14), xticks=[])
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    save(figure, context.folder / "importances.png")
    first = shares[0]
    words = f"{first.method} over {plural(first.trials, 'completed configuration')}; shares of 1."
    return context.picture("importances.png", "Importance", words, half=True)


def draw_pareto(context: FigureContext) -> Picture | None:
    """Draw the search metric against each further objective; the front is dark and numbered."""
    search = context.search
    names = [*search.objectives]
    done = [t for t in search.trials if t.state == "completed" and search.objectives.keys() <= t.objectives.keys()]
    if len(names) < 2 or len(done) < 2:
        return None
    numbers, front = pareto_front(search)
    figure = new_figure(3.6)
    row = figure.subplots(1, len(names) - 1, sharey=True, squeeze=False)[0]
    for k, axes in enumerate(row, start=1):
        x, y = (np.array([trial.objectives[names[i]] for trial in done], np.float64) for i in (k, 0))
        axes.plot(x, y, marker="o", color=REST, markersize=4.5, markeredgewidth=0, linestyle="none")
        # With more than two objectives the front is a surface: its projection is no staircase.
        if len(names) == 2:
            order = np.argsort(front[:, 1], kind="stable")
            axes.step(front[order, 1], front[order, 0], where="post", color=PALETTE[0], linewidth=1, zorder=2.5)
        axes.plot(front[:, k], front[:, 0], marker="o", color=PALETTE[0], markersize=5.5, linestyle="none", zorder=3)
        for number, point in zip(numbers, front, strict=True) if len(numbers) <= 15 else ():
            axes.annotate(f"#{number}", (point[k], point[0]), (4, 4), "data", "offset points", fontsize=8, color=INK)
        fit_values(axes, [y])
        if x.min() > 0 and x.max() / x.min() > 10:
            axes.set_xscale("log")
            plain_log_ticks(axes, "x")
        better = {name: "lower" if mode == "min" else "higher" for name, mode in search.objectives.items()}
        axes.set(xlabel=f"{names[k]} ({better[names[k]]} is better)")
    row[0].set_ylabel(f"{names[0]} ({better[names[0]]} is better)")
    save(figure, context.folder / "pareto.png")
    words = (
        f"Blue: {plural(len(numbers), 'configuration')} that no other beats in one objective without losing in another."
    )
    return context.picture("pareto.png", "Pareto front", f"{words} Grey: the other completed ones.")
