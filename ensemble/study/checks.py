"""The checks of an experiment file before a run: initial weights, points, earlier searches, features and metrics.

`tune`, `resume` and `plan` share them, so that a plan never accepts what a run refuses. They read no shard, and load
Optuna only where there are points or earlier searches to compare with the space.
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ensemble.config import Experiment, ExperimentFile, LoggingConfig, load
from ensemble.errors import DataError, UsageError
from ensemble.run_directory import RunDirectory
from ensemble.schema import Feature
from ensemble.search.describe_space import trial_count
from ensemble.search.rungs import first_rung, longest_training
from ensemble.store import read_table
from ensemble.study.plan import Plan
from ensemble.study.prepare import PreparedData, check_experiments, find_origin, problems_of
from ensemble.text import missing_extra, plural

KnownTrials = list[tuple[dict[str, Any], float]]  # parameters and value of finished trials


def check_plan(plan: Plan, features: Sequence[Feature] | None) -> None:
    """Refuse a plan that cannot be run; without features (None: not known yet) these and the metrics are not checked.

    Raises UsageError that lists every unknown feature and metric, or names the first invalid setting of the search.
    """
    if plan.role == "search":
        check_search(plan.file, plan.base_dir)
    for experiment in plan.configurations:
        find_origin(experiment.train.init_from, plan.base_dir)
    if features is not None:
        problems = [problem for experiment in plan.configurations for problem in problems_of(experiment, features)]
        if problems:
            raise UsageError("\n".join(dict.fromkeys(problems)))


def check_search(file: ExperimentFile, base_dir: Path) -> KnownTrials:
    """Check the starting points, and return the completed trials of the searches that `warm_start` names.

    Raises UsageError for a point outside the space, and where a directory is no search of this space and objective.
    """
    search = file.first.search
    if not search.points and not search.warm_start:
        return []
    from ensemble.search.space import check_points

    check_points(file)
    return [trial for name in search.warm_start for trial in _completed_trials(file, name, base_dir)]


def _completed_trials(file: ExperimentFile, name: str, base_dir: Path) -> KnownTrials:
    from ensemble.search.space import refuse_other_parameters, refuse_other_space

    run = next((p for p in (Path(name).expanduser(), base_dir / name) if RunDirectory(p).trials_file.is_file()), None)
    if run is None:
        raise UsageError(f"search.warm_start: {name}: no search there (it would have a trials.parquet)")
    refuse_other_space(file, load(RunDirectory(run).experiment_file))
    rows = read_table(RunDirectory(run).trials_file).to_pylist()
    known = [(json.loads(row["parameters"]), row["value"]) for row in rows if row["value"] is not None]
    for parameters, _ in known:
        refuse_other_parameters(file, parameters, f"search.warm_start: {name}")
    return known


def require_extras(config: LoggingConfig) -> None:
    """Raise UsageError where a tracker that an experiment asks for is not installed; nothing of it is imported."""
    for name in ("wandb", "mlflow"):
        if getattr(config, name) is not None and find_spec(name) is None:
            raise UsageError(missing_extra(name))


def search_notes(file: ExperimentFile) -> list[str]:
    """Return settings that are perhaps not intended: a first rung after the end, more trials than configurations."""
    if not file.searched:
        return []
    search, train, notes = file.first.search, longest_training(file), []
    if search.pruner != "none" and (rung := first_rung(search, train)) >= train.steps:
        notes.append(
            f"search.grace: {search.pruner} decides from step {rung} on, training ends at {train.steps}: "
            "nothing is stopped"
        )
    if search.trials is not None and (tried := trial_count(file)) < search.trials:
        notes.append(f"search.trials: {search.trials} are asked for, the space holds {plural(tried, 'configuration')}")
    return notes


class FeasibilityCheck:
    """Checks whether a configuration can be trained on these data.

    Relative paths count from the working directory, or else from `base_dir`, the folder of the experiment file.
    """

    def __init__(self, data: PreparedData, base_dir: Path) -> None:
        self._data = data
        self._base_dir = base_dir

    def __call__(self, experiment: Experiment) -> str | None:
        """Return why not: too short episodes, a missing feature, missing initial weights; None where it can."""
        try:
            find_origin(experiment.train.init_from, self._base_dir)
            check_experiments([experiment], self._data)
        except (UsageError, DataError) as error:
            return str(error)
        return None
