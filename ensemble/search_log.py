"""The log of a search: what was suggested, told and decided, one JSON object a line, in the order it happened.

It is the only memory of a search: the judge is a function of it, so that a search is resumed by reading it from the
start, and the rows of `trials.parquet` and `rungs.parquet` are made of it, so that a search can be reported while it
runs. Each line carries a checksum and is on disk before it is acted on; a last line that a killed process left half
written is dropped, damage anywhere else is refused.
"""

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemble.errors import StorageError

Event = dict[str, Any]
Row = dict[str, Any]
UNLIMITED = 1 << 40  # planned trials where the space says when it is exhausted


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
    """Return the events of a log, without a torn last line; none where there is no log.

    Raises:
        StorageError: a line before the last is damaged; the message names it.
    """
    return _read(path)[0] if path.is_file() else []


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


def planned_trials(file: Path) -> int | None:
    """Return how many configurations there were to be, as far as the log says."""
    counts = [event["count"] for event in read_events(file) if event["event"] == "trials"]
    return int(counts[-1]) if counts and counts[-1] < UNLIMITED else None


def trial_row(
    number: int,
    identity: str,
    state: str,
    steps: int,
    seeds: int,
    parameters: Mapping[str, Any],
    settings: Mapping[str, Any],
    values: Mapping[str, Mapping[Any, float]],
    metrics: Sequence[str],
) -> Row:
    """Return the row of `trials.parquet` of one configuration.

    Args:
        number: its place among the suggestions.
        identity: its config_hash.
        state: completed, pruned, diverged, failed or running.
        steps: member-steps that it took.
        seeds: how many of them were handed out.
        parameters: by name as suggested.
        settings: by dotted path, what they come to.
        values: each metric by seed.
        metrics: the search metric, then the further objectives.
    """
    means = {metric: mean_over_seeds(values.get(metric, {})) for metric in metrics}
    objectives = {metric: mean for metric, mean in means.items() if mean is not None}
    return {
        "number": number,
        "config_hash": identity,
        "state": state,
        "value": objectives.get(metrics[0]) if state == "completed" else None,
        "steps": steps,
        "seeds": seeds,
        "parameters": json.dumps(parameters),
        "settings": json.dumps(settings),
        "objectives": json.dumps(objectives),
    }


def mean_over_seeds(values: Mapping[Any, float]) -> float | None:
    """Return the mean over seeds; None where there is none, or where one has no finite value."""
    found = list(values.values())
    return math.fsum(found) / len(found) if found and all(map(math.isfinite, found)) else None


def rung_rows_of(number: int, identity: str, step: int, values: Mapping[Any, float], kept: bool) -> list[Row]:
    """Return the rows of `rungs.parquet` of one configuration at one step, a row a seed."""
    same = {"number": number, "config_hash": identity, "step": step, "kept": kept}
    return [{**same, "seed": int(seed), "value": value} for seed, value in sorted(values.items())]


@dataclass
class _Suggested:
    """What the log says of one configuration."""

    event: Event  # that suggested it
    seeds: int = 0
    state: str = "running"
    steps: dict[int, int] = field(default_factory=dict)  # by job
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    rungs: dict[int, Event] = field(default_factory=dict)


def trial_rows(file: Path, metrics: Sequence[str]) -> list[Row]:
    """Return a row of `trials.parquet` for each configuration so far; `metrics` begins with the search metric."""
    return [
        trial_row(
            number,
            found.event["config_hash"],
            found.state,
            sum(found.steps.values()),
            found.seeds,
            found.event["parameters"],
            dict(found.event.get("settings", [])),
            found.values,
            metrics,
        )
        for number, found in _suggestions(file)
    ]


def rung_rows(file: Path) -> list[Row]:
    """Return the rows of `rungs.parquet` so far."""
    return [
        row
        for number, found in _suggestions(file)
        for step, event in sorted(found.rungs.items())
        for row in rung_rows_of(number, found.event["config_hash"], step, seeded(event["values"]), event["kept"])
    ]


def _suggestions(file: Path) -> list[tuple[int, _Suggested]]:
    """Return what became of each suggested configuration, by its number."""
    found: dict[int, _Suggested] = {}
    jobs: dict[int, int] = {}  # the configuration of each job; a race has several of one
    for event in read_events(file):
        number, kind = event.get("number", -1), event["event"]
        if kind == "suggest":
            jobs[number] = event["configuration"]
            found.setdefault(event["configuration"], _Suggested(event)).seeds += len(event["seeds"])
        elif kind in ("retry", "tell", "rung"):
            _happened(found[jobs[number]], event, own=jobs[number] == number)
    return sorted(found.items())


def _happened(trial: _Suggested, event: Event, own: bool) -> None:
    """Take in what happened to a job of a configuration; `own` is its first one, not a further seed of a race."""
    if event["event"] == "rung":
        trial.rungs[event["step"]] = event
    elif event["event"] == "retry":
        trial.steps.pop(event["number"], None)
        trial.state = "running" if own else "completed"
    else:
        trial.steps[event["number"]] = event["steps"]
        for metric, found in event["values"].items():
            trial.values.setdefault(metric, {}).update(found)
        if own or event["state"] != "completed":
            trial.state = event["state"]
