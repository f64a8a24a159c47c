"""Formatting that many modules share: a count with its noun, a shell command, times, sizes, the nearest name."""

import json
import math
import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def plural(count: float, noun: str, form: str = "") -> str:
    """Return a count with its noun: `1 figure`, `2 figures`; `form` formats the number: `,` gives `1,000 figures`."""
    return f"{count:{form}} {noun}{'' if count == 1 else 's'}"


def command(*arguments: object) -> str:
    """Return a command line that a shell splits into exactly these arguments: `ensemble report 'a b'`."""
    return shlex.join(map(str, arguments))


def duration(seconds: float | None, tenths: bool = True) -> str:
    """Format a measured time: `0.8 s`, `42 s`, `12 min 03 s`, `3 h 20 min`; `-` for None and NaN."""
    if seconds is None or math.isnan(seconds):
        return "-"
    if seconds < 10 and tenths:
        return f"{seconds:.1f} s"
    # Rounded before the unit is chosen: 59.7 s is `1 min 00 s`, never `60 s`.
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rough_duration(seconds: float) -> str:
    """Format an estimated time with two digits: `42 s`, `3.4 min`, `25 min`, `1.5 h`, `12 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours / 24:,.0f} days"


def byte_size(count: float) -> str:
    """Format a number of bytes: `640 B`, `1.4 KiB`, `12 MiB`, `3.5 GiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for exponent, unit in ((1, "KiB"), (2, "MiB"), (3, "GiB")):
        if count < 1024 ** (exponent + 1) or unit == "GiB":
            break
    value = count / 1024**exponent
    return f"{value:.0f} {unit}" if unit == "MiB" else f"{value:.1f} {unit}"


def nearest(name: str, names: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return at most `most` names similar to `name`, best first; with `cutoff` 0 at least one, if there are names."""
    known = list(names)
    return get_close_matches(name, known, most, cutoff) or get_close_matches(name.lower(), known, most, cutoff)


def did_you_mean(name: str, names: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """Return `; did you mean 'x'?`, or an empty text where no name is similar."""
    near = nearest(name, names, most, cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; ValueError where it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def no_text(path: Path) -> str | None:
    """Return the first name of a path that is no UTF-8 text, readable; None where every name is one."""
    # Tables, JSON and YAML name files as text, and such a name has none.
    shown = (name.encode(errors="replace").decode() for name in path.parts)
    return next((text for name, text in zip(path.parts, shown, strict=True) if text != name), None)


def missing_extra(name: str) -> str:
    """Return what to install for a tracker of `logging:` that is asked for."""
    return f"logging.{name} needs the extra `{name}`: pip install 'ensemble[{name}]'"
