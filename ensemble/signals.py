"""Ctrl-C and SIGTERM: what each does to a command, whatever it runs.

A first Ctrl-C lets a run save and stop, a second one ends the process at once (`two_interrupts`). SIGTERM raises
SystemExit, so that `finally` blocks run. The exit codes are in `errors`.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ensemble.errors import INTERRUPTED, TERMINATED


def exit_on_sigterm() -> None:
    """Raise SystemExit at SIGTERM: locks are released and Ray is shut down on the way out."""
    signal.signal(signal.SIGTERM, _terminate)


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """Put the handler of SIGTERM back after the block: Ray installs its own, which exits with another code."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@contextmanager
def two_interrupts(first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """Call `first` at the first Ctrl-C within the block; at the next one call `second` and end the process at once.

    The process ends without `finally` blocks, so everything on disk has to be whole at any time.
    """
    previous = signal.getsignal(signal.SIGINT)
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        del number, frame
        if interrupted:
            second()
            os._exit(INTERRUPTED)
        interrupted = True
        first()

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise SystemExit(TERMINATED)
