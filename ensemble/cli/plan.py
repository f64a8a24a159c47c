"""`ensemble plan`: size, memory and time of an experiment file, before anything runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ensemble.cli.experiment_file import experiment_file
from ensemble.cli.options import results_option, run_options, say, set_option
from ensemble.config import ExperimentFile, find_space, load
from ensemble.text import command

if TYPE_CHECKING:
    from ensemble.planning.estimate import Survey
    from ensemble.planning.speed import Speed, Timing

CALIBRATION = 20.0  # seconds


@click.command()
@experiment_file("--space", "--config", text="The same as FILE, as `tune` and `train` call it.")
@results_option()
@set_option()
@click.option("--calibrate", is_flag=True, help="Train some steps on this machine for 20 seconds; makes missing data.")
@click.option("--gpu", metavar="NAME|SIZE", help="What fits on a GPU that is not here: H100, 'RTX 4090', 24GiB.")
@run_options()
def plan(
    file: str,
    results: Path,
    overrides: tuple[str, ...],
    calibrate: bool,
    gpu: str | None,
    address: str,
    device: str | None,
) -> None:
    """Report what FILE amounts to: space, members, models, memory, FLOPs and hours. Nothing is trained or written.

    \b
    ensemble plan gpt_quick
    ensemble plan gpt_large --calibrate
    ensemble plan gpt_large --gpu H100
    ensemble plan mine.yaml --set train.steps=500 --address auto
    """
    # Read the file. Torch is imported after it, so that a mistyped key is reported at once.
    experiment_file = load(find_space(file), overrides)
    from ensemble.planning.gpu import find_card
    from ensemble.study.checks import check_plan
    from ensemble.study.plan import make_plan

    # Count and check
    card = None if gpu is None else find_card(gpu)
    checked = make_plan(experiment_file, results)
    survey, speed, timings = _counted(experiment_file, results, calibrate, address, device)
    check_plan(checked, None if survey.data.assumed else survey.data.features)

    # Print
    from rich.console import Console

    from ensemble.planning.text import plan_view

    Console().print(plan_view(survey, speed, timings, card))
    say(_next(file, overrides, survey, calibrate))


def _counted(
    file: ExperimentFile, results: Path, calibrate: bool, address: str, device: str | None
) -> "tuple[Survey, Speed, list[Timing]]":
    from ensemble.planning.estimate import rough_speed, survey

    if address == "local":
        counted = survey(file, results, device)
    else:
        from ensemble.study.cluster import connected

        with connected(address, False, say) as nodes:
            counted = survey(file, results, device, nodes)
    return _calibrated(counted, results) if calibrate else (counted, rough_speed(counted), [])


def _calibrated(counted: "Survey", results: Path) -> "tuple[Survey, Speed, list[Timing]]":
    """Make missing data, which only a calibration does, and train three configurations for a while."""
    from ensemble.planning.estimate import survey
    from ensemble.planning.speed import calibrate
    from ensemble.study.prepare import prepare

    # Data. The survey is repeated with them, since it assumed their features.
    file, capacity = counted.file, counted.capacity
    if not counted.data.ready:
        say("--calibrate needs the data; they are made now and kept")
    data = prepare(file.first.data, file.path.absolute().parent, results, say)
    if not counted.data.ready:
        nodes = None if capacity.local else capacity.nodes
        counted = survey(file, results, capacity.device, nodes, counted.sample)

    # The fastest, the median and the slowest step; fewer where they are the same case
    by_step = sorted(counted.cases, key=lambda case: case.cost.flops)
    chosen = {id(case): case.experiment for case in (by_step[0], by_step[len(by_step) // 2], by_step[-1])}
    speed, timings = calibrate(list(chosen.values()), data, file.searched, CALIBRATION, capacity.device)
    return counted, speed, timings


def _next(file: str, overrides: tuple[str, ...], survey: "Survey", calibrated: bool) -> str:
    arguments = [file, *(argument for text in overrides for argument in ("--set", text))]
    if survey.too_large:
        again = command("ensemble", "plan", *arguments)
        return f"next: leave out what does not fit (search.constraints), then {again}"
    start = command("ensemble", *(("tune", "--space") if survey.file.searched else ("train", "--config")), *arguments)
    if not calibrated and survey.data.ready:
        return f"next: {command('ensemble', 'plan', *arguments, '--calibrate')}   or   {start}"
    return f"next: {start}"
