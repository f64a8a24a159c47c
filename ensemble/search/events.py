"""The log of a search: what was suggested, told and decided, one JSON object a line, in the order it happened.

It is the only memory of a search. The judge is a function of it, so a search is resumed by reading it from the start.
Each line carries a checksum and is on disk before anybody acts on it; a last line that a killed process left half
written is dropped, damage anywhere else is refused.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble.errors import StorageError

Event = dict[str, Any]


class EventLog:
    """Appends events to a file; in memory alone where there is no path. Raises StorageError where it cannot."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.events: list[Event] = []
        self._whole = 0  # bytes of whole lines
        if path is not None and path.is_file():
            self.events, whole = _read(path)
            self._whole = whole
            if whole < path.stat().st_size:
                os.truncate(path, whole)

    def append(self, event: Mapping[str, Any]) -> None:
        """Write one event; it is on disk when this returns."""
        if self._path is not None:
            self._write(self._path, event)
        self.events.append(dict(event))

    def _write(self, path: Path, event: Mapping[str, Any]) -> None:
        text = json.dumps(event, sort_keys=True)
        line = f"{zlib.crc32(text.encode()):08x} {text}\n"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if path.is_file():
                os.truncate(path, self._whole)  # half a line must not stand before the next one
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
        self._whole += len(line.encode())


def read_events(path: Path) -> list[Event]:
    """Return the events of a log, without a torn last line; StorageError names the line that is damaged."""
    return _read(path)[0]


def _read(path: Path) -> tuple[list[Event], int]:
    """Return the events and the bytes they take up."""
    content, events, end = path.read_bytes(), [], 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        checksum, _, text = line[:-1].partition(b" ")
        if checksum != f"{zlib.crc32(text):08x}".encode():
            if end + len(line) == len(content):
                break
            raise StorageError(
                f"{path}:{number}: damaged line; restore the file from a copy (what was trained lies in members/)"
            )
        events.append(json.loads(text))
        end += len(line)
    return events, end


def keyed(values: Mapping[int, float]) -> dict[str, float]:
    """Return values by seed with the keys that JSON knows."""
    return {str(seed): value for seed, value in values.items()}


def seeded(values: Mapping[str, float]) -> dict[int, float]:
    """Return what `keyed` made, by seed."""
    return {int(seed): value for seed, value in values.items()}
