"""The experiment file on a command line: as a plain argument or as an option, completed by the shell, found by name."""

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ensemble.cli.options import Decorator
from ensemble.config import shipped
from ensemble.errors import UsageError

_ENDINGS = (".yaml", ".yml")


class ExperimentFileType(click.ParamType[str]):
    """A path or the name of a shipped file; which file it is, and whether there is one, is `find_space`'s."""

    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return experiment files that begin so: of this directory, of search_spaces, shipped; else any path."""
        found = dict.fromkeys(name for name in _experiment_files() if name.startswith(incomplete))
        return [*map(CompletionItem, found)] or [CompletionItem(incomplete, type="file")]


def _experiment_files() -> Iterator[str]:
    for folder in (Path(), Path("search_spaces"), shipped()):
        if folder.is_dir():
            yield from sorted(path.name for path in folder.iterdir() if path.suffix in _ENDINGS)


def experiment_file(*spellings: str, text: str) -> Decorator:
    """Return the argument FILE and an option of the same meaning, of which the command takes one, as `file`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def with_file(file: str | None, option: str | None, **others: Any) -> Any:
            return function(file=_the_one(file, option, spellings[0]), **others)

        kind = ExperimentFileType()
        optional = click.option(*spellings, "option", metavar="FILE", type=kind, help=text)(with_file)
        return click.argument("file", metavar="[FILE]", required=False, type=kind)(optional)

    return decorate


def _the_one(file: str | None, option: str | None, spelling: str) -> str:
    if file is not None and option is not None and file != option:
        raise UsageError(f"two experiment files, {file} and {spelling} {option}; give one")
    given = option if file is None else file
    if given is None:
        name = click.get_current_context().info_name
        raise UsageError(f"no experiment file; as in `ensemble {name} quickstart`, or `ensemble {name} mine.yaml`")
    return given
