"""Options that several commands share, and lines that they print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


def results_option() -> Decorator:
    """--results DIR."""
    text = "Where runs go: DIR/<experiment>. Converted data lie beside it, in shards/."
    return click.option("--results", type=FOLDER, default=Path("results"), show_default=True, help=text)


def set_option() -> Decorator:
    """--set a.b=value, as often as wanted."""
    text = "Override a key of the file, as in --set train.steps=500. Repeatable."
    return click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help=text)


def run_options() -> Decorator:
    """--device and --address."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        where = "A Ray of its own (local; inside a Ray job that job's cluster), or the address of a running one."
        function = click.option("--address", default="local", show_default=True, help=where)(function)
        device = click.Choice(["cpu", "cuda"])
        return click.option("--device", type=device, help="Where to train; by default on GPUs if there are any.")(
            function
        )

    return decorate


def say(line: str) -> None:
    """Print a line for the user, at once."""
    click.echo(line)


def say_next(*commands: str) -> None:
    """Print what to do next, the likeliest first."""
    say(f"next: {'   or   '.join(commands)}")
