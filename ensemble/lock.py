"""One driver for each run: a lock file next to the run directory, released when the process that holds it ends.

The lock is the file system's (flock), so it is free after its process was killed. Only its holder removes the file. A
process that opened the file before the removal then has a lock on a deleted file; it checks for that and opens again.
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

_ATTEMPTS = 10_000  # to open a file, or make a directory, that other processes keep removing


@contextmanager
def sole_driver(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory; UsageError at once, naming the process that holds it."""
    with held(run.parent / f".{run.name}.driver", str(run)) as file:
        file.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        file.flush()
        yield


@contextmanager
def held(path: Path, target: str | None = None) -> Iterator[TextIO]:
    """Hold the lock file `path`: wait for it, or, with the `target` it protects, UsageError at once if it is held.

    Directories made for it are removed with it where they are empty in the end, after a refusal for example.
    Raises StorageError where nothing can be written.
    """
    made = [directory for directory in path.parents if not directory.exists()]
    with _acquire(path, target) as file:
        try:
            yield file
        finally:
            # While it is locked: removed later, it could be the file of the next holder.
            path.unlink(missing_ok=True)
            with suppress(OSError):  # stop at the first that is not empty
                for directory in made:
                    directory.rmdir()


def _acquire(path: Path, target: str | None) -> TextIO:
    """Return the lock file, open and locked: the one at `path`, not one that was removed meanwhile."""
    for _ in range(_ATTEMPTS):
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX if target is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                raise UsageError(f"{target} is being written by {_owner(file.read())}") from error
        except OSError as error:
            file.close()
            raise StorageError(f"{path}: cannot be locked: {error.strerror}") from error
        if _is_at(path, file):
            return file
        file.close()
    raise StorageError(f"{path}: cannot be locked: the file is replaced each time that it is opened")


def _open(path: Path) -> TextIO:
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not "w", which would erase the name of the holder.
            return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
        except OSError as error:
            # Another process may have removed the directory that it made, between the two calls.
            removed = isinstance(error, FileNotFoundError | FileExistsError)
            if not (removed and remaining):
                raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    raise AssertionError("the last attempt returns or raises")


def _is_at(path: Path, file: TextIO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    return False


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
