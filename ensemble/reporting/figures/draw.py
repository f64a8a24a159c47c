"""Every figure of a report, in its order.

All show the same configurations in the same colours: the best of the first role there is (ensemble, finalist, search).
"""

from collections.abc import Sequence

import matplotlib

from ensemble.reporting.contents import Picture, Report
from ensemble.reporting.figures.curves import draw_curves, draw_horizon
from ensemble.reporting.figures.members import draw_members
from ensemble.reporting.figures.parameters import draw_parallel, draw_parameters, parameter_axes
from ensemble.reporting.figures.rollouts import draw_rollouts
from ensemble.reporting.figures.search import draw_courses, draw_history, draw_importances, draw_pareto, figure_context
from ensemble.reporting.figures.style import PALETTE, REST, STYLE, Drawn
from ensemble.reporting.groups import rank_run


def draw_figures(report: Report) -> tuple[Picture, ...]:
    """Draw what the run has data for into `figures/`, and return the pictures in the order of the report."""
    drawn = choose(report)
    if not drawn:
        return ()
    folder = report.run.directory.figures
    with matplotlib.rc_context(STYLE):
        made = (
            *_draw_search(report, drawn),
            draw_members(report, drawn, folder / "members.png"),
            draw_curves(report, drawn, folder / "curves.png"),
            draw_horizon(report, drawn, folder / "horizon.png"),
            draw_rollouts(report, drawn[0].group, drawn[0].color, folder / "rollouts.png"),
        )
    return tuple(picture for picture in made if picture is not None)


def _draw_search(report: Report, drawn: Sequence[Drawn]) -> tuple[Picture | None, ...]:
    """Draw the figures of a search, where there was one."""
    if report.run.search is None:
        return ()
    context = figure_context(report, report.run.search, drawn)
    axes_of = parameter_axes(context, report.run.experiment)
    return (
        draw_history(context),
        draw_courses(context),
        draw_parallel(context, axes_of),
        draw_pareto(context),
        draw_importances(context),
        *draw_parameters(context, axes_of),
    )


def choose(report: Report) -> list[Drawn]:
    """Choose what is drawn, in the order of the table: the groups of its first role that have a completed member."""
    ranked = rank_run(report.run, report.metric)
    groups = [group for group in ranked if group.completed and group.role == ranked[0].role]
    labels = {row["config_hash"]: row["label"] for row in report.configurations}
    if report.run.search is not None:
        labels = {group.config_hash: report.run.search.mark(group.config_hash) for group in groups}
    colors = [*PALETTE, *[REST] * len(groups)]
    return [Drawn(g, labels[g.config_hash], colors[i], i < len(PALETTE)) for i, g in enumerate(groups)]
