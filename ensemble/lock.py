"""One driver for each run: a lock file next to the run directory, released when the process that holds it ends.

The lock is the file system's (flock), so it is free after its process was killed. Only its holder removes the file. A
process that opened the file before the removal then has a lock on a deleted file; it checks for that and opens again.

A lock file is written, so one that somebody else placed is refused: a symbolic link, a second name of another file, and
in a directory that everyone may write to the file of another user.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from ensemble.errors import StorageError, UsageError

_ATTEMPTS = 10_000  # to open a file, or make a directory, that other processes keep removing

_LONGEST_NAME = 200  # bytes of a lock's name before its ending
_GLANCES, _GLANCE_SECONDS = 50, 0.01  # at the name of a lock's holder


@contextmanager
def sole_driver(run: Path) -> Iterator[None]:
    """Hold the lock of a run directory; UsageError at once, naming the process that holds it."""
    # Of the directory itself, whatever symbolic link leads to it.
    place = run.resolve()
    with held(place.parent / f".{place.name}.driver", str(run)):
        yield


@contextmanager
def held_beside(path: Path) -> Iterator[None]:
    """Hold the lock of a file or directory that is written whole; UsageError at once, naming the process that holds it.

    The lock file lies next to `path`. Whether `path` exists already is only certain inside.
    """
    name = os.fsdecode(os.fsencode(f".{path.name}")[:_LONGEST_NAME])
    with held(path.with_name(f"{name}.lock"), str(path)):
        yield


@contextmanager
def held(path: Path, target: str | None = None) -> Iterator[None]:
    """Hold the lock file `path`: wait for it, or, with the `target` it protects, UsageError at once if it is held.

    Directories made for it are removed with it where they are empty in the end, after a refusal for example.
    Raises StorageError where nothing can be written.
    """
    made = [directory for directory in path.parents if not directory.exists()]
    with _acquire(path, target) as file:
        try:
            file.truncate(0)
            since = datetime.now(UTC).isoformat(timespec="seconds")
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
            file.flush()
            yield
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
                raise UsageError(f"{target} is being written by {_owner(file)}") from error
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
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            # Another process may have removed the directory that it made, between the two calls.
            removed = isinstance(error, FileNotFoundError | FileExistsError)
            if not (removed and remaining):
                reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
                raise StorageError(f"{path}: cannot be written: {reason}") from error
        else:
            _refuse_planted(path, descriptor)
            return os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")
    raise AssertionError("the last attempt returns or raises")


def _refuse_planted(path: Path, descriptor: int) -> None:
    """Raise StorageError for a lock file that was not made as one: what is written into it would damage a file."""
    found = os.fstat(descriptor)
    reason = None
    if not stat.S_ISREG(found.st_mode):
        reason = "it is no regular file"
    elif found.st_nlink > 1:
        reason = "it is a second name of another file"
    elif found.st_uid != os.geteuid() and path.parent.stat().st_mode & stat.S_IWOTH:
        reason = f"it belongs to user {found.st_uid}, and everyone may write to {path.parent}"
    if reason is not None:
        os.close(descriptor)
        raise StorageError(f"{path}: is no lock of this program: {reason}")


def _is_at(path: Path, file: TextIO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    return False


def _owner(file: TextIO) -> str:
    """Return who holds a lock; one that has just taken it writes its name a moment later."""
    for _ in range(_GLANCES):
        file.seek(0)
        with suppress(ValueError, KeyError, TypeError):
            owner = json.loads(file.read())
            return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
        time.sleep(_GLANCE_SECONDS)
    return "another process"
