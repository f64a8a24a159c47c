"""Lines that say what a command waits for, while it does."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ensemble.schema import Say
from ensemble.text import duration

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def waiting(what: str | Callable[[], str], say: Say, seconds: float = SECONDS_BETWEEN_LINES) -> Iterator[None]:
    """Say every 30 s within the block what is waited for (a function returns it; an empty text is not said)."""
    began, ended = time.monotonic(), threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            if text := what if isinstance(what, str) else what():
                say(f"waiting until {text} ({duration(time.monotonic() - began, tenths=False)})")

    # A thread: the block waits in Ray, which returns only at its end.
    thread = threading.Thread(target=repeat, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
