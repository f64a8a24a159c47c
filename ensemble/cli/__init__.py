"""The command line: one file per group of commands, each with its imports inside the command (floor 9).

Errors that a user can act on become a message on standard error and an exit code. Nothing is computed here.
"""

import errno
import sys

import click

from ensemble import __version__
from ensemble.cli.data import convert, inspect, simulate
from ensemble.cli.doctor import doctor
from ensemble.cli.evaluate import evaluate
from ensemble.cli.explain import explain
from ensemble.cli.foreign import export, import_
from ensemble.cli.plan import plan
from ensemble.cli.report import report
from ensemble.cli.schema import schema
from ensemble.cli.train import resume, train, tune
from ensemble.errors import INTERRUPTED, EnsembleError, UsageError
from ensemble.signals import exit_on_sigterm

EPILOG = """\b
First steps:
  ensemble tune --space quickstart.yaml        simulate, convert, train 2 x 3 members, a table
  ensemble report results/quickstart           the table again, with figures
  ensemble inspect data.h5 --write mine.yaml   an experiment file for your own data
  ensemble schema                              every key of an experiment file
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ensemble")
def cli() -> None:
    """Train ensembles of robot-learning models on trajectories and see which is really better."""


_RUNS = (plan, train, tune, resume, report, explain, evaluate)
for command in (simulate, inspect, convert, *_RUNS, export, import_, schema, doctor):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    exit_on_sigterm()
    # Click's standalone mode would exit with 1 on an interrupt and show our errors as tracebacks.
    try:
        code = cli.main(args=arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except OSError as error:
        # Of names in an experiment file; those of options are refused where they are read.
        if error.errno != errno.ENAMETOOLONG:
            raise
        click.echo(f"error: {error.filename}: {error.strerror}", err=True)
        code = UsageError.exit_code
    except EnsembleError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
