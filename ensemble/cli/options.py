"""Options and output of several commands."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ensemble.config.base import LARGEST_INTEGER
from ensemble.text import no_text

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_LONGEST_NAME = 255  # bytes of a name on Linux and macOS
_LONGEST_FOLDER = _LONGEST_NAME - 15  # locks and temporary names beside it add to it


class NamedPath(click.Path):
    """A path whose every name a file system can hold."""

    def __init__(self, longest: int = _LONGEST_NAME, **options: Any):
        super().__init__(**options)
        self._longest = longest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; a name that is too long is a wrong option, said before anything is done."""
        long = next((name for name in Path(value).parts if len(os.fsencode(name)) > self._longest), None)
        if long is not None:
            text = f"a name is longer than the {self._longest} bytes that are possible; choose a shorter one"
            self.fail(f"{long[:30]}..: {text}", param, ctx)
        if (name := no_text(Path(value))) is not None:
            self.fail(f"the name {name} is no text in UTF-8; rename it", param, ctx)
        return super().convert(value, param, ctx)


FOLDER = NamedPath(_LONGEST_FOLDER, file_okay=False, path_type=Path)
FILE = NamedPath(dir_okay=False, path_type=Path)
PATH = NamedPath(path_type=Path)
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
