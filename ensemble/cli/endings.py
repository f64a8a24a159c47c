"""How a command ends, whatever happened: one line on standard error and an exit code (floor 9).

Errors with a message for the user keep their code. An error of the operating system (disk, permission, memory) says
what to do. Anything else is a fault of this program: the line names a file with the traceback. Nothing is swallowed:
with ENSEMBLE_TRACEBACK=1 the traceback is printed as well. The texts of our own errors are made where they are raised.
"""

import errno
import os
import select
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from types import TracebackType
from typing import TextIO

import click

from ensemble.cli.crash_report import save_crash
from ensemble.cli.plain_text import replace_unprintable
from ensemble.errors import FAULT, INTERRUPTED, PIPE_CLOSED, EnsembleError, StorageError, UsageError
from ensemble.text import first_line

DEBUG = "ENSEMBLE_TRACEBACK"
_LONGEST = 300  # characters of a message that is not ours
_BOUNDED = "; ask for less, or close other programs"

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space, or choose another place",
    errno.EDQUOT: "your quota of this disk is used up; free some space, or choose another place",
    errno.EACCES: "not permitted; look at owner and mode (ls -l), or choose another place",
    errno.EPERM: "not permitted; look at owner and mode (ls -l), or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EMFILE: "too many open files; allow more with `ulimit -n 4096`",
    errno.ENFILE: "too many open files on this machine",
    errno.EIO: "the disk failed to read or write; look at the system's log",
    errno.ESTALE: "the network file system lost the file; try again",
    errno.EFBIG: "larger than the file system takes; choose another place",
}
_LOST_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EBUSY, errno.ENOTEMPTY)


class OneLineEnding:
    """Turns an exception of its block into a line on standard error and SystemExit with the code of its kind."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = arguments  # of the command line, for the report of a fault

    def __enter__(self) -> None:
        prepare_streams()
        if not (sys.warnoptions or _debugging()):
            warnings.simplefilter("ignore")  # they are for who develops, not for who uses this program

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush what was printed, which can fail like any other output, and end."""
        if error is None:
            try:
                sys.stdout.flush()
            except OSError as failure:
                error = failure
        if error is not None and (_pipe_closed(error) or not isinstance(error, SystemExit)):
            raise SystemExit(end(error, self.arguments)) from None


def end(error: BaseException, arguments: Sequence[str] = ()) -> int:
    """Say in one line why the command ends, and return its exit code."""
    # `ensemble report | head` is no error, and there is nobody to tell.
    if _pipe_closed(error):
        _silence_streams()
        return PIPE_CLOSED
    raised, error = error, cause_in_worker(error)
    if _debugging() and not isinstance(error, click.ClickException):
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, click.Abort) or any(isinstance(each, KeyboardInterrupt) for each in _chain(error)):
        click.echo("interrupted", err=True)
        # Python notes an interrupt that leaves an `exec`, as of a class that is made, and with `python -m` ends by the
        # signal then, whatever the exit code; the next `exec` removes the note.
        exec("")
        return INTERRUPTED
    known = error if isinstance(error, EnsembleError) else as_known(error)
    if known is None:
        _say_error(f"a fault in ensemble itself: {_brief(error)}\n{save_crash(raised, arguments)}")
        return FAULT
    _say_error(str(known))
    return known.exit_code


def as_known(error: BaseException) -> EnsembleError | None:
    """Return an error of the operating system in words, with its remedy; None for a fault of this program."""
    name, number = type(error).__name__, getattr(error, "errno", None)
    if isinstance(error, MemoryError) or name == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return EnsembleError(f"not enough memory: {_first_line(error)}{_BOUNDED}")
    if isinstance(error, ImportError) and not (error.name or "ensemble").startswith("ensemble"):
        return EnsembleError(f"a package is missing or damaged: {_first_line(error)}; install it: `pip install .`")
    if not isinstance(error, OSError):
        return None
    place = _shortened(str(error.filename)) if error.filename is not None else ""
    if number == errno.ENAMETOOLONG:
        return UsageError(f"{place}: a name is longer than the 255 bytes that are possible; choose a shorter one")
    if "No space left" in str(error):
        number = errno.ENOSPC
    if number in _REMEDIES or (number in _LOST_PATHS and place):
        remedy = _REMEDIES.get(number) or f"{(error.strerror or str(error)).lower()}; was it changed meanwhile?"
        return StorageError(": ".join(part for part in (place, remedy) if part))
    return None


def cause_in_worker(error: BaseException) -> BaseException:
    """Return the exception that a Ray worker raised, where `error` is Ray's report of it."""
    # Ray's own classes are not imported here: with Ray's import a mistyped option would take seconds.
    cause = getattr(error, "cause", None)
    if type(error).__module__.startswith("ray.") and isinstance(cause, BaseException):
        return cause
    return error


def prepare_streams() -> None:
    """Let standard output and error take any text: what their encoding cannot say is replaced."""
    # A stream that the caller closed (`ensemble report >&-`) is None.
    sys.stdout, sys.stderr = (stream or _nowhere() for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=replace_unprintable())


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def _say_error(text: str) -> None:
    click.echo(f"error: {text}", err=True)


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first_line(error)}" if str(error) else type(error).__name__


def _first_line(error: BaseException) -> str:
    return _shortened(first_line(error))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}.."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it: an import that is interrupted raises an error of its own."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _pipe_closed(error: BaseException) -> bool:
    """Tell whether the command ends because the process that read its output has ended."""
    broken = [each for each in _chain(error) if isinstance(each, BrokenPipeError)]
    exits = [each for each in _chain(error) if isinstance(each, SystemExit)]
    # Rich connects the stream to nothing and raises SystemExit; click raises it alone.
    if any(each.__context__ in broken for each in exits):
        return True
    # A broken pipe to another process, as of Ray, is something else.
    return bool(broken or exits) and any(_is_broken(stream) for stream in (sys.stdout, sys.stderr))


def _is_broken(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # no file of the system, as in a test
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _silence_streams() -> None:
    """Send what is still buffered nowhere: Python's own last flush would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if _is_broken(stream):
            os.dup2(nowhere, stream.fileno())
