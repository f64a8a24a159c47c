"""`ensemble explain`: the origin of a row of a run, and the command that trains it again; without torch or Ray."""

from pathlib import Path

import click

from ensemble.cli.options import FOLDER
from ensemble.config.base import LARGEST_SEED


@click.command()
@click.argument("run", metavar="DIR", type=FOLDER)
@click.argument("config", metavar="CONFIG")
@click.argument("seed", required=False, type=click.IntRange(0, LARGEST_SEED))
def explain(run: Path, config: str, seed: int | None) -> None:
    """Say where a row came from: data, versions, code, random streams, and the command that trains it again.

    CONFIG is the beginning of a config_hash, or the number of a trial as in '#12' (in quotes: a shell takes # for a
    comment).

    \b
    ensemble explain results/search '#12'
    ensemble explain results/search 4f0a 3
    """
    from ensemble.reporting.explain import explain as explain_row
    from ensemble.reporting.run import read_run

    click.echo(explain_row(read_run(run), config, seed), nl=False)
