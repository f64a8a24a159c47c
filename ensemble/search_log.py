"""The log of a search: its suggestions, outcomes and decisions, one JSON object a line, in the order of the events.

It is the only memory of a search: the judge is a function of it, so a search is resumed by replaying it, and the rows
of `trials.parquet` and `rungs.parquet` are computed from it, so a search can be reported while it runs. Each line
carries a checksum and is on disk before it is acted on; a last line that a killed process left incomplete is dropped,
damage anywhere else is refused.
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
from ensemble.text import parse_json

Event = dict[str, Any]
Row = dict[str, Any]
UNLIMITED = 1 << 40  # planned trials of a search that ends when its space is exhausted


class EventLog:
    """Appends events to a file, or only keeps them in memory (path None). Raises StorageError where it cannot."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.events: list[Event] = []
        self._size = 0  # bytes of complete lines
        if path is not None and path.is_file():
            self.events, self._size = _read(path)
            # An incomplete last line was not acted on. Left there, it would damage the next one.
            if self._size < path.stat().st_size:
                os.truncate(path, self._size)

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
                # Before the event is acted on: what a trial did must never be missing in a replay.
                os.fsync(file.fileno())
        except OSError as error:
            if path.is_file():
                os.truncate(path, self._size)  # an incomplete line must not precede the next one
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
        self._size += len(line.encode())


def read_events(path: Path) -> list[Event]:
    """Return the events of a log up to its first damaged line, for a report; none where there is no log."""
    return _read(path, strict=False)[0] if path.is_file() else []


def _read(path: Path, strict: bool = True) -> tuple[list[Event], int]:
    """Return the events and the number of bytes of their lines.

    Raises:
        StorageError: a line before the last is damaged and `strict`: what follows it may not be skipped in a search
            that continues.
    """
    content, events, end = path.read_bytes(), [], 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        checksum, _, text = line[:-1].partition(b" ")
        if checksum != f"{zlib.crc32(text):08x}".encode():
            # After a power cut a last line may end and still be incomplete: blocks are written in any order.
            if not strict or end + len(line) == len(content):
                break
            raise StorageError(
                f"{path}:{number}: damaged line; restore the file from a copy (what was trained lies in members/)"
            )
        event = parse_json(text)
        if not _is_event(event):
            if not strict:
                break
            raise StorageError(f"{path}:{number}: no event of a search; restore the file from a copy")
        events.append(event)
        end += len(line)
    return events, end


# The kinds of events, with the types of what is read of each.
_KINDS: Mapping[str, Mapping[str, type]] = {
    "trials": {"count": int},
    "known": {"trials": list},
    "retry": {"number": int},
    "suggest": {"number": int, "configuration": int, "seeds": list, "config_hash": str, "parameters": dict},
    "rung": {"number": int, "step": int, "values": dict, "kept": bool},
    "tell": {"number": int, "steps": int, "values": dict, "state": str},
}


def _is_event(event: Any) -> bool:
    """Return whether a value of JSON has the shape of its kind of event; kinds of other versions have any."""
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return False
    kind = event["event"]
    if not all(isinstance(event.get(key), each) for key, each in _KINDS.get(kind, {}).items()):
        return False
    if kind == "suggest":
        settings = event.get("settings", [])
        return isinstance(settings, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in settings)
    by_metric = event["values"].values() if kind == "tell" else [event["values"]] if kind == "rung" else ()
    return all(isinstance(values, dict) and all(map(_is_value, values.items())) for values in by_metric)


def _is_value(pair: tuple[str, Any]) -> bool:
    """Return whether a pair is a seed with its number."""
    seed, value = pair
    return seed.isdecimal() and isinstance(value, int | float)


def to_json_keys(values: Mapping[int, float]) -> dict[str, float]:
    """Return values by seed with strings as keys, since JSON has no others."""
    return {str(seed): value for seed, value in values.items()}


