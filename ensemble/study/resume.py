"""What an earlier run left in its directory: its plan, its data, and whether the world is still what it was."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensemble.config import load
from ensemble.errors import UsageError
from ensemble.run_directory import RunDirectory
from ensemble.store import read_json
from ensemble.study.plan import Plan, as_written, first_difference, make_plan, noted, planned_members
from ensemble.versions import git_commit, versions


def plan_of_run(run: Path, overrides: Sequence[str] = ()) -> Plan:
    """Return the plan that a run directory holds, perhaps extended; UsageError when it is none."""
    left = RunDirectory(run)
    if not left.experiment_file.is_file():
        raise UsageError(f"{run} is no run directory: it has no {left.experiment_file.name}")
    refuse_edited(run)
    file = load(left.experiment_file, overrides)
    plan = replace(make_plan(file, run.parent), run=run.absolute())
    plan = replace(plan, base_dir=Path(noted(plan).get("beside", plan.base_dir)))
    if left.planned_file.is_file() and plan.known:
        known = {identity for identity, role, _ in planned_members(run) if role == plan.role}
        if not known <= {identity for identity, _, _ in plan.known}:
            raise UsageError(
                f"{run} was made by another version of ensemble, which names its members differently; "
                "`ensemble tune --overwrite` discards it and begins anew"
            )
    return plan


def refuse_edited(run: Path) -> None:
    """Raise UsageError, naming the first key, where a file of a run is not as the run was begun with.

    More trials and more seeds are an extension, and are no edit.
    """
    left = RunDirectory(run)
    known = read_json(left.notes_file) if left.notes_file.is_file() else {}
    for file, key in ((left.experiment_file, "asked"), (left.space_file, "given")):
        then, now = known.get(key), as_written(file)
        if isinstance(then, dict) and isinstance(now, dict):
            found = first_difference(_not_extended(then), _not_extended(now), words=("in the run", f"in {file.name}"))
            if found is not None:
                raise UsageError(f"{file} was edited: {found}. Restore it; another question is another experiment")


def _not_extended(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what `resume --trials --seeds` changes."""
    extended = {"search": "trials", "ensemble": "seeds"}
    return {
        name: {key: each for key, each in part.items() if key != extended.get(name)} if isinstance(part, dict) else part
        for name, part in tree.items()
    }


def other_versions(plan: Plan) -> list[str]:
    """Return what is not as it was when the run began: `torch was 2.13.0, is 2.14.0`."""
    then = noted(plan).get("versions", {})
    now = {**versions(), "git_commit": git_commit()}
    return [f"{name} was {was}, is {now.get(name)}" for name, was in then.items() if was and was != now.get(name)]


def data_of_run(plan: Plan) -> dict[str, Path] | None:
    """Return the shards that the run used, by name (`main` and the named sets), while they are all there."""
    shards = {name: Path(path) for name, path in noted(plan).get("shards", {}).items()}
    return shards if "main" in shards and all((path / "manifest.json").is_file() for path in shards.values()) else None
