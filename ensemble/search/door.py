"""The door to a search: what an experiment file asks for, checked before anything is made.

`tune`, `resume` and `plan` go through it, so that a plan never promises what a run refuses. It reads no shard, and it
loads Optuna only where there are points or earlier searches to compare with the space.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensemble.config import ExperimentFile, load
from ensemble.errors import UsageError
from ensemble.schema import Feature
from ensemble.search.plan import Plan
from ensemble.search.prepare import find_origin, problems_of
from ensemble.search.space_words import default_grace, longest
from ensemble.store import read_table

Known = list[tuple[dict[str, Any], float]]  # parameters and value of finished trials


def check_plan(plan: Plan, features: Sequence[Feature] | None) -> None:
    """Refuse a plan that cannot be run; what needs features is left out where these are not known yet (None).

    Raises UsageError that lists every unknown feature and metric, or names the first thing of the search that does not
    fit.
    """
    if plan.role == "search":
        check_search(plan.file, plan.beside)
    for experiment in plan.configurations:
        find_origin(experiment.train.init_from, plan.beside)
    if features is not None:
        found = [problem for experiment in plan.configurations for problem in problems_of(experiment, features)]
        if found:
            raise UsageError("\n".join(dict.fromkeys(found)))


def check_search(file: ExperimentFile, beside: Path) -> Known:
    """Check the points to start from, and return the completed trials of the searches that `warm_start` names.

    Raises UsageError for a point outside the space, and where a directory is no search of this space and objective.
    """
    search = file.first.search
    if not search.points and not search.warm_start:
        return []
    from ensemble.search.space import check_points

    check_points(file)
    return [trial for name in search.warm_start for trial in _earlier(file, name, beside)]


def _earlier(file: ExperimentFile, name: str, beside: Path) -> Known:
    from ensemble.search.space import refuse_other_parameters, refuse_other_space

    run = next((p for p in (Path(name).expanduser(), beside / name) if (p / "trials.parquet").is_file()), None)
    if run is None:
        raise UsageError(f"search.warm_start: {name}: no search there (it would have a trials.parquet)")
    refuse_other_space(file, load(run / "experiment.yaml"))
    rows = read_table(run / "trials.parquet").to_pylist()
    known = [(json.loads(row["parameters"]), row["value"]) for row in rows if row["value"] is not None]
    for parameters, _ in known:
        refuse_other_parameters(file, parameters, f"search.warm_start: {name}")
    return known


def notes(file: ExperimentFile) -> list[str]:
    """Return what a search may not have meant: a pruner whose first decision comes after the end."""
    first, search = file.first, file.first.search
    if not file.searched or search.pruner == "none":
        return []
    steps = longest(file)
    every = first.train.validate_every or max(1, steps // 20)
    grace = search.grace or default_grace(search.eta, steps, every)
    if grace < steps:
        return []
    return [f"search.grace: {search.pruner} decides from step {grace} on, training ends at {steps}: nothing is stopped"]
