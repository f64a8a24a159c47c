"""The figures along steps: learning curves by optimizer step, and the error along the horizon of a rollout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes

from ensemble.reporting.contents import Picture, Report
from ensemble.reporting.figures.style import (
    SOFT,
    Band,
    Drawn,
    Series,
    band_of,
    draw_band,
    fit_values,
    label_ends,
    new_figure,
    save,
)
from ensemble.reporting.groups import Group, is_finite
from ensemble.schema import TEST_ROLLOUT, TRAIN_LOSS, VALIDATION_ACTION, VALIDATION_LOSS, VALIDATION_ROLLOUT
from ensemble.text import plural

PANELS = (
    (TRAIN_LOSS, "training loss"),
    (VALIDATION_LOSS, "validation loss"),
    (VALIDATION_ROLLOUT, "validation rollout error"),
    (VALIDATION_ACTION, "validation action error"),
)
_POINTS = 200  # of a curve; more are averaged in bins

Curves = dict[tuple[str, int, str], Series]  # (config_hash, seed, metric)


def draw_curves(report: Report, drawn: Sequence[Drawn], file: Path) -> Picture | None:
    """Draw training loss, validation loss and the error of rollouts or actions by step, a band per configuration."""
    table = report.run.curves()
    curves = {} if table is None else read_curves(table, drawn)
    panels = [(metric, title) for metric, title in PANELS if any(key[2] == metric for key in curves)]
    if not panels:
        return None
    figure = new_figure(2.9)
    row = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for axes, (metric, title) in zip(row, panels, strict=True):
        bands = _draw_panel(axes, metric, curves, drawn)
        axes.set(title=title, xlabel="optimizer step")
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlim(left=0)
        if axes is row[-1] and len(drawn) > 1:
            label_ends(axes, [(b.mean[-1], d.label, d.color) for d, b in bands if d.named], 2.1)
    save(figure, file)
    lost = any(m["status"] == "diverged" for d in drawn for m in d.group.members)
    cross = " Dashed: a member that diverged, up to the cross." if lost else ""
    words = f"{_band_words(drawn)}{cross}{_rest_words(drawn)}"
    return Picture(file.relative_to(report.run.path), "Learning curves", words)


def read_curves(table: pa.Table, drawn: Sequence[Drawn]) -> Curves:
    """Pick the curves that are drawn, each sorted by step and averaged in at most 200 bins."""
    # A search leaves millions of rows: filtered before anything is turned into Python values.
    hashes, metrics = [d.group.config_hash for d in drawn], [metric for metric, _ in PANELS]
    kept = pc.and_(pc.is_in(table["config_hash"], pa.array(hashes)), pc.is_in(table["metric"], pa.array(metrics)))
    columns = ("config_hash", "seed", "metric")
    ordered = table.filter(kept).sort_by([(name, "ascending") for name in (*columns, "step")])
    if not ordered.num_rows:
        return {}
    last = float(pc.max(ordered["step"]).as_py())
    found: dict[tuple[str, int, str], tuple[list[float], list[float]]] = {}
    for *key, step, value in zip(*(ordered[name].to_pylist() for name in (*columns, "step", "value")), strict=True):
        steps, values = found.setdefault((key[0], key[1], key[2]), ([], []))
        steps.append(step)
        values.append(np.nan if value is None else value)
    return {key: thin(Series(np.array(x, np.float64), np.array(y, np.float64)), last) for key, (x, y) in found.items()}


def thin(series: Series, last: float) -> Series:
    """Average a curve in bins of equal width, the same for every curve that ends by `last`."""
    if series.x.size <= _POINTS:
        return series
    # Bins common to all curves, so that a band over members averages equal steps.
    width = max(last, 1.0) / _POINTS
    bins = np.minimum((series.x / width).astype(np.int64), _POINTS - 1)
    present, place, n = np.unique(bins, return_inverse=True, return_counts=True)
    return Series((present + 0.5) * width, np.bincount(place, series.y) / n)


def draw_horizon(report: Report, drawn: Sequence[Drawn], file: Path) -> Picture | None:
    """Draw the rollout error at each step of the horizon; baselines are dotted."""
    prefix = f"{TEST_ROLLOUT}@"
    ends = (m.removeprefix(prefix) for m in report.run.metrics if m.startswith(prefix))
    steps = sorted(int(end) for end in ends if end.isdigit())
    bands = [(d, band_of(found)) for d in drawn if (found := _by_step(d.group, prefix, steps))]
    if len(steps) < 2 or not bands:
        return None
    baselines = _baseline_lines(report, prefix, {d.group.config_hash for d, _ in bands})
    figure = new_figure(3.6)
    axes = figure.subplots()
    marker = "o" if len(steps) <= 12 else ""
    for shown, band in reversed(bands):
        draw_band(axes, band, shown, marker)
    for series in baselines.values():
        axes.plot(series.x, series.y, color=SOFT, linestyle=(0, (1, 1.6)), linewidth=1.4)
    fit_values(axes, [v for _, b in bands for v in (b.low, b.high)] + [s.y for s in baselines.values()])
    axes.set(xlabel="steps predicted without seeing the truth", ylabel="rollout error / training std")
    axes.set_xlim(steps[0], steps[-1])
    axes.locator_params(axis="x", integer=True)
    names = [(b.mean[-1], d.label, d.color) for d, b in bands if d.named]
    label_ends(axes, names + [(s.y[-1], name, SOFT) for name, s in baselines.items()], 2.9)
    save(figure, file)
    dotted = " Dotted: baselines on the same windows." if baselines else ""
    words = f"Test split. {_band_words(drawn)}{dotted}{_rest_words(drawn)}"
    return Picture(file.relative_to(report.run.path), "Error along the horizon", words)


def _draw_panel(axes: Axes, metric: str, curves: Curves, drawn: Sequence[Drawn]) -> list[tuple[Drawn, Band]]:
    bands: list[tuple[Drawn, Band]] = []
    for shown in drawn:
        keys = [(shown.group.config_hash, int(m["seed"]), metric) for m in shown.group.completed]
        members = [curves[key] for key in keys if key in curves and np.isfinite(curves[key].y).any()]
        if members:
            bands.append((shown, band_of(members)))
            draw_band(axes, bands[-1][1], shown)
    if bands:
        fit_values(axes, [values for _, band in bands for values in (band.low, band.high)])
    for shown in drawn:
        for member in shown.group.members:
            key = (shown.group.config_hash, int(member["seed"]), metric)
            if member["status"] == "diverged" and shown.named and key in curves:
                _draw_diverged(axes, curves[key], shown.color)
    return bands


def _draw_diverged(axes: Axes, series: Series, color: str) -> None:
    """Draw a diverged member up to its last number; a cross marks it, at the edge where that lies outside."""
    finite = np.isfinite(series.y)
    if not finite.any():
        return
    low, high = axes.get_ylim()
    x, y = series.x[finite], series.y[finite]
    axes.plot(x, y, color=color, linewidth=1, linestyle=(0, (3, 2)), zorder=2.8)
    end = min(max(float(y[-1]), low), high)
    axes.plot(x[-1], end, marker="x", color=color, markersize=6, markeredgewidth=1.6, clip_on=False, zorder=5)


def _by_step(group: Group, prefix: str, steps: Sequence[int]) -> list[Series]:
    found = []
    for member in group.completed:
        kept = [step for step in steps if is_finite(member.get(f"{prefix}{step}"))]
        values = [member[f"{prefix}{step}"] for step in kept]
        if kept:
            found.append(Series(np.array(kept, np.float64), np.array(values, np.float64)))
    return found


def _baseline_lines(report: Report, prefix: str, hashes: set[str]) -> dict[str, Series]:
    """Return each baseline along the horizon, by name; of several configurations it is that of the first."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for baseline in report.run.baselines:
        if (
            baseline.metric.removeprefix(prefix).isdigit()
            and baseline.config_hash in hashes
            and np.isfinite(baseline.value)
        ):
            line = found.setdefault(baseline.name, {}).setdefault(baseline.config_hash, {})
            line[int(baseline.metric.removeprefix(prefix))] = baseline.value
    chosen = {name: dict(sorted(lines[min(lines)].items())) for name, lines in sorted(found.items())}
    return {name: Series(np.array([*line], np.float64), np.array([*line.values()])) for name, line in chosen.items()}


def _band_words(drawn: Sequence[Drawn]) -> str:
    """Say what line and band are."""
    counts = {len(d.group.completed) for d in drawn if d.named}
    if counts == {1}:
        return "One seed each." if len(drawn) > 1 else "One seed."
    band = "mean ± standard deviation"
    if min(counts) < 3:
        band = f"{band}, least to greatest below three"
    if max(counts) < 3:
        band = "mean, least to greatest"
    return f"Line and band over completed seeds: {band}."


def _rest_words(drawn: Sequence[Drawn]) -> str:
    rest = sum(not d.named for d in drawn)
    return f" Grey: {plural(rest, 'further configuration')}." if rest else ""
