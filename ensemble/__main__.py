"""The command `ensemble`, which is `python -m ensemble`: it loads the commands and runs one.

Until they are loaded, nothing is to be saved or closed: Ctrl-C ends the process at once, without a traceback.
"""

import os
import sys

_INTERRUPTED = 130  # of `errors`, which is not loaded yet

try:
    import signal
except KeyboardInterrupt:
    os._exit(_INTERRUPTED)


def main() -> None:
    """Run the command line and exit with its code."""
    previous = signal.getsignal(signal.SIGINT)
    # A shell that starts a job in the background has it ignored, and that stays.
    if previous is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    try:
        from ensemble.cli import main as command
    except ImportError as error:
        if (error.name or "ensemble").startswith("ensemble"):
            raise
        sys.exit(f"error: a package is missing or damaged: {error}; install it: `pip install .`")
    signal.signal(signal.SIGINT, previous)
    command()


def _leave(number: int, frame: object) -> None:
    del number, frame
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
