"""The door to a search: what an experiment file asks for, checked before anything is made.

`tune`, `resume` and `plan` go through it, so that a plan never promises what a run refuses. It reads no shard, and it
loads Optuna only where there are points or earlier searches to compare with the space.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensemble.config import Experiment, ExperimentFile, load
from ensemble.errors import DataError, UsageError
from ensemble.run_directory import RunDirectory
from ensemble.schema import Feature
from ensemble.search.describe_space import trial_count
from ensemble.search.rungs import first_rung, longest
from ensemble.store import read_table
from ensemble.study.plan import Plan
from ensemble.study.prepare import PreparedData, check, find_origin, problems_of
from ensemble.text import plural

KnownTrials = list[tuple[dict[str, Any], float]]  # parameters and value of finished trials


def check_plan(plan: Plan, features: Sequence[Feature] | None) -> None:
    """Refuse a plan that cannot be run; what needs features is left out where these are not known yet (None).

    Raises UsageError that lists every unknown feature and metric, or names the first thing of the search that does not
    fit.
    """
    if plan.role == "search":
        check_search(plan.file, plan.base_dir)
    for experiment in plan.configurations:
        find_origin(experiment.train.init_from, plan.base_dir)
    if features is not None:
        found = [problem for experiment in plan.configurations for problem in problems_of(experiment, features)]
        if found:
            raise UsageError("\n".join(dict.fromkeys(found)))


def check_search(file: ExperimentFile, base_dir: Path) -> KnownTrials:
    """Check the points to start from, and return the completed trials of the searches that `warm_start` names.

    Raises UsageError for a point outside the space, and where a directory is no search of this space and objective.
    """
    search = file.first.search
    if not search.points and not search.warm_start:
        return []
    from ensemble.search.space import check_points

    check_points(file)
    return [trial for name in search.warm_start for trial in _earlier(file, name, base_dir)]


def _earlier(file: ExperimentFile, name: str, base_dir: Path) -> KnownTrials:
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


def notes(file: ExperimentFile) -> list[str]:
    """Return what a search may not mean: a pruner that decides after the end, more trials than configurations."""
    if not file.searched:
        return []
    search, train, found = file.first.search, longest(file), []
    if search.pruner != "none" and (rung := first_rung(search, train)) >= train.steps:
        found.append(
            f"search.grace: {search.pruner} decides from step {rung} on, training ends at {train.steps}: "
            "nothing is stopped"
        )
    if search.trials is not None and (tried := trial_count(file)) < search.trials:
        found.append(f"search.trials: {search.trials} are asked for, the space holds {plural(tried, 'configuration')}")
    return found


class Feasible:
    """Says why a configuration cannot be trained on these data; None where it can.

    `beside` is the folder of the experiment file, where relative paths may begin.
    """

    def __init__(self, data: PreparedData, base_dir: Path) -> None:
        self._data = data
        self._beside = base_dir

    def __call__(self, experiment: Experiment) -> str | None:
        """Return the reason: a window longer than the episodes, a feature or initial weights that are not there."""
        try:
            find_origin(experiment.train.init_from, self._beside)
            check([experiment], self._data)
        except (UsageError, DataError) as error:
            return str(error)
        return None
