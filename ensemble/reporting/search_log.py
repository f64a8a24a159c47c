"""A search that has not ended, from the log that its judge writes: the rows of `trials.parquet` and `rungs.parquet`.

The tables are written when a search ends. Until then, and after a driver was killed, `search.log` is what there is: a
checksum and a JSON object a line (search/events.py writes it and refuses damage; here reading ends at the first line
that is not whole).
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]
LOG = "search.log"


def events(file: Path) -> Iterator[Mapping[str, Any]]:
    """Yield what happened, in order; nothing where there is no log."""
    for line in file.read_bytes().splitlines(keepends=True) if file.is_file() else ():
        checksum, _, text = line[:-1].partition(b" ")
        if not line.endswith(b"\n") or checksum != f"{zlib.crc32(text):08x}".encode():
            return
        yield json.loads(text)


def planned_trials(file: Path) -> int | None:
    """Return how many configurations there were to be, as far as the log says."""
    counts = [event["count"] for event in events(file) if event["event"] == "trials"]
    return int(counts[-1]) if counts and counts[-1] < 1 << 40 else None


def trial_rows(file: Path, metric: str) -> list[Row]:
    """Return a row of `trials.parquet` for each configuration so far; `metric` is the search metric."""
    rows: dict[int, Row] = {}
    jobs: dict[int, int] = {}
    for event in events(file):
        number = event.get("number", -1)
        if event["event"] == "suggest":
            jobs[number] = event["configuration"]
            _suggested(rows.setdefault(event["configuration"], {}), event)
        elif event["event"] == "retry" and jobs[number] == number:
            rows[number] |= {"state": "running", "steps": 0}
        elif event["event"] == "tell":
            _told(rows[jobs[number]], event, own=jobs[number] == number)
    return [_finished(row, metric) for _, row in sorted(rows.items())]


def rung_rows(file: Path) -> list[Row]:
    """Return the rows of `rungs.parquet` so far."""
    hashes: dict[int, str] = {}
    rows: dict[tuple[int, int, int], Row] = {}
    for event in events(file):
        if event["event"] == "suggest" and event["configuration"] == event["number"]:
            hashes[event["number"]] = event["config_hash"]
        elif event["event"] == "rung":
            number, step = event["number"], event["step"]
            same = {"number": number, "config_hash": hashes[number], "step": step, "kept": event["kept"]}
            for seed, value in event["values"].items():
                rows[number, step, int(seed)] = {**same, "seed": int(seed), "value": value}
    return list(rows.values())


def _suggested(row: Row, event: Mapping[str, Any]) -> None:
    seeds = row.get("seeds", 0) + len(event["seeds"])
    if event["configuration"] == event["number"]:
        row |= {"number": event["number"], "config_hash": event["config_hash"], "state": "running", "steps": 0}
        row |= {"parameters": json.dumps(event["parameters"]), "values": {}}
        row["settings"] = json.dumps(dict(event.get("settings", [])))
    row["seeds"] = seeds


def _told(row: Row, event: Mapping[str, Any], own: bool) -> None:
    for metric, found in event["values"].items():
        row["values"].setdefault(metric, {}).update(found)
    row["steps"] += event["steps"]
    if own or event["state"] != "completed":
        row["state"] = event["state"]


def _finished(row: Row, metric: str) -> Row:
    values = row.pop("values")
    whole = {name: list(found.values()) for name, found in values.items() if all(map(math.isfinite, found.values()))}
    objectives = {name: math.fsum(found) / len(found) for name, found in whole.items() if found}
    value = objectives.get(metric) if row["state"] == "completed" else None
    return {**row, "value": value, "objectives": json.dumps(objectives)}
