"""The plan of a study and its run directory: which members there will be, and what an earlier run left of them.

Read and written before Ray or torch are loaded, so that a finished run shows its table in a moment and a name that is
taken is refused at once.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ensemble.config import Experiment, ExperimentFile, load
from ensemble.config.document import Node, dotted
from ensemble.config.forks import Fork
from ensemble.config.space import Choice
from ensemble.errors import StorageError, UsageError
from ensemble.schema import MemberRole
from ensemble.store import (
    RunDirectory,
    config_hash,
    member_id,
    read_json,
    read_table,
    write_json,
    write_table,
    write_text,
)

PLANNED = "planned.parquet"
NOTES = "data.json"
# Differences that change neither a result nor what a row says of it.
_FREE = ("logging", "storage")


@dataclass(frozen=True)
class Plan:
    """Every configuration with every seed, in one role."""

    file: ExperimentFile
    role: MemberRole
    configurations: tuple[Experiment, ...]
    seeds: tuple[int, ...]
    run: Path

    @property
    def members(self) -> list[str]:
        """The identities of all members."""
        hashes = [config_hash(experiment) for experiment in self.configurations]
        return [member_id(identity, seed) for identity in hashes for seed in self.seeds]

    @property
    def resolved(self) -> dict[str, Any]:
        """The experiment file with every default filled in; what is searched stays a distribution."""
        return dict(_filled(self.file.first.model_dump(mode="json"), _written(self.file.tree)))


def make_plan(file: ExperimentFile, results: Path) -> Plan:
    """Return the plan of an experiment file: a search where something varies, else a seed ensemble."""
    first = file.first
    role: MemberRole = "search" if file.searched else "ensemble"
    seeds = first.search.seeds if file.searched else first.ensemble.seeds
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))
    run = (Path(first.storage).expanduser() if first.storage else results).absolute() / first.experiment
    return Plan(file, role, tuple(file.configurations()), numbers, run)


def is_finished(plan: Plan) -> bool:
    """Say whether every planned member of this very experiment has ended.

    Raises UsageError when the run directory holds another experiment, or this one unfinished.
    """
    run = RunDirectory(plan.run)
    refuse_foreign(plan)
    if not run.experiment_file.is_file():
        return False
    ways = f"continue it with `ensemble resume {plan.run}`, or start again with --overwrite"
    difference = first_difference(_read(run.experiment_file), plan.resolved)
    if difference is not None:
        raise UsageError(f"{plan.run} holds another experiment: {difference}; {ways}")
    missing = unfinished(plan)
    if missing:
        raise UsageError(f"{plan.run} is unfinished, {len(missing)} of {len(plan.members)} members to go; {ways}")
    return True


def unfinished(plan: Plan) -> list[str]:
    """Return the members without a row."""
    run = RunDirectory(plan.run)
    return [identity for identity in plan.members if not run.member(identity).row_file.is_file()]


def is_complete(plan: Plan) -> bool:
    """Say whether every planned member has ended and its row is collected."""
    return not unfinished(plan) and RunDirectory(plan.run).members_file.is_file()


def refuse_foreign(plan: Plan) -> None:
    """Raise UsageError when the run directory is something else of the user's, StorageError when it cannot be one."""
    for place in (plan.run, *plan.run.parents):
        if place.exists() and not place.is_dir():
            raise StorageError(f"{place} is a file; results need a directory")
    if plan.run.is_dir() and any(plan.run.iterdir()) and not RunDirectory(plan.run).experiment_file.is_file():
        raise UsageError(f"{plan.run} exists and is no run directory; choose another --results or `experiment:`")


def write_plan(plan: Plan, notes: Mapping[str, Any]) -> None:
    """Write what a run directory says before anything is trained."""
    plan.run.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(plan.run)
    text = plan.file.path.read_text(encoding="utf-8")
    if not (plan.run / "space.yaml").is_file():  # a resumed run keeps the file as it was given
        write_text(plan.run / "space.yaml", text)
    write_json(plan.run / NOTES, dict(notes))
    hashes = [config_hash(experiment) for experiment in plan.configurations]
    pairs = [(identity, seed) for identity in hashes for seed in plan.seeds]
    columns = {
        "config_hash": pa.array([identity for identity, _ in pairs], pa.string()),
        "role": pa.array([plan.role] * len(pairs), pa.string()),
        "seed": pa.array([seed for _, seed in pairs], pa.int64()),
    }
    write_table(plan.run / PLANNED, pa.table(columns))
    body = yaml.safe_dump(plan.resolved, sort_keys=False, allow_unicode=True, width=120)
    write_text(run.experiment_file, leading_comment(text) + body)


