"""A search that still runs, or whose driver was killed: what its log says is reported, and that it has not ended."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from synthetic_run import build_search, search_rows

from ensemble.reporting.explain import find_configuration
from ensemble.reporting.report import render_terminal, write_report
from ensemble.reporting.run import read_run

METRIC = "validation/rollout_rmse"


def log_of(rows: dict[str, list[dict[str, Any]]], begun: int, told: int) -> str:
    """Write what the judge writes: `begun` of the trials suggested, `told` of them ended; the last line is torn."""
    events: list[dict[str, Any]] = [{"event": "trials", "count": len(rows["trials"])}]
    for row in rows["trials"][:begun]:
        identity = {"number": row["number"], "configuration": row["number"], "config_hash": row["config_hash"]}
        parameters = json.loads(row["parameters"])
        events.append({"event": "suggest", **identity, "seeds": [0, 1, 2], "parameters": parameters})
    for row in rows["trials"][:told]:
        values = {
            str(m["seed"]): m[METRIC]
            for m in rows["members"]
            if m["config_hash"] == row["config_hash"] and m["role"] == "search" and METRIC in m
        }
        events.append(
            {"event": "tell", "number": row["number"], "state": row["state"], "values": {METRIC: values}, "steps": 3}
        )
    lines = [f"{zlib.crc32(text.encode()):08x} {text}\n" for text in map(json.dumps, events)]
    return "".join(lines) + "12345678 {torn"


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """A search of 24 trials of which 10 were begun and 8 have ended."""
    rows = search_rows()
    begun = {row["config_hash"] for row in rows["trials"][:10]}
    rows["members"] = [m for m in rows["members"] if m["config_hash"] in begun and m["role"] == "search"]
    run = build_search(tmp_path / "searched", {**rows, "finalists": []}, complete=False)
    for name in ("trials.parquet", "rungs.parquet", "importances.parquet", "search.json"):
        (run / name).unlink()
    (run / "search.log").write_text(log_of(search_rows(), 10, 8))
    return run


def test_a_search_that_runs_is_called_one(running: Path) -> None:
    report = write_report(running, figures=False)
    console = Console(record=True, width=140)
    render_terminal(report, console)
    text = console.export_text()
    assert "(not finished)" in text.lstrip().splitlines()[0]
    assert "not finished (it runs or was interrupted): 10 of 24 trials started, 8 ended" in text
    assert "not finished" in (running / "report.md").read_text()
    assert "not finished" in (running / "report.html").read_text()


def test_a_search_whose_log_is_damaged_is_reported_up_to_the_damage(running: Path) -> None:
    lines = (running / "search.log").read_text().splitlines(keepends=True)
    lines[8] = "00000000 " + lines[8][9:]
    (running / "search.log").write_text("".join(lines))
    search = read_run(running).search
    assert search is not None
    assert [trial.number for trial in search.trials] == list(range(7))


def test_its_trials_have_their_numbers_and_names(running: Path) -> None:
    run = read_run(running)
    assert run.search is not None
    assert [trial.number for trial in run.search.trials] == list(range(10))
    assert [trial.state for trial in run.search.trials[8:]] == ["running", "running"]
    ended = search_rows()["trials"][:8]
    assert [trial.value for trial in run.search.trials[:8]] == pytest.approx(
        [row["value"] if row["state"] == "completed" else None for row in ended]
    )
    assert find_configuration(run, "#9") == run.search.trials[9].config_hash
    assert run.search.label(run.search.trials[9].config_hash).startswith("#9 n_embd=")
