"""The figure of predicted against true rollouts on test episodes, with the band over members."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ensemble.reporting.contents import Picture, Report
from ensemble.reporting.figures.style import INK, Series, band_of, draw_line, new_figure, save
from ensemble.reporting.groups import Group
from ensemble.schema import Float64

_ENTRIES = 6  # state entries, one a row
_WINDOWS = ((0.1, "easy"), (0.5, "typical"), (0.9, "hard"))  # by quantile of the error


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Rollouts of M members on the same windows: N windows, T steps, S state entries."""

    windows: npt.NDArray[np.int64]  # (N,)
    steps: Float64  # (T,) 0 and below is context
    labels: tuple[str, ...]  # S
    true: Float64  # (N, T, S)
    predicted: Float64  # (M, N, T, S)


def draw_rollouts(report: Report, group: Group, color: str, file: Path) -> Picture | None:
    """Draw an easy, a typical and a hard test window of a configuration; None where it left no rollouts."""
    tables = [table for member in group.completed if (table := report.run.rollouts(member)) is not None]
    rollouts = stack_rollouts(tables)
    if rollouts is None:
        return None
    chosen = choose_windows(rollouts)
    rows = min(len(rollouts.labels), _ENTRIES)
    figure = new_figure(0.75 + 1.25 * rows)
    grid = figure.subplots(rows, len(chosen), sharex=True, sharey="row", squeeze=False)
    for column, (place, word) in enumerate(chosen):
        for row in range(rows):
            _draw_window(grid[row, column], rollouts, place, row, color)
        grid[0, column].set_title(f"{word} (window {rollouts.windows[place]})")
        grid[-1, column].set_xlabel("step after the context")
    for row in range(rows):
        grid[row, 0].set_ylabel(rollouts.labels[row])
    figure.align_ylabels(grid[:, 0])
    n = rollouts.predicted.shape[0]
    figure.legend(handles=_legend(color, n), loc="outside upper left", ncols=3, frameon=False, fontsize=8.5)
    save(figure, file)
    return Picture(file.relative_to(report.run.path), "Predicted against true", _caption(report, group, rollouts))


def stack_rollouts(tables: Sequence[pa.Table]) -> Rollouts | None:
    """Lay members' tables side by side, test split only; None where there is nothing, or not the same windows."""
    sorted_tables = [_sorted_test(table) for table in tables]
    if not sorted_tables or not sorted_tables[0].num_rows:
        return None
    first = sorted_tables[0]
    windows, steps = np.unique(first["window"].to_numpy()), np.unique(first["step"].to_numpy())
    labels = tuple(dict.fromkeys(tables[0]["label"].to_pylist()))
    shape = (windows.size, steps.size, len(labels))
    if any(table.num_rows != windows.size * steps.size * len(labels) for table in sorted_tables):
        return None
    # The rows were sorted by label to lay them out as an array.
    order = np.array([sorted(labels).index(label) for label in labels])  # back to the order of the file
    true = first["true"].to_numpy().astype(np.float64).reshape(shape)[..., order]
    predicted = np.stack([t["predicted"].to_numpy().astype(np.float64).reshape(shape) for t in sorted_tables])
    return unwrap(Rollouts(windows.astype(np.int64), steps.astype(np.float64), labels, true, predicted[..., order]))


def unwrap(rollouts: Rollouts) -> Rollouts:
    """Unroll angles that wrap at +-pi along time, so that no line crosses the picture and means make sense.

    The context of a prediction is the truth, so both start on the same turn.
    """
    true, predicted = rollouts.true.copy(), rollouts.predicted.copy()
    for entry in range(len(rollouts.labels)):
        if wraps(true[..., entry]) or wraps(predicted[..., entry]):
            true[..., entry] = np.unwrap(true[..., entry], axis=-1)
            predicted[..., entry] = np.unwrap(predicted[..., entry], axis=-1)
    return Rollouts(rollouts.windows, rollouts.steps, rollouts.labels, true, predicted)


def wraps(values: Float64) -> bool:
    """Tell whether `values` (.., T) are an angle that wraps: its jumps are about a turn and land within +-pi."""
    jumps = np.diff(values, axis=-1)
    large = np.abs(jumps) > 1.5 * np.pi
    landing = values[..., 1:][large]
    turns = np.abs(np.remainder(jumps[large] + np.pi, 2 * np.pi) - np.pi) < np.pi / 2
    return bool(large.any() and turns.all() and np.abs(landing).max() < np.pi + 1e-3)


def choose_windows(rollouts: Rollouts) -> list[tuple[int, str]]:
    """Choose windows by quantiles of their error (mean over members, entries scaled alike), not by their looks."""
    ahead = rollouts.steps > 0
    # Entries have different units: each counts by its own spread.
    scale = rollouts.true.std(axis=(0, 1)) + 1e-12
    wrong = ((rollouts.predicted - rollouts.true)[:, :, ahead] / scale) ** 2
    order = np.argsort(wrong.mean(axis=(0, 2, 3)), kind="stable")
    last = order.size - 1
    # Where quantiles fall on one window, as they do with few, the easier word is kept.
    places = {int(order[round(quantile * last)]): word for quantile, word in reversed(_WINDOWS)}
    return [(place, word) for place, word in reversed(places.items())]


def _sorted_test(table: pa.Table) -> pa.Table:
    kept = table.filter(pc.equal(table["split"], "test"))
    return kept.sort_by([("window", "ascending"), ("step", "ascending"), ("label", "ascending")])


def _draw_window(axes: Axes, rollouts: Rollouts, place: int, entry: int, color: str) -> None:
    x = rollouts.steps
    ahead = x >= 0
    members = [Series(x[ahead], values[place, ahead, entry]) for values in rollouts.predicted]
    axes.axvspan(float(x.min()), 0, color="#f1f3f6", linewidth=0, zorder=0)
    axes.plot(x, rollouts.true[place, :, entry], color=INK, linewidth=1.2, zorder=2.9)
    draw_line(axes, band_of(members), color)
    axes.margins(x=0)
    axes.locator_params(axis="y", nbins=4)


def _legend(color: str, members: int) -> list[Line2D | Patch]:
    band = "mean ± std" if members >= 3 else "mean, least to greatest"
    word = f"predicted, {band} of {members} members" if members > 1 else "predicted, one member"
    return [
        Line2D([], [], color=INK, linewidth=1.2, label="true"),
        Line2D([], [], color=color, label=word),
        Patch(color="#f1f3f6", label="context"),
    ]


def _caption(report: Report, group: Group, rollouts: Rollouts) -> str:
    several = len({row["config_hash"] for row in report.configurations}) > 1
    labels = {row["config_hash"]: row["label"] for row in report.configurations}
    whose = f" of the best configuration ({labels[group.config_hash]})" if several else ""
    entries = len(rollouts.labels)
    part = f" The first {_ENTRIES} of {entries} state entries." if entries > _ENTRIES else ""
    return (
        f"Open-loop rollouts{whose} on test windows; of {rollouts.windows.size} windows those at the 10th, 50th and "
        f"90th percentile of the error.{part}"
    )