def clear(plan: Plan) -> None:
    """Remove a run directory that --overwrite gives up."""
    if (plan.run / "experiment.yaml").is_file():
        gone = plan.run.with_name(f".{plan.run.name}.removed")
        shutil.rmtree(gone, ignore_errors=True)
        plan.run.rename(gone)  # at once: half a run must not pass for one
        shutil.rmtree(gone)


def forget_failures(plan: Plan) -> int:
    """Remove the rows of failed members, so that a resumed run trains them again; return how many."""
    run, count = RunDirectory(plan.run), 0
    for identity in plan.members:
        file = run.member(identity).row_file
        if file.is_file() and read_table(file)["status"][0].as_py() == "failed":
            file.unlink()
            count += 1
    return count


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], path: tuple[str, ...] = ()) -> str | None:
    """Return `train.steps is 100 there, 200 here` for the first key that differs, in the order of the file."""
    for name in dict.fromkeys([*new, *old]):
        if not path and name in _FREE:
            continue
        there, here = old.get(name), new.get(name)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            difference = first_difference(there, here, (*path, name))
            if difference is not None:
                return difference
        elif there != here:
            return f"{dotted((*path, name))} is {there} there, {here} here"
    return None


def leading_comment(text: str) -> str:
    """Return the comment lines on top of a file, which hold its question."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line + "\n")
    return "".join(lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is damaged: {error}; start again with --overwrite") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path} is damaged; start again with --overwrite")
    return value


def _written(node: Node) -> Any:
    """Return a tree as a file says it, distributions and all."""
    if isinstance(node, Fork):
        if isinstance(node.distribution, Choice):
            return {"choice": [_written(candidate) for candidate in node.candidates]}
        return node.distribution.model_dump(mode="json", by_alias=True)
    if isinstance(node.value, Mapping):
        return {name: _written(child) for name, child in node.value.items()}
    return [_written(child) for child in node.value] if isinstance(node.value, tuple) else node.value


def _filled(defaults: Any, given: Any) -> Any:
    """Return `given` with what it leaves out taken from `defaults`."""
    if not isinstance(defaults, Mapping) or not isinstance(given, Mapping):
        return given
    if set(given) - set(defaults) and not set(given) & set(defaults):
        return given  # a distribution, or a mapping of the file's own names
    return {
        **{name: _filled(value, given[name]) if name in given else value for name, value in defaults.items()},
        **{name: value for name, value in given.items() if name not in defaults},
    }


def planned_text(plan: Plan) -> str:
    """Return `2 configurations x 3 seeds (search)`."""
    count = len(plan.configurations)
    what = f"{count} configurations x {len(plan.seeds)} seeds" if count > 1 else f"{len(plan.seeds)} seeds"
    return f"{what} ({plan.role})"


def titles(plan: Plan) -> Sequence[str]:
    """Return what sets each configuration apart: `lr=0.001`, or the experiment's name when nothing does."""
    texts = []
    for experiment in plan.configurations:
        varied = plan.file.varied(experiment)
        short = [f"{name.rpartition('.')[2]}={_short(value)}" for name, value in varied.items()]
        texts.append(" ".join(short) or experiment.experiment)
    return texts


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def left_plan(run: Path) -> Plan:
    """Return the plan that a run directory holds; UsageError when it is none."""
    if not (run / "experiment.yaml").is_file():
        raise UsageError(f"{run} is no run directory: it has no experiment.yaml")
    file = load(run / "experiment.yaml")
    plan = replace(make_plan(file, run.parent), run=run.absolute())
    if (run / PLANNED).is_file():
        known = {member_id(row["config_hash"], row["seed"]) for row in read_table(run / PLANNED).to_pylist()}
        if known != set(plan.members):
            raise UsageError(
                f"{run} was made by another version of ensemble, which names its members differently; "
                "train it again with --overwrite"
            )
    return plan


def noted_data(plan: Plan) -> dict[str, Path] | None:
    """Return the shards that the run used, by name (`main` and the named sets), while they are all there."""
    if not (plan.run / NOTES).is_file():
        return None
    shards = {name: Path(path) for name, path in read_json(plan.run / NOTES).get("shards", {}).items()}
    return shards if "main" in shards and all((path / "manifest.json").is_file() for path in shards.values()) else None