def from_json_keys(values: Mapping[str, float]) -> dict[int, float]:
    """Return values by seed: the inverse of `to_json_keys`."""
    return {int(seed): value for seed, value in values.items()}


def planned_trials(file: Path) -> int | None:
    """Return how many configurations were planned; None where that is unlimited or there is no log."""
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
        number: its number among the suggestions.
        identity: its config_hash.
        state: completed, pruned, diverged, failed or running.
        steps: member-steps spent on it.
        seeds: number of seeds suggested for it.
        parameters: as suggested, by name.
        settings: the values that result, by dotted path.
        values: each metric by seed.
        metrics: the search metric, then the other objectives.
    """
    means = {metric: mean_over_seeds(values.get(metric, {})) for metric in metrics}
    objectives = {metric: mean for metric, mean in means.items() if mean is not None}
    return {
        "number": number,
        "config_hash": identity,
        "state": state,
        # Only a completed trial has a value: that of a pruned one is of another step, not to be compared.
        "value": objectives.get(metrics[0]) if state == "completed" else None,
        "steps": steps,
        "seeds": seeds,
        "parameters": json.dumps(parameters),
        "settings": json.dumps(settings),
        "objectives": json.dumps(objectives),
    }


def mean_over_seeds(values: Mapping[Any, float]) -> float | None:
    """Return the mean over seeds; None without values, or where one is not finite."""
    finite = bool(values) and all(map(math.isfinite, values.values()))
    # fsum is exact, so the order of the seeds does not matter: a replay has another one.
    return math.fsum(values.values()) / len(values) if finite else None


def rung_rows_of(number: int, identity: str, step: int, values: Mapping[Any, float], kept: bool) -> list[Row]:
    """Return the rows of `rungs.parquet` of one configuration at one step, one row per seed."""
    same = {"number": number, "config_hash": identity, "step": step, "kept": kept}
    return [{**same, "seed": int(seed), "value": value} for seed, value in sorted(values.items())]


@dataclass
class _LoggedTrial:
    """The events of one configuration, summed up."""

    event: Event  # the suggestion
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
            trial.event["config_hash"],
            trial.state,
            sum(trial.steps.values()),
            trial.seeds,
            trial.event["parameters"],
            dict(trial.event.get("settings", [])),
            trial.values,
            metrics,
        )
        for number, trial in _logged_trials(file)
    ]


def rung_rows(file: Path) -> list[Row]:
    """Return the rows of `rungs.parquet` so far."""
    return [
        row
        for number, trial in _logged_trials(file)
        for step, event in sorted(trial.rungs.items())
        for row in rung_rows_of(
            number, trial.event["config_hash"], step, from_json_keys(event["values"]), event["kept"]
        )
    ]


def _logged_trials(file: Path) -> list[tuple[int, _LoggedTrial]]:
    """Return each suggested configuration with its number."""
    trials: dict[int, _LoggedTrial] = {}
    jobs: dict[int, int] = {}  # job: configuration; a race adds jobs to a configuration
    for event in read_events(file):
        number, kind = event.get("number", -1), event["event"]
        if kind == "suggest":
            jobs[number] = event["configuration"]
            trials.setdefault(event["configuration"], _LoggedTrial(event)).seeds += len(event["seeds"])
        elif kind in ("retry", "tell", "rung") and number in jobs:
            _apply(event, trials[jobs[number]], first=jobs[number] == number)
    return sorted(trials.items())


def _apply(event: Event, trial: _LoggedTrial, first: bool) -> None:
    """Update a configuration with an event of one of its jobs: the `first` one, or a further seed of a race."""
    if event["event"] == "rung":
        trial.rungs[event["step"]] = event
    elif event["event"] == "retry":
        trial.steps.pop(event["number"], None)
        trial.state = "running" if first else "completed"
    else:
        trial.steps[event["number"]] = event["steps"]
        for metric, by_seed in event["values"].items():
            trial.values.setdefault(metric, {}).update(by_seed)
        if first or event["state"] != "completed":
            trial.state = event["state"]
