"""The state of an earlier run: its plan, its data, and what has changed since it began."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensemble.config import load
from ensemble.data.notes import has_manifest
from ensemble.errors import UsageError
from ensemble.run_directory import RunDirectory
from ensemble.store import read_json
from ensemble.study.plan import Plan, first_difference, make_plan, plain_values, planned_members, read_notes
from ensemble.versions import git_commit, versions


def plan_of_run(run: Path, overrides: Sequence[str] = ()) -> Plan:
    """Return the plan of a run directory, extended by `overrides`; UsageError when it is not a run directory."""
    directory = RunDirectory(run)
    if not directory.experiment_file.is_file():
        raise UsageError(f"{run} is no run directory: it has no {directory.experiment_file.name}")
    refuse_edited(run)

    # Plan. The directory may have been moved or renamed, and the folder of the experiment file is another one.
    file = load(directory.experiment_file, overrides)
    plan = replace(make_plan(file, run.parent), run=run.absolute())
    plan = replace(plan, base_dir=Path(read_notes(plan).get("beside", plan.base_dir)))

    # Members. Under other config hashes every member would be trained again, next to the old ones.
    if directory.planned_file.is_file() and plan.known:
        planned = {identity for identity, role, _ in planned_members(run) if role == plan.role}
        if not planned <= {identity for identity, _, _ in plan.known}:
            raise UsageError(
                f"{run} was made by another version of ensemble, which names its members differently; "
                "`ensemble tune --overwrite` discards it and starts again"
            )
    return plan


def refuse_edited(run: Path) -> None:
    """Raise UsageError, naming the first key, where a file of a run was edited since the run began.

    More trials and more seeds are an extension, not an edit.
    """
    directory = RunDirectory(run)
    notes = read_json(directory.notes_file) if directory.notes_file.is_file() else {}
    for file, key in ((directory.experiment_file, "asked"), (directory.space_file, "given")):
        old, new = notes.get(key), plain_values(file)
        if isinstance(old, dict) and isinstance(new, dict):
            places = ("in the run", f"in {file.name}")
            difference = first_difference(_without_extensions(old), _without_extensions(new), places=places)
            if difference is not None:
                raise UsageError(f"{file} was edited: {difference}. Restore it; another question is another experiment")


def _without_extensions(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections without the keys that `resume --trials --seeds` changes."""
    extended = {"search": "trials", "ensemble": "seeds"}
    return {
        name: {key: each for key, each in part.items() if key != extended.get(name)} if isinstance(part, dict) else part
        for name, part in tree.items()
    }


def other_versions(plan: Plan) -> list[str]:
    """Return the versions that have changed since the run began: `torch was 2.13.0, is 2.14.0`."""
    old = read_notes(plan).get("versions", {})
    new = {**versions(), "git_commit": git_commit()}
    return [f"{name} was {was}, is {new.get(name)}" for name, was in old.items() if was and was != new.get(name)]


def data_of_run(plan: Plan) -> dict[str, Path] | None:
    """Return the shards of the run by name (`main` and the named sets); None where one of them is gone."""
    shards = {name: Path(path) for name, path in read_notes(plan).get("shards", {}).items()}
    return shards if "main" in shards and all(map(has_manifest, shards.values())) else None
