"""What a search left in its run directory: trials, rungs, importances and its facts, all checked.

It reads `trials.parquet`, `rungs.parquet`, `importances.parquet` and `search.json`; which is best is decided elsewhere.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.errors import StorageError
from ensemble.reporting.checked_tables import optional_table, rows_of
from ensemble.reporting.number_format import setting, short_names
from ensemble.reporting.statistics import natural_mode
from ensemble.run_directory import RunDirectory
from ensemble.schema import IMPORTANCE_COLUMNS, RUNG_COLUMNS, TRIAL_COLUMNS, VALIDATION_ROLLOUT, Float64, Mode
from ensemble.search_log import planned_trials, rung_rows, trial_rows
from ensemble.store import read_record

# Types of the values of search.json that are more than shown.
_FACTS = {"metric": str, "mode": str, "also": dict, "finalists": list, "finished": bool, "budget": int}


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """One suggested configuration."""

    number: int
    config_hash: str
    state: str  # completed | pruned | diverged | failed | running
    value: float | None  # mean over its seeds of the search metric
    steps: int  # member-steps
    seeds: int
    parameters: dict[str, Any]  # by name as suggested
    settings: dict[str, Any]  # by dotted path: what they come to
    objectives: dict[str, float]  # those that are numbers


@dataclass(frozen=True, slots=True)
class Rung:
    """What one seed reported to the pruner at one step, and whether the trial continued."""

    number: int
    step: int
    seed: int
    value: float  # NaN where it was none
    kept: bool


@dataclass(frozen=True, slots=True)
class Importance:
    """A parameter's share of what the searched values explain."""

    parameter: str
    share: float
    method: str
    trials: int


