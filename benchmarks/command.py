"""What the command lines of all benchmarks share: `--quick`, a first line that says what comes, and flushed rows.

Only the standard library is imported.
"""

import argparse
from collections.abc import Mapping, Sequence


class Parser(argparse.ArgumentParser):
    """A parser with `--quick`: each option that is not given takes its value in `quick` instead of its default."""

    def __init__(self, description: str | None, quick: Mapping[str, object]) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._quick = quick
        help_text = "tiny sizes: does it run? (its numbers mean nothing)"
        self.add_argument("--quick", action="store_true", help=help_text)

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Return the options; an explicit one beats the value of `--quick`."""
        options = self.parse_args(arguments)
        unknown = self._quick.keys() - vars(options).keys()
        assert not unknown, f"--quick sets what is no option: {unknown}"
        if options.quick:
            self.set_defaults(**self._quick)
            options = self.parse_args(arguments)
        return options


def announce(options: argparse.Namespace, what: str, minutes: float) -> None:
    """Say what the benchmark is going to do, and how many minutes it takes on two cores with its default sizes."""
    full = f"about {minutes:g} min on two quiet cores with the default sizes"
    say(f"{what} ({'--quick: seconds, its numbers mean nothing' if options.quick else full})")


def equivalence(text: str) -> None:
    """Say that both sides were found to do the same, and how nearly."""
    say(f"equivalence: {text}")


def row(name: str, *cells: str, width: int = 0) -> None:
    """Print a row: its name, then its cells, each right-aligned in `width` columns."""
    say(f"  {name:36s}  " + "  ".join(f"{cell:>{width}s}" for cell in cells))


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)
