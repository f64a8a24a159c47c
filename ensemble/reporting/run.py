"""A run directory as the report sees it: members, planned members, baselines, curves and rollouts, all checked.

It reads what `results/README.md` documents and decides nothing about it; grouping begins in `groups`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ensemble.config.document import comment_paragraphs, leading_comment, parse
from ensemble.config.model import task_of_family
from ensemble.errors import StorageError, UsageError
from ensemble.reporting.checked_tables import check_columns, is_hyperparameter, is_metric, optional_table, rows_of
from ensemble.reporting.search_run import Search, read_search
from ensemble.reporting.statistics import natural_mode
from ensemble.run_directory import MemberDirectory, RunDirectory, member_id
from ensemble.schema import CURVE_COLUMNS, MEMBER_COLUMNS, TEST_ACTION, TEST_LOSS, TEST_ROLLOUT, VALIDATION_ACTION, Mode
from ensemble.search_log import planned_trials, trial_rows
from ensemble.store import read_json, read_record
from ensemble.text import did_you_mean, nearest, plural

MemberRow = dict[str, Any]  # one row of members.parquet, by column

_IDENTITY = ("config_hash", "seed", "role", "status")  # columns that every member has

BASELINE_COLUMNS = pa.schema(
    [("baseline", pa.string()), ("config_hash", pa.string()), ("metric", pa.string()), ("value", pa.float64())]
)
PLANNED_COLUMNS = pa.schema([("config_hash", pa.string()), ("role", pa.string()), ("seed", pa.int64())])
ROLLOUT_COLUMNS = pa.schema(
    [
        ("split", pa.string()),
        ("window", pa.int32()),
        ("step", pa.int32()),  # 0 and below is context, 1 the first predicted point
        ("label", pa.string()),
        ("true", pa.float32()),
        ("predicted", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Baseline:
    """One number that a configuration has to beat."""

    name: str
    config_hash: str
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory, read. Members are ordered by (role, config_hash, seed), whatever the order of the file."""

    directory: RunDirectory
    name: str
    question: str  # the comment on top of the experiment file, a line a paragraph
    experiment: dict[str, Any]
    members: tuple[MemberRow, ...]
    planned: tuple[tuple[str, str, int], ...]  # config_hash, role, seed
    baselines: tuple[Baseline, ...]
    metrics: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    notes: dict[str, Any]  # data.json: split, notices
    search: Search | None = None  # what the search left, where there was one

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    @property
    def of_policies(self) -> bool:
        """Whether its members act, so that there is a closed loop to evaluate."""
        # Imported policies have no metrics, and a report imports no family of which it finds the path in a run.
        families = {str(member.get("model.family")) for member in self.members}
        return VALIDATION_ACTION in self.metrics or any(task_of_family(family) == "policy" for family in families)

    def mode(self, metric: str) -> Mode:
        """Say which end of `metric` is better: as the search says of its own metric and of its counterpart on test."""
        search = section(self.experiment, "search")
        searched = str(search.get("metric", ""))
        if self.search and metric in self.search.objectives:
            return self.search.objectives[metric]
        if searched.partition("/")[2] == metric.partition("/")[2] and search.get("mode") in ("min", "max"):
            return "max" if search["mode"] == "max" else "min"
        return natural_mode(metric)

    def check_metric(self, metric: str | None) -> str:
        """Return the metric to compare, by default the test error; UsageError names the nearest one there is."""
        if metric is None:
            searched = (self.search.metric,) if self.search else ()
            wanted = (TEST_ROLLOUT, TEST_ACTION, TEST_LOSS, *searched, *self.metrics)
            named = next((m for m in wanted if m in self.metrics), TEST_ROLLOUT)
            return next((m for m in wanted if self._measured(m)), named)
        if metric in self.metrics:
            return metric
        hint = did_you_mean(metric, self.metrics, cutoff=0)
        raise UsageError(f"{self.directory.members_file} has no metric '{metric}'{hint}")

    def _measured(self, metric: str) -> bool:
        values = (member.get(metric) for member in self.members)
        return any(value is not None and math.isfinite(value) for value in values)

    def curves(self) -> pa.Table | None:
        """Read the curves; None where the run has none."""
        file = self.directory.curves_file
        if not file.exists():
            return None
        return check_columns(file, self.directory.collected(file), CURVE_COLUMNS, ("value",))

    def rollouts(self, member: MemberRow) -> pa.Table | None:
        """Read a member's predicted rollouts; None where it has none."""
        identity = member_id(member["config_hash"], member["seed"])
        return optional_table(self.directory.member(identity).rollouts_file, ROLLOUT_COLUMNS, ("true", "predicted"))

    def log_file(self, member: MemberRow) -> Path:
        """Return where a member's log lies."""
        return self.directory.member(member_id(member["config_hash"], member["seed"])).log_file


