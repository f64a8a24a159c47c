"""The command line: one file per group of commands, each with its imports inside the command (floor 9).

How each of them ends is `endings`. Nothing is computed here.
"""

import sys
from typing import Any

import click

from ensemble import __version__
from ensemble.cli.data import convert, inspect, simulate
from ensemble.cli.doctor import doctor
from ensemble.cli.endings import OneLineEnding
from ensemble.cli.evaluate import evaluate
from ensemble.cli.explain import explain
from ensemble.cli.foreign import export, import_
from ensemble.cli.plan import plan
from ensemble.cli.report import report
from ensemble.cli.schema import schema
from ensemble.cli.train import resume, train, tune
from ensemble.signals import exit_on_sigterm, keep_interrupts

_UNCUT = 1000  # characters of a summary
EPILOG = """\b
First steps:
  ensemble tune quickstart                     data, 2 x 3 members, a table
  ensemble report results/quickstart           the table again, with figures
  ensemble inspect data.h5 --write mine.yaml   an experiment file for yours
  ensemble schema                              every key of an experiment file

\b
The shell completes commands, options and files (or zsh_source, fish_source):
  eval "$(_ENSEMBLE_COMPLETE=bash_source ensemble)"
"""


class Commands(click.Group):
    """The commands, in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of their addition."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands; their summaries go on in further lines, where click cuts them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.commands[name].get_short_help_str(_UNCUT)) for name in self.commands])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a pipe that breaks passes as another error, since click would end silently at any."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise RuntimeError("the process at the other end of a pipe has ended") from error


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="ensemble")
def cli() -> None:
    """Train ensembles of robot-learning models on trajectories and see which is really better."""


_RUNS = (plan, train, tune, resume, report, explain, evaluate)
for command in (simulate, inspect, convert, *_RUNS, export, import_, schema, doctor):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; whatever goes wrong ends as `endings` says."""
    exit_on_sigterm()
    keep_interrupts()
    with OneLineEnding(sys.argv[1:] if arguments is None else arguments):
        # Click's standalone mode would exit with 1 on an interrupt and show our errors as tracebacks.
        code = cli.main(args=arguments, prog_name="ensemble", standalone_mode=False)
    sys.exit(code if isinstance(code, int) else 0)
