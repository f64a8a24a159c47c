"""Ctrl-C and SIGTERM: what each does to a command, whatever it runs.

A first Ctrl-C lets a run save and stop, a second one ends the process at once. SIGTERM raises SystemExit, so that
`finally` blocks run. Where the main thread waits in a library, which delays both, a thread takes the signals
(`watched`). The exit codes are in `errors`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from ensemble.errors import TERMINATED

Handler = Callable[[int, FrameType | None], None]

_REPEAT_SECONDS = 0.05  # until a signal is sent again that was lost


def exit_on_sigterm() -> None:
    """Raise SystemExit at SIGTERM: locks are released and Ray is shut down on the way out."""
    signal.signal(signal.SIGTERM, terminate)


def keep_interrupts() -> None:
    """Repeat a signal whose exception Python cannot pass on, such as one in a finalizer; it would be lost."""
    before = sys.unraisablehook
    numbers = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}

    def repeat(ignored: "sys.UnraisableHookArgs") -> None:
        number = numbers.get(ignored.exc_type)
        if number is None:
            before(ignored)
        else:
            # Later: an exception raised here would be ignored as well.
            threading.Timer(_REPEAT_SECONDS, os.kill, (os.getpid(), number)).start()

    sys.unraisablehook = repeat


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """Put the handler of SIGTERM back after the block: Ray installs its own, which exits with another code."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def watched(actions: Mapping[int, Callable[[], None]], handler: Handler) -> Iterator[None]:
    """Call the action of a signal at each one within the block, in a thread: at once, whatever the main thread does.

    `handler` is called in the main thread as soon as that is possible, and may raise. At the end of the block the
    action that runs is waited for.
    """
    # The interpreter writes the numbers of signals to this pipe from within its C handler.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.getsignal(number) for number in actions}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def act() -> None:
        while numbers := os.read(reader, 64):
            for number in numbers:
                if number in actions:
                    actions[number]()

    thread = threading.Thread(target=act, name="signals", daemon=True)
    thread.start()
    for number in actions:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        thread.join()
        os.close(reader)


def terminate(number: int, frame: FrameType | None) -> None:
    """Raise SystemExit with the exit code of SIGTERM."""
    del number, frame
    raise SystemExit(TERMINATED)
