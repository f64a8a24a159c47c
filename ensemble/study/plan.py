"""The plan of a study and its run directory: which members there will be, and what an earlier run left of them.

Read and written before Ray or torch are loaded, so that a finished run shows its table in a moment and a name that is
taken is refused at once.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ensemble.config import Experiment, ExperimentFile
from ensemble.config.document import TreeNode, dotted, leading_comment, parse, read_text
from ensemble.config.experiment import fresh_seeds, seed_numbers
from ensemble.config.forks import Fork
from ensemble.config.space import Choice
from ensemble.errors import StorageError, UsageError
from ensemble.run_directory import RunDirectory, config_hash, member_id
from ensemble.schema import MemberRole
from ensemble.search.describe_space import trial_count
from ensemble.store import read_json, read_table, write_json, write_table, write_text
from ensemble.text import command, plural

Planned = tuple[str, str, int]  # config_hash, role, seed
FORCED = "resumed although "  # how a notice begins that --force left
# Differences that change neither a result nor what a row says of it.
_FREE = ("logging", "storage")


@dataclass(frozen=True)
class Plan:
    """What an experiment file asks for: a search (and finalists), or one configuration with all its seeds."""

    file: ExperimentFile
    role: MemberRole
    configurations: tuple[Experiment, ...]  # known beforehand: of a grid all, of what is sampled the first
    seeds: tuple[int, ...]
    run: Path
    base_dir: Path  # where the file was given: relative paths in it may begin there

    @property
    def log(self) -> Path:
        """The memory of a search."""
        return RunDirectory(self.run).search_log

    @property
    def known(self) -> list[Planned]:
        """The members that are known beforehand."""
        if self.sampled:
            return []
        hashes = [config_hash(experiment) for experiment in self.configurations]
        return [(identity, self.role, seed) for identity in hashes for seed in self.seeds]

    @property
    def sampled(self) -> bool:
        """Whether configurations are suggested one after the other."""
        return self.role == "search" and self.file.first.search.sampler != "grid"

    @property
    def resolved(self) -> dict[str, Any]:
        """The experiment file with every default filled in; what is searched stays a distribution."""
        return dict(_filled(self.file.first.model_dump(mode="json"), _written(self.file.tree)))


def make_plan(file: ExperimentFile, results: Path) -> Plan:
    """Return the plan of an experiment file: a search where something varies, else a seed ensemble."""
    first = file.first
    role: MemberRole = "search" if file.searched else "ensemble"
    seeds = seed_numbers(first.search.seeds if file.searched else first.ensemble.seeds)
    run = (Path(first.storage).expanduser() if first.storage else results).absolute() / first.experiment
    whole = not file.searched or first.search.sampler == "grid"
    known = tuple(file.configurations()) if whole else (first,)
    plan = Plan(file, role, known, seeds, run, file.path.absolute().parent)
    if file.searched:
        _refuse_used_seeds(first)
    return plan


def _refuse_used_seeds(first: Experiment) -> None:
    used = set(seed_numbers(first.search.seeds)) & set(fresh_seeds(first))
    if first.ensemble.finalists and used:
        raise UsageError(
            f"ensemble.seeds: seed {min(used)} is one of search.seeds; "
            "finalists are confirmed on seeds that the search never used"
        )
    if first.search.race and len(seed_numbers(first.search.seeds)) <= first.search.race_start:
        raise UsageError(
            f"search.seeds: a race begins with {first.search.race_start} seeds (race_start) and may add some, "
            f"found only {first.search.seeds}"
        )


def is_finished(plan: Plan) -> bool:
    """Say whether every planned member of this very experiment has ended.

    Raises UsageError when the run directory holds another experiment, or this one unfinished.
    """
    run = RunDirectory(plan.run)
    refuse_foreign(plan)
    if not run.experiment_file.is_file():
        return False
    ways = f"continue it with `{command('ensemble', 'resume', plan.run)}`, or start again with --overwrite"
    difference = first_difference(_read(run.experiment_file), plan.resolved)
    if difference is not None:
        raise UsageError(f"{plan.run} holds another experiment: {difference}; {ways}")
    if not is_complete(plan):
        planned = plural(len(planned_members(plan.run)), "member")
        to_go = "" if plan.sampled else f", {len(unfinished(plan))} of {planned} to go"
        raise UsageError(f"{plan.run} is unfinished{to_go}; {ways}")
    return True


def unfinished(plan: Plan) -> list[Planned]:
    """Return the planned members without a row."""
    run = RunDirectory(plan.run)
    return [
        each for each in planned_members(plan.run) if not run.member(member_id(each[0], each[2])).row_file.is_file()
    ]


def is_complete(plan: Plan) -> bool:
    """Say whether every planned member has ended and its row is collected, and a search has found its finalists."""
    run = RunDirectory(plan.run)
    ended = not unfinished(plan) and run.members_file.is_file()
    if ended and read_table(run.members_file).num_rows < len(run.row_files):
        run.collect()  # killed after the last row, before the table
    if plan.role == "search":
        known = read_json(run.search_file) if run.search_file.is_file() else {}
        return ended and bool(known.get("finished"))
    return ended and len(planned_members(plan.run)) == len(plan.known)


def planned_members(run: Path) -> list[Planned]:
    """Return which members there should be, as far as that is known."""
    file = RunDirectory(run).planned_file
    rows = read_table(file).to_pylist() if file.is_file() else []
    return [(row["config_hash"], row["role"], row["seed"]) for row in rows]


def write_planned(run: Path, members: Sequence[Planned]) -> None:
    """Write which members there should be."""
    columns = zip(*members, strict=True) if members else ((), (), ())
    names = ("config_hash", "role", "seed")
    kinds = (pa.string(), pa.string(), pa.int64())
    table = {name: pa.array(list(c), kind) for name, c, kind in zip(names, columns, kinds, strict=True)}
    write_table(RunDirectory(run).planned_file, pa.table(table))


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
    body = yaml.safe_dump(plan.resolved, sort_keys=False, allow_unicode=True, width=120)
    write_text(run.experiment_file, leading_comment(text) + body)  # first: without it this is no run directory
    if not run.space_file.is_file():  # a resumed run keeps the file as it was given
        write_text(run.space_file, text)
    asked = {"asked": as_written(run.experiment_file), "given": as_written(run.space_file)}
    earlier = [notice for notice in noted(plan).get("notices", []) if notice.startswith(FORCED)]
    notices = [*earlier, *(notice for notice in notes.get("notices", []) if notice not in earlier)]
    write_json(run.notes_file, {**notes, **asked, "notices": notices, "beside": str(plan.base_dir)})
    if run.search_file.is_file():  # a search that is extended is no longer finished
        write_json(run.search_file, {**read_json(run.search_file), "finished": False})
    before = planned_members(plan.run)
    write_planned(plan.run, [*before, *(each for each in plan.known if each not in before)])


def clear(plan: Plan) -> None:
    """Remove a run directory that --overwrite gives up."""
    if RunDirectory(plan.run).experiment_file.is_file():
        gone = plan.run.with_name(f".{plan.run.name}.removed")
        shutil.rmtree(gone, ignore_errors=True)
        plan.run.rename(gone)  # at once: half a run must not pass for one
        shutil.rmtree(gone)


def forget_failures(plan: Plan) -> int:
    """Remove the rows of failed members, so that a resumed run trains them again; return how many."""
    failed = [file for file in RunDirectory(plan.run).row_files if row_status(file) == "failed"]
    for file in failed:
        file.unlink()
    return len(failed)


def row_status(file: Path) -> str:
    """Return how the member of a row file ended."""
    return str(read_table(file, ["status"])["status"][0].as_py())


def as_written(file: Path) -> Any:
    """Return what an experiment file says, distributions and all, as plain values; None where it cannot be read."""
    return parse(read_text(file), str(file))[0].plain() if file.is_file() else None


def first_difference(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    path: tuple[str, ...] = (),
    words: tuple[str, str] = ("there", "here"),
) -> str | None:
    """Return `train.steps is 100 there, 200 here` for the first key that differs, in the order of the file."""
    for name in dict.fromkeys([*new, *old]):
        if not path and name in _FREE:
            continue
        there, here = old.get(name), new.get(name)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            difference = first_difference(there, here, (*path, name), words)
            if difference is not None:
                return difference
        elif there != here:
            return f"{dotted((*path, name))} is {there} {words[0]}, {here} {words[1]}"
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} is damaged: {error}; start again with --overwrite") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path} is damaged; start again with --overwrite")
    return value


def _written(node: TreeNode) -> Any:
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
    first = plan.file.first
    if plan.sampled:
        fresh = plural(len(fresh_seeds(first)), "fresh seed")
        after = f", then {plural(first.ensemble.finalists, 'finalist')} x {fresh}"
        stop = f", stopped by {first.search.pruner}" if first.search.pruner != "none" else ""
        trials = plural(trial_count(plan.file), "configuration")
        text = f"{trials} by {first.search.sampler}{stop}, x {plural(len(plan.seeds), 'seed')}"
        return text + (after if first.ensemble.finalists else "")
    count = len(plan.configurations)
    seeds = plural(len(plan.seeds), "seed")
    return f"{count} configurations x {seeds} ({plan.role})" if count > 1 else f"{seeds} ({plan.role})"


def title(plan: Plan, experiment: Experiment) -> str:
    """Return what sets a configuration apart: `lr=0.001`, or the experiment's name when nothing does."""
    varied = plan.file.varied(experiment)
    short = [f"{name.removesuffix('.name').rpartition('.')[2]}={_short(value)}" for name, value in varied.items()]
    return " ".join(short) or experiment.experiment


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def noted(plan: Plan) -> dict[str, Any]:
    """Return what the run noted about its data and itself; nothing before it began."""
    file = RunDirectory(plan.run).notes_file
    return dict(read_json(file)) if file.is_file() else {}
