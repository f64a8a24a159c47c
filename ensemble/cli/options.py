"""Options and output of several commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ensemble.config.base import LARGEST_INTEGER

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)
SEED = click.IntRange(0, LARGEST_INTEGER)


def results_option() -> Decorator:
    """Return the option --results DIR."""
    text = "Where runs go: DIR/<experiment>. Converted data go to shards/ next to it."
    return click.option("--results", type=FOLDER, default=Path("results"), show_default=True, help=text)


def set_option() -> Decorator:
    """Return the repeatable option --set KEY=VALUE."""
    text = "Override a key of the file, as in --set train.steps=500. Repeatable."
    return click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help=text)


def run_options() -> Decorator:
    """Return the options --device and --address."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        where = "A Ray of its own (local; inside a Ray job that job's cluster), or the address of a running one."
        function = click.option("--address", default="local", show_default=True, help=where)(function)
        device = click.Choice(["cpu", "cuda"])
        return click.option("--device", type=device, help="Where to train; by default on GPUs if there are any.")(
            function
        )

    return decorate


def say(line: str) -> None:
    """Print a line for the user, flushed."""
    click.echo(line)


def say_next(*commands: str) -> None:
    """Print the next commands, the most likely first."""
    say(f"next: {'   or   '.join(commands)}")
