"""Errors that a user can act on, each with the exit code of its kind.

A message says what is wrong, where (file, line, episode, index), and the nearest valid name.
"""

FAULT = 1  # exit code of a fault of this program, or of one that no other code describes
INTERRUPTED, TERMINATED = 130, 143  # exit codes of a command that a signal ended: 128 + its number
PIPE_CLOSED = 141  # as if SIGPIPE had ended it: the reader of its output is gone


class EnsembleError(Exception):
    """Any failure with a message for the user."""

    exit_code = FAULT


class UsageError(EnsembleError):
    """A wrong command line or experiment file."""

    exit_code = 2


class NothingFinishedError(EnsembleError):
    """Every member diverged or failed."""

    exit_code = 3


class DataError(EnsembleError):
    """Input data that cannot be used."""

    exit_code = 4


class StorageError(EnsembleError):
    """A disk that is full, missing or read-only, or a result that is damaged."""

    exit_code = 5
