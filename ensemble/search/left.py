"""What an earlier run left in its directory: its plan, its data, and whether the world is still what it was."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ensemble.config import load
from ensemble.errors import UsageError
from ensemble.search.plan import PLANNED, Plan, make_plan, noted, planned_members
from ensemble.versions import git_commit, versions


def left_plan(run: Path, overrides: Sequence[str] = ()) -> Plan:
    """Return the plan that a run directory holds, perhaps extended; UsageError when it is none."""
    if not (run / "experiment.yaml").is_file():
        raise UsageError(f"{run} is no run directory: it has no experiment.yaml")
    file = load(run / "experiment.yaml", overrides)
    plan = replace(make_plan(file, run.parent), run=run.absolute())
    plan = replace(plan, beside=Path(noted(plan).get("beside", plan.beside)))
    if (run / PLANNED).is_file() and plan.known:
        known = {identity for identity, role, _ in planned_members(run) if role == plan.role}
        if not known <= {identity for identity, _, _ in plan.known}:
            raise UsageError(
                f"{run} was made by another version of ensemble, which names its members differently; "
                "train it again with --overwrite"
            )
    return plan


def other_versions(plan: Plan) -> list[str]:
    """Return what is not as it was when the run began: `torch was 2.13.0, is 2.14.0`."""
    then = noted(plan).get("versions", {})
    now = {**versions(), "git_commit": git_commit()}
    return [f"{name} was {was}, is {now.get(name)}" for name, was in then.items() if was and was != now.get(name)]


def noted_data(plan: Plan) -> dict[str, Path] | None:
    """Return the shards that the run used, by name (`main` and the named sets), while they are all there."""
    shards = {name: Path(path) for name, path in noted(plan).get("shards", {}).items()}
    return shards if "main" in shards and all((path / "manifest.json").is_file() for path in shards.values()) else None
