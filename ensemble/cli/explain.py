"""`ensemble explain`: the origin of a row of a run, and the command that trains it again; without torch or Ray."""

from pathlib import Path

import click

from ensemble.cli.options import FOLDER, SEED, say
from ensemble.text import command


@click.command()
@click.argument("run", metavar="DIR", type=FOLDER)
@click.argument("config", metavar="[CONFIG]", required=False)
@click.argument("seed", required=False, type=SEED)
def explain(run: Path, config: str | None, seed: int | None) -> None:
    """Say where a row came from, and the command that trains it again.

    That is data, versions, code and random streams. Without CONFIG all configurations are listed, best first. CONFIG is
    `best`, settings as in lr=4e-3 or lr=4e-3,n_embd=32, the number of a trial as in '#12' (in quotes: a shell takes #
    for a comment), or the beginning of a config_hash.

    \b
    ensemble explain results/search
    ensemble explain results/search best
    ensemble explain results/search '#12'
    ensemble explain results/search lr=4e-3
    ensemble explain results/search 4f0a 3
    """
    from ensemble.reporting.explain import explain as explain_row
    from ensemble.reporting.run import read_run
    from ensemble.reporting.selection import BEST, list_configurations

    found = read_run(run)
    if config is None:
        click.echo(list_configurations(found), nl=False)
        say(f"next: {command('ensemble', 'explain', run, BEST)}")
        return
    click.echo(explain_row(found, config, seed), nl=False)
