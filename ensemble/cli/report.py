"""`ensemble report`: tables and figures of finished runs, without torch or Ray."""

from pathlib import Path

import click

from ensemble.cli.options import FOLDER, say_next
from ensemble.text import command


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="DIR [DIR ..]", type=FOLDER)
@click.option(
    "--metric",
    help="What is compared, as in test/loss; by default the error on the test split, as in the page.",
)
@click.option("--no-figures", is_flag=True, help="Print the tables alone: nothing is drawn or written.")
def report(runs: tuple[Path, ...], metric: str | None, no_figures: bool) -> None:
    """Print the table of one run and write its page, or print several runs side by side.

    Another --metric, --no-figures and several runs are printed alone, and leave each run's page as it is.

    \b
    ensemble report results/quickstart
    ensemble report results/a results/b --metric test/loss
    """
    from rich.console import Console

    from ensemble.reporting.report import show
    from ensemble.run_directory import RunDirectory

    # Tables and figures
    reports = show(runs, Console(), metric, figures=not no_figures)

    # Next commands
    policies = [each.run.path for each in reports if each.run.of_policies]
    marks = [(each.run.path, each.findings.mark) for each in reports if each.findings and each.findings.mark]
    commands = [command("ensemble", "evaluate", path) for path in policies[:1]]
    commands += [command("ensemble", "explain", *mark) for mark in marks[:1]]
    say_next(*(commands or [command("tensorboard", "--logdir", RunDirectory(runs[0]).members)]))
