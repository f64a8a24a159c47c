"""`ensemble plan`: what an experiment file amounts to, before anything runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ensemble.cli.options import results_option, run_options, say, set_option
from ensemble.config import ExperimentFile, find_space, load
from ensemble.text import command

if TYPE_CHECKING:
    from ensemble.planning.estimate import Survey
    from ensemble.planning.speed import Speed, Timing

CALIBRATION = 20.0  # seconds


@click.command()
@click.argument("file", metavar="FILE")
@results_option()
@set_option()
@click.option("--calibrate", is_flag=True, help="Train some steps on this machine for 20 seconds; makes missing data.")
@run_options()
def plan(
    file: str, results: Path, overrides: tuple[str, ...], calibrate: bool, address: str, device: str | None
) -> None:
    """Say what FILE amounts to: space, members, models, memory, FLOPs and hours. Nothing is trained or written.

    \b
    ensemble plan gpt_quick
    ensemble plan gpt_large --calibrate
    ensemble plan mine.yaml --set train.steps=500 --address auto
    """
    found = load(find_space(file), overrides)
    from ensemble.study.checks import check_plan
    from ensemble.study.plan import make_plan

    checked = make_plan(found, results)
    survey, speed, timings = _counted(found, results, calibrate, address, device)
    check_plan(checked, None if survey.data.assumed else survey.data.features)
    from rich.console import Console

    from ensemble.planning.text import plan_view

    Console().print(plan_view(survey, speed, timings))
    say(_next(file, overrides, survey, calibrate))


def _counted(
    file: ExperimentFile, results: Path, calibrate: bool, address: str, device: str | None
) -> "tuple[Survey, Speed, list[Timing]]":
    from ensemble.planning.estimate import rough_speed, survey

    if address == "local":
        found = survey(file, results, device)
    else:
        from ensemble.study.cluster import connected

        with connected(address, workers=False) as nodes:
            found = survey(file, results, device, nodes)
    return _calibrated(found, results) if calibrate else (found, rough_speed(found), [])


def _calibrated(found: "Survey", results: Path) -> "tuple[Survey, Speed, list[Timing]]":
    """Make the data where they are missing, which only a calibration does, and train a little."""
    from ensemble.planning.estimate import survey
    from ensemble.planning.speed import calibrate
    from ensemble.study.prepare import prepare

    file = found.file
    if not found.data.ready:
        say("--calibrate needs the data; they are made now and kept")
    data = prepare(file.first.data, file.path.absolute().parent, results, say)
    if not found.data.ready:
        found = survey(
            file, results, found.capacity.device, None if found.capacity.here else found.capacity.nodes, found.sample
        )
    by_step = sorted(found.cases, key=lambda case: case.cost.flops)
    chosen = {id(case): case.experiment for case in (by_step[0], by_step[len(by_step) // 2], by_step[-1])}
    speed, timings = calibrate(list(chosen.values()), data, file.searched, CALIBRATION, found.capacity.device)
    return found, speed, timings


def _next(file: str, overrides: tuple[str, ...], found: "Survey", calibrated: bool) -> str:
    given = [file, *(word for text in overrides for word in ("--set", text))]
    if found.too_large:
        again = command("ensemble", "plan", *given)
        return f"next: leave out what does not fit (search.constraints), then {again}"
    start = command("ensemble", *(("tune", "--space") if found.file.searched else ("train", "--config")), *given)
    if not calibrated and found.data.ready:
        return f"next: {command('ensemble', 'plan', *given, '--calibrate')}   or   {start}"
    return f"next: {start}"
