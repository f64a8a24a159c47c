"""A fault of this program as a file for who mends it: versions, command, traceback; no secrets.

The file is the owner's alone (0600) in the directory for temporary files. The environment is not in it, and what looks
like a secret on the command line or in the environment is masked wherever it occurs.
"""

import os
import re
import shlex
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError

from ensemble.text import plural
from ensemble.versions import git_commit, versions

_SECRET_NAME = r"(?i:secret|token(?!iz)|passw|credential|api_?key|access_?key|private_?key|auth)[\w.-]*"
_SECRET = re.compile(rf"{_SECRET_NAME}[\"']?\s*[=:]\s*[\"']?([^\s,}}\"']+)")  # a name with its value
_CREDENTIALS = re.compile(r"(\w+://)[^/@\s]+@")  # of an address, as in https://user:password@host
_MASK = "***"
_SHORTEST = 6  # characters of a value that is masked wherever it occurs


def save_crash(error: BaseException, arguments: Sequence[str]) -> str:
    """Write the report of a fault and return a line that names it; the traceback itself where it cannot be written."""
    report = crash_report(error, arguments)
    prefix = f"ensemble-crash-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}-"
    try:
        # Readable by the owner alone, and no file of this name can lie in wait.
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(report)
    except OSError as failure:
        return f"its report cannot be written ({failure.strerror}), so it stands here:\n{report}"
    return f"please report it with {name} (traceback and versions, {plural(len(report.splitlines()), 'line')})"


def crash_report(error: BaseException, arguments: Sequence[str]) -> str:
    """Return versions, command line and traceback as text, secrets masked."""
    lines = [
        f"command: ensemble {shlex.join(map(_without_secrets, arguments))}",
        f"versions: {_versions()}",
        "",
        *traceback.format_exception(error),
    ]
    return _masked("\n".join(line.rstrip("\n") for line in lines) + "\n", arguments)


def _versions() -> str:
    try:
        found = versions() | {"commit": git_commit() or "unknown"}
    except PackageNotFoundError as missing:
        return f"unknown: {missing}"
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _without_secrets(argument: str) -> str:
    return _SECRET.sub(lambda found: found[0].replace(found[1], _MASK), argument)


def _masked(text: str, arguments: Sequence[str]) -> str:
    # The longest first: a secret may begin with another one.
    for secret in sorted(set(_secrets(arguments)), key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, _MASK)
    return _CREDENTIALS.sub(rf"\1{_MASK}@", text)


def _secrets(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the values of options and variables whose name says that they are secret."""
    for argument in arguments:
        yield from _SECRET.findall(argument)
    for name, value in os.environ.items():
        if re.search(_SECRET_NAME, name):
            yield value
