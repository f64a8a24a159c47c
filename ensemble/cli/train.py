"""`ensemble tune`, `train` and `resume`: from an experiment file to a table."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ensemble.cli.experiment_file import experiment_file
from ensemble.cli.options import FOLDER, results_option, run_options, say, say_next, set_option
from ensemble.config import ExperimentFile, find_space, load
from ensemble.config.base import MOST_SEEDS
from ensemble.errors import TERMINATED, UsageError
from ensemble.text import command, plural

if TYPE_CHECKING:
    from ensemble.study.plan import Plan
    from ensemble.study.study import Options

_YES = click.option("--yes", is_flag=True, help="Begin although this machine would need more than half a day.")
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace an earlier run of this name.")


@click.command()
@experiment_file("--space", text="The same as FILE: an experiment file, or the name of a shipped one.")
@results_option()
@set_option()
@_OVERWRITE
@_YES
@run_options()
def tune(
    file: str, results: Path, overrides: tuple[str, ...], overwrite: bool, yes: bool, address: str, device: str | None
) -> None:
    """Search the space that FILE spans, and train the best on fresh seeds.

    FILE is an experiment file, or the name of a shipped one.

    \b
    ensemble plan quickstart                  # what it amounts to
    ensemble tune quickstart
    ensemble tune gpt_quick --set search.pruner=i_epoch
    ensemble tune --space mine.yaml --set train.steps=500 --set search.seeds=5
    ray job submit --working-dir . -- \\
        python -m ensemble tune mine.yaml --results /data/results
    """
    _begin(load(find_space(file), overrides), results, overwrite, yes, address, device)


@click.command()
@experiment_file("--config", text="The same as FILE: an experiment file in which nothing is left to choose.")
@results_option()
@set_option()
@_OVERWRITE
@_YES
@run_options()
def train(
    file: str, results: Path, overrides: tuple[str, ...], overwrite: bool, yes: bool, address: str, device: str | None
) -> None:
    """Train a seed ensemble: one configuration, `ensemble.seeds` times.

    \b
    ensemble train mine.yaml
    ensemble train --config mine.yaml --set ensemble.seeds=5
    ensemble train mine.yaml --set data.path=data.h5
    """
    experiment = load(find_space(file), overrides)
    if experiment.searched:
        name, search = next(iter(experiment.space)), command("ensemble", "tune", "--space", file)
        raise UsageError(f"{experiment.path}: {name} is a distribution; `{search}` searches it")
    _begin(experiment, results, overwrite, yes, address, device)


@click.command()
@click.argument("run", metavar="DIR", type=FOLDER)
@click.option("--trials", metavar="N|+N", help="Extend a search: to N configurations in all, or by N.")
@click.option(
    "--seeds",
    type=click.IntRange(1, MOST_SEEDS),
    metavar="N",
    help="Extend to N seeds: of the ensemble, or of each finalist.",
)
@click.option("--force", is_flag=True, help="Continue with other versions of libraries or code; the report says so.")
@run_options()
def resume(run: Path, trials: str | None, seeds: int | None, force: bool, address: str, device: str | None) -> None:
    """Finish a run: members that ended are kept, failed ones are repeated, others continue.

    \b
    ensemble resume results/quickstart
    ensemble resume results/gpt_quick --trials +20  # search on
    ensemble resume results/gpt_quick --seeds 10    # more seeds for the finalists
    """
    from ensemble.lock import sole_driver
    from ensemble.study.plan import FORCED, forget_failures, is_complete
    from ensemble.study.resume import damaged_checkpoints, data_of_run, other_versions, plan_of_run
    from ensemble.study.study import Options

    # Before the lock: errors of the options leave the directory untouched.
    plan = plan_of_run(run, _extension(run, trials, seeds))
    with sole_driver(plan.run):
        changed = other_versions(plan)
        if changed and not force and not (is_complete(plan) and trials is None and seeds is None):
            raise UsageError(f"{run}: {changed[0]} since the run began; results may differ. --force continues anyway")
        if count := forget_failures(plan):
            say(f"{plural(count, 'failed member')} will be trained again")
        if is_complete(plan) and trials is None and seeds is None:
            say(f"{plan.run} is finished")
            _show(plan)
            return
        for line in damaged_checkpoints(plan.run):
            say(line)
        forced = tuple(FORCED + each for each in changed)
        _run(plan, Options(address, device, forced=forced), data_of_run(plan))


def _extension(run: Path, trials: str | None, seeds: int | None) -> list[str]:
    """Return the overrides of an experiment for `--trials` and `--seeds`."""
    from ensemble.study.resume import plan_of_run

    first = plan_of_run(run).file.first
    overrides = []
    if trials is not None:
        if not re.fullmatch(r"\+?[0-9]{1,9}", trials):
            raise UsageError(f"--trials {trials}: needs a number, or +N for so many more")
        now = first.search.most_trials or 0
        wanted = now + int(trials) if trials.startswith("+") else int(trials)
        if first.search.sampler == "grid":
            raise UsageError(f"--trials {trials}: the search is a grid, which has no more; search a wider space")
        if wanted < now:
            raise UsageError(
                f"--trials {trials}: the search has {now}; give a larger total, or +{trials} for so many more"
            )
        overrides.append(f"search.trials={wanted}")
    if seeds is not None:
        if isinstance(first.ensemble.seeds, list) or seeds < first.ensemble.seeds:
            raise UsageError(f"--seeds {seeds}: the run has {first.ensemble.seeds} seeds; give a larger number")
        overrides.append(f"ensemble.seeds={seeds}")
    return overrides


def _begin(file: ExperimentFile, results: Path, overwrite: bool, yes: bool, address: str, device: str | None) -> None:
    from ensemble.lock import sole_driver
    from ensemble.study.cluster import in_job
    from ensemble.study.plan import is_finished, make_plan, refuse_foreign
    from ensemble.study.study import Options

    # Refuse what cannot work before anything is locked or removed
    _refuse_temporary(file, results)
    plan = make_plan(file, results)
    refuse_foreign(plan, overwrite)

    # Run
    with sole_driver(plan.run):
        if not overwrite and is_finished(plan):
            say(f"{plan.run} is finished; --overwrite trains it again")
            _show(plan)
            return
        if not yes and address == "local" and not in_job():
            _refuse_long(file, plan.run.parent, device)
        _run(plan, Options(address, device, overwrite))


def _refuse_long(file: ExperimentFile, results: Path, device: str | None) -> None:
    """Raise UsageError for more than half a day on this machine, with the plan, and for what does not fit on it."""
    from ensemble.planning.estimate import LONG_SECONDS, estimate_time, refuse_too_large, rough_speed, survey
    from ensemble.planning.text import plan_text

    counted = survey(file, results, device)
    speed = rough_speed(counted)
    total = estimate_time(counted, speed).total
    if total > LONG_SECONDS:
        say(plan_text(counted, speed))
        hours = total / 3600
        raise UsageError(
            f"this machine would need about {hours:,.0f} hours ({hours / 24:,.1f} days). On a cluster: "
            "`ray job submit` or --address. Here: `ensemble tune --space gpt_quick.yaml` in minutes; or --yes"
        )
    refuse_too_large(counted)


def _refuse_temporary(file: ExperimentFile, results: Path) -> None:
    """Raise UsageError for a relative path inside a Ray job, whose working directory is a temporary copy."""
    from ensemble.study.cluster import in_job

    storage = Path(file.first.storage) if file.first.storage else results
    if in_job() and not storage.expanduser().is_absolute():
        raise UsageError(
            f"inside a Ray job the working directory is a temporary copy, and {storage} would be lost with it; "
            "give an absolute --results (or `storage:`) that every node sees"
        )


def _run(plan: "Plan", options: "Options", shards: Mapping[str, Path] | None = None) -> None:
    from ensemble.study.stopping import last_words
    from ensemble.study.study import run_study

    try:
        run_study(plan, options, say, shards)
    except KeyboardInterrupt:
        say(last_words(plan.run, "interrupted"))
        raise
    # Ray may replace the exit code of the signal by its own.
    except SystemExit as error:
        say(last_words(plan.run, "terminated"))
        raise SystemExit(TERMINATED) from error
    _show(plan)


def _show(plan: "Plan") -> None:
    from rich.console import Console

    from ensemble.reporting.report import show
    from ensemble.run_directory import RunDirectory

    # Table and figures
    run = RunDirectory(plan.run)
    report = show([plan.run], Console())[0]

    # Next commands: policies are evaluated first, since losses do not rank them
    commands: list[tuple[object, ...]] = [("ensemble", "evaluate", plan.run)] if report.run.of_policies else []
    if report.findings and report.findings.mark:
        if run.journal_file.is_file():
            study = command("optuna-dashboard", run.journal_file)
            say(f"the study: {study}   (pip install optuna-dashboard)")
        commands += [("ensemble", "explain", plan.run, report.findings.mark)]
    commands += [("tensorboard", "--logdir", run.members)]
    commands += [("ensemble", "report", plan.run, "--metric", "test/loss")]
    say_next(*(command(*arguments) for arguments in commands[:2]))
