"""One driver for one run: a lock beside the run directory that dies with the process that holds it.

The lock is the file system's (flock), so that of a killed process is free. Its file is there while it is held and is
removed by its holder alone: who was still opening it then holds a file that is gone, sees that, and opens it anew.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from ensemble.errors import StorageError, UsageError

_TRIES = 10_000  # to open a file, or to make a directory, that another process removes in the same moment


@contextmanager
def sole_driver(run: Path) -> Iterator[None]:
    """Hold the right to write into `run`; UsageError naming who holds it, at once."""
    with held(run.parent / f".{run.name}.driver", str(run)) as file:
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        file.flush()
        yield


@contextmanager
def held(place: Path, what: str | None = None) -> Iterator[TextIO]:
    """Hold the lock `place`: wait for it, or, where `what` is written is said, UsageError at once if another has it.

    Directories that are made for it and are empty in the end, since what was begun was refused, are removed with it.
    Raises StorageError where nothing can be written.
    """
    made = [directory for directory in place.parents if not directory.exists()]
    with _taken(place, what) as file:
        try:
            yield file
        finally:
            place.unlink(missing_ok=True)
            with suppress(OSError):  # the first that is not empty ends it
                for directory in made:
                    directory.rmdir()


def _taken(place: Path, what: str | None) -> TextIO:
    """Return the file of the lock, open and locked; the one that `place` names, not one that was removed meanwhile."""
    for _ in range(_TRIES):
        file = _opened(place)
        try:
            fcntl.flock(file, fcntl.LOCK_EX if what is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                raise UsageError(f"{what} is being written by {_owner(file.read())}") from error
        except OSError as error:
            file.close()
            raise StorageError(f"{place}: cannot be locked: {error.strerror}") from error
        if _names(place, file):
            return file
        file.close()
    raise StorageError(f"{place}: cannot be locked: another file stands there each time that it is opened")


def _opened(place: Path) -> TextIO:
    for left in reversed(range(_TRIES)):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            return os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
        except OSError as error:
            removed = isinstance(error, FileNotFoundError | FileExistsError)  # perhaps by its maker, who was refused
            if not (removed and left):
                raise StorageError(f"{place}: cannot be written: {error.strerror}") from error
    raise AssertionError("the last try returns or raises")


def _names(place: Path, file: TextIO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(place), os.fstat(file.fileno()))
    return False


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
