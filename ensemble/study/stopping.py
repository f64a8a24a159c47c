"""What Ctrl-C and SIGTERM do to a study, at any time between its first line and its last.

While trials run, a first Ctrl-C pauses them at their next validation, and a second one ends the process. SIGTERM leaves
three seconds in a Ray job: it pauses trials too, waits for those that save in time, and ends the process. Before and
after the trials both unwind the main thread, which is given as long; Ray keeps it for minutes.

The process ends without `finally` blocks then, so everything on disk has to be whole at any time. Ray's processes are
ended with this one.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ensemble.errors import INTERRUPTED, TERMINATED
from ensemble.run_directory import RunDirectory
from ensemble.schema import Say
from ensemble.signals import terminate, watched
from ensemble.study.start import end_processes
from ensemble.text import command

_SECONDS_TO_PAUSE = 1.2  # of running trials
_SECONDS_TO_END = 2.2  # in all, of the 3 s that Ray gives a job that it stops
_SECONDS_TO_SPEAK = 2.0  # where nobody reads standard output
STOPPING = "stopping: running trials save their members at the next validation; Ctrl-C again stops at once"


@dataclass(frozen=True)
class RunningTrials:
    """How the trials that run now are stopped."""

    pause: Callable[[], None]  # at their next validation; it returns at once
    paused: Callable[[], bool]  # whether none runs any more
    keep: Callable[[], None]  # writes what the run has reached so far
    close: Callable[[], None]  # ends the display
    say: Say


class Stopping:
    """The answer of one study to signals."""

    def __init__(self, run: Path, say: Say) -> None:
        self._run = run
        self._say = say
        self._trials: RunningTrials | None = None
        self._interrupted = False
        self._over = threading.Event()
        self._leaving = threading.Lock()  # taken for good by the thread that ends the process
        # Held while a signal is acted on: trials that end meanwhile must not pass for running ones, or the reverse.
        self._acting = threading.RLock()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Answer signals within the block, which is the whole study."""
        actions: dict[int, Callable[[], None]] = {signal.SIGINT: self._interrupt, signal.SIGTERM: self._terminate}
        with watched(actions, self._unwind):
            try:
                yield
            finally:
                self._over.set()

    @contextmanager
    def trials(self, running: RunningTrials) -> Iterator[None]:
        """Stop these trials at a signal within the block."""
        self._trials = running
        try:
            yield
        finally:
            with self._acting:
                self._trials = None

    def _unwind(self, number: int, frame: FrameType | None) -> None:
        """Raise the exception of a signal in the main thread, but for trials, which the other thread stops."""
        if self._trials is None:
            if number == signal.SIGTERM:
                terminate(number, frame)
            raise KeyboardInterrupt

    def _interrupt(self) -> None:
        with self._acting:
            if self._trials is None:
                self._end_late("interrupted", INTERRUPTED)
            elif self._interrupted:
                self._leave("stopped", INTERRUPTED)
            else:
                self._interrupted = True
                self._trials.say(STOPPING)
                self._trials.pause()

    def _terminate(self) -> None:
        self._end_late("terminated", TERMINATED)
        with self._acting:
            if self._trials is None:
                return
            limit = time.monotonic() + _SECONDS_TO_PAUSE
            self._trials.pause()
            while not self._trials.paused() and time.monotonic() < limit:
                time.sleep(0.05)
            self._trials.keep()
            self._leave("terminated", TERMINATED)

    def _end_late(self, how: str, code: int) -> None:
        """End the process in a few seconds, unless the study has ended by then."""

        def end() -> None:
            if not self._over.wait(_SECONDS_TO_END):
                self._leave(how, code)

        threading.Thread(target=end, name="end", daemon=True).start()

    def _leave(self, how: str, code: int) -> None:
        """Print the last line and end the process, at once where standard output takes none."""

        def speak() -> None:
            if self._trials is not None:
                self._trials.close()
            self._say(last_words(self._run, how))
            sys.stdout.flush()

        if not self._leaving.acquire(blocking=False):
            return
        speaker = threading.Thread(target=speak, name="last words", daemon=True)
        speaker.start()
        speaker.join(_SECONDS_TO_SPEAK)
        end_processes()
        os._exit(code)


def last_words(run: Path, how: str) -> str:
    """Return the last line of a run that ended early: `terminated; continue with: ensemble resume results/run`."""
    begun = RunDirectory(run).experiment_file.is_file()
    return f"{how}; continue with: {command('ensemble', 'resume', run)}" if begun else f"{how} before anything began"