@dataclass(frozen=True)
class Search:
    """A search as its files describe it. Trials are ordered by number."""

    trials: tuple[SearchTrial, ...]
    rungs: tuple[Rung, ...]
    importances: tuple[Importance, ...]  # greatest first
    objectives: dict[str, Mode]  # metric: which end is better; the search metric first
    facts: dict[str, Any]  # search.json
    points: int  # configurations that the experiment file begins with

    @property
    def metric(self) -> str:
        """What the search compared."""
        return next(iter(self.objectives))

    @property
    def compares_all(self) -> bool:
        """Whether every combination was trained to its end and none again: a comparison rather than a search."""
        facts = self.facts
        return facts.get("sampler") == "grid" and facts.get("pruner") == "none" and not facts.get("finalists")

    @property
    def unfinished(self) -> str | None:
        """What there is of a search that still runs or was interrupted, in words; None where it has ended."""
        if self.facts.get("finished", True):
            return None
        ended = sum(trial.state != "running" for trial in self.trials)
        words = f"{len(self.trials)} of {self.facts.get('trials_planned', '?')} trials started, {ended} ended"
        return f"not finished (it runs or was interrupted): {words}"

    @property
    def mode(self) -> Mode:
        """Which end of the search metric is better."""
        return self.objectives[self.metric]

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the searched values, the most important first, then as they were suggested."""
        suggested = dict.fromkeys(name for trial in self.trials for name in trial.parameters)
        ranked = [each.parameter for each in self.importances if each.parameter in suggested]
        return tuple(dict.fromkeys([*ranked, *suggested]))

    @cached_property
    def names(self) -> dict[str, str]:
        """Short names of the searched values; inside an option of a choice as in `lr (adamw)`."""
        short = short_names(self.parameters)
        return {
            name: re.sub(r"^[^\[\]]*(?:\[[^\[\]]*\])*\[([^\[\]]*)\]\.(.+)$", r"\2 (\1)", text)
            for name, text in short.items()
        }

    @cached_property
    def _by_hash(self) -> dict[str, tuple[SearchTrial, ...]]:
        found: dict[str, list[SearchTrial]] = {}
        for trial in self.trials:
            found.setdefault(trial.config_hash, []).append(trial)
        return {config_hash: tuple(trials) for config_hash, trials in found.items()}

    def trials_of(self, config_hash: str) -> tuple[SearchTrial, ...]:
        """Return the trials of a configuration: one, or several where it was suggested again."""
        return self._by_hash.get(config_hash, ())

    def label(self, config_hash: str) -> str:
        """Name a configuration: `#12 lr=1e-3, n_embd=192`; by its hash where no trial has it."""
        trials = self.trials_of(config_hash)
        if not trials:
            return config_hash
        given = trials[0].settings
        names = short_names([*given])  # what the other options of a choice would be called does not matter here
        settings = [f"{names[name]}={setting(given[name])}" for name in self._in_file_order if name in given]
        return f"#{trials[0].number} {', '.join(settings)}".strip()

    def mark(self, config_hash: str) -> str:
        """Name a configuration as shortly as can be: `#12`."""
        trials = self.trials_of(config_hash)
        return f"#{trials[0].number}" if trials else config_hash[:6]

    @cached_property
    def _in_file_order(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for trial in self.trials for name in trial.settings))

    @cached_property
    def courses(self) -> dict[int, tuple[Float64, Float64]]:
        """Of each trial with rungs: steps (points,) and the mean over its seeds there (points,), where it is finite."""
        values: dict[int, dict[int, list[float]]] = {}
        for rung in self.rungs:
            values.setdefault(rung.number, {}).setdefault(rung.step, []).append(rung.value)
        courses = {}
        for number, by_step in values.items():
            means = {step: float(np.mean(by_step[step])) for step in sorted(by_step)}
            kept = [step for step, mean in means.items() if math.isfinite(mean)]
            courses[number] = np.array(kept, np.float64), np.array([means[step] for step in kept], np.float64)
        return courses

    @cached_property
    def stops(self) -> dict[int, int]:
        """Of each trial that the pruner stopped: the step."""
        return {rung.number: rung.step for rung in self.rungs if not rung.kept}

    def last_value(self, trial: SearchTrial) -> float | None:
        """Return the value of a trial, or what it showed last before it was stopped; None where it showed nothing."""
        if trial.value is not None and trial.state != "pruned":
            return trial.value
        values = self.courses.get(trial.number, (None, np.array([])))[1]
        return float(values[-1]) if values.size else trial.value


def read_search(run: RunDirectory, experiment: Mapping[str, Any]) -> Search | None:
    """Read the search of a run directory; None where there was none. StorageError where a file is damaged."""
    section: dict[str, Any] = experiment["search"] if isinstance(experiment.get("search"), dict) else {}
    facts = read_record(run.search_file, _FACTS)
    objectives = _objectives({**section, **facts})
    if (run.search_log).exists() and not facts.get("finished"):  # the tables, if any, are of an earlier end
        trials, rungs = trial_rows(run.search_log, list(objectives)), rung_rows(run.search_log)
        facts = {**section, **facts, "finished": False, "trials_planned": planned_trials(run.search_log) or "?"}
    else:
        table = optional_table(run.trials_file, TRIAL_COLUMNS, ("value", "steps", "seeds", "parameters", "objectives"))
        if table is None:
            return None
        trials, rungs = rows_of(table), rows_of(optional_table(run.rungs_file, RUNG_COLUMNS, ("value", "kept")))
    # Importances: what could not be computed is left out
    shares = rows_of(optional_table(run.importances_file, IMPORTANCE_COLUMNS, ("importance", "method", "trials")))
    return Search(
        trials=tuple(_trial(run.trials_file, row) for row in sorted(trials, key=lambda row: row["number"])),
        rungs=tuple(
            Rung(r["number"], r["step"], r["seed"], math.nan if r["value"] is None else r["value"], bool(r["kept"]))
            for r in sorted(rungs, key=lambda r: (r["number"], r["step"], r["seed"]))
        ),
        importances=tuple(
            Importance(r["parameter"], r["importance"], r["method"], r["trials"])
            for r in sorted(shares, key=lambda r: (-(r["importance"] or 0.0), r["parameter"]))
            if r["importance"] is not None and math.isfinite(r["importance"])
        ),
        objectives=objectives,
        facts=facts,
        points=len(section["points"]) if isinstance(section.get("points"), list) else 0,
    )


def _trial(file: Path, row: Mapping[str, Any]) -> SearchTrial:
    objectives = _mapping(file, row, "objectives")
    value, parameters = row["value"], _mapping(file, row, "parameters")
    return SearchTrial(
        number=row["number"],
        config_hash=row["config_hash"] or "",
        state=row["state"],
        value=value if value is not None and math.isfinite(value) else None,
        steps=row["steps"] or 0,
        seeds=row["seeds"] or 0,
        parameters=parameters,
        settings=_mapping(file, row, "settings") or _settings(parameters),
        objectives={k: float(v) for k, v in objectives.items() if isinstance(v, int | float) and math.isfinite(v)},
    )


def _settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by dotted path, without the options in brackets: of a choice in a choice the innermost."""
    settings = {}
    for name, value in parameters.items():
        path = name
        while path != (shorter := re.sub(r"\[[^\[\]]*\]", "", path)):
            path = shorter
        settings[path] = value
    return settings


def _mapping(file: Path, row: Mapping[str, Any], column: str) -> dict[str, Any]:
    try:
        value = json.loads(row.get(column) or "{}")
    except ValueError as error:
        raise StorageError(f"{file}: trial {row['number']}: {column} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise StorageError(f"{file}: trial {row['number']}: {column} holds no mapping")
    return value


def _objectives(facts: Mapping[str, Any]) -> dict[str, Mode]:
    metric = str(facts.get("metric") or VALIDATION_ROLLOUT)
    also = facts.get("also")
    given = {metric: facts.get("mode") or natural_mode(metric), **(also if isinstance(also, dict) else {})}
    return {name: "max" if mode == "max" else "min" for name, mode in given.items()}