def read_run(path: Path) -> Run:
    """Read a run directory.

    UsageError where `path` is no run directory; StorageError, naming the file, where one is missing or damaged.
    """
    if not path.is_dir():
        raise UsageError(f"no run directory {path}{_nearest_directory(path)}")
    directory = RunDirectory(path)
    # Experiment
    text = _read_text(directory.experiment_file)
    experiment = _parse_experiment(directory.experiment_file, text)
    # Members, what was planned, and what they have to beat
    table = _members_table(directory)
    planned = optional_table(directory.planned_file, PLANNED_COLUMNS)
    baselines = optional_table(directory.baselines_file, BASELINE_COLUMNS, ("value",))
    members = _unique(directory.members_file, table.to_pylist())
    return Run(
        directory=directory,
        name=str(experiment.get("experiment", path.name)),
        question=comment_paragraphs(leading_comment(text)),
        experiment=experiment,
        members=members,
        planned=tuple(sorted({(r["config_hash"], r["role"], r["seed"]) for r in rows_of(planned)})),
        baselines=_baselines(rows_of(baselines)),
        metrics=tuple(sorted(name for name in table.column_names if is_metric(name))),
        hyperparameters=tuple(name for name in table.column_names if is_hyperparameter(name)),
        notes=_notes(directory),
        search=read_search(directory, experiment),
    )


def _members_table(directory: RunDirectory) -> pa.Table:
    """Read the members; rows of a run that still runs, or was interrupted before, are collected now."""
    file = directory.members_file
    # A run that was interrupted has rows of members that its table lacks.
    ended = len(directory.row_files)
    if ended > (directory.collected(file, ["seed"]).num_rows if file.exists() else 0):
        directory.collect()
    if not file.exists():
        log = directory.search_log
        begun, planned = len(trial_rows(log, [""])), planned_trials(log)
        search = f"; of its search {begun} of {planned or '?'} trials were started" if begun else ""
        raise UsageError(f"{file} is missing: no member of this run has ended yet{search}")
    optional = tuple(name for name in MEMBER_COLUMNS.names if name not in _IDENTITY)
    return check_columns(file, directory.collected(file), MEMBER_COLUMNS, optional)


def _unique(file: Path, rows: list[MemberRow]) -> tuple[MemberRow, ...]:
    """Order the members; a member with two rows would count twice, so it is refused."""
    ordered = sorted(rows, key=lambda row: (row["role"], row["config_hash"], row["seed"]))
    seen: set[tuple[str, int]] = set()
    for row in ordered:
        identity = (row["config_hash"], row["seed"])
        if identity in seen:
            raise StorageError(f"{file} holds two rows of member {member_id(*identity)}")
        seen.add(identity)
    return tuple(ordered)


def _baselines(rows: list[dict[str, Any]]) -> tuple[Baseline, ...]:
    found = [Baseline(r["baseline"], r["config_hash"], r["metric"], r["value"]) for r in rows if r["value"] is not None]
    return tuple(sorted(found, key=lambda b: (b.metric, b.value, b.name, b.config_hash)))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{file.parent} is no run directory: it has no {file.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{file} cannot be read: {error}") from error


def _parse_experiment(file: Path, text: str) -> dict[str, Any]:
    try:
        value = parse(text, str(file))[0].plain()
    except UsageError as error:
        raise StorageError(f"{file} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise StorageError(f"{file} is damaged: it holds no mapping")
    return value


def section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a mapping inside a file as it was read; empty where it has none."""
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _notes(directory: RunDirectory) -> dict[str, Any]:
    """Return the notes of a run; trackers that failed while it trained are further notices."""
    notes = read_record(directory.notes_file, {"notices": list, "versions": dict})
    lost = _lost_trackers(directory)
    return {**notes, "notices": [*notes.get("notices", []), *lost]} if lost else notes


def _lost_trackers(directory: RunDirectory) -> list[str]:
    """Say of each tracker in how many members it failed, and how in the first of them."""
    lost: dict[str, list[str]] = {}
    for file in sorted(directory.members.glob(f"*/{MemberDirectory(Path()).tracking_file}")):
        try:
            found = read_json(file)
        except StorageError:  # it holds the names of runs elsewhere, nothing that is reported
            continue
        for tracker, said in section(found, "lost").items() if isinstance(found, dict) else ():
            lost.setdefault(tracker, []).append(f"{file.parent.name}: {said}")
    return [f"{tracker} failed in {plural(len(said), 'member')}, first in {said[0]}" for tracker, said in lost.items()]


def _nearest_directory(path: Path) -> str:
    """Return `; did you mean 'results/x'?`, or nothing where no directory has a name like it."""
    if not path.parent.is_dir():
        return ""
    near = nearest(path.name, [each.name for each in path.parent.iterdir() if each.is_dir()])
    return f"; did you mean {str(path.parent / near[0])!r}?" if near else ""
