"""The plan of a study and its run directory: the planned members, and which of them an earlier run has trained.

Read and written before Ray or torch are loaded, so that the table of a finished run is shown quickly and a name that is
in use is refused at once.
"""

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
from ensemble.run_directory import RunDirectory, cast_columns, config_hash, member_id
from ensemble.schema import MemberRole
from ensemble.search.describe_space import trial_count
from ensemble.store import read_record, read_table, write_record, write_table, write_text
from ensemble.study.removal import inputs_of, remove_run, why_not_removed
from ensemble.text import command, plural

PlannedMember = tuple[str, str, int]  # config_hash, role, seed
FORCED = "resumed although "  # start of a notice that --force wrote
_PLANNED = pa.schema([("config_hash", pa.string()), ("role", pa.string()), ("seed", pa.int64())])
# Sections that change neither a result nor the description of it in a row.
_IGNORED_SECTIONS = ("logging", "storage")


@dataclass(frozen=True)
class Plan:
    """The contents of an experiment file as members: a search (and finalists), or one configuration with its seeds."""

    file: ExperimentFile
    role: MemberRole
    configurations: tuple[Experiment, ...]  # known in advance: all of a grid, the first of a sampled space
    seeds: tuple[int, ...]
    run: Path
    base_dir: Path  # folder of the experiment file: relative paths in it may start there

    @property
    def first(self) -> Experiment:
        """The first configuration; all others share its sections but `model` and `train`."""
        return self.file.first

    @property
    def log(self) -> Path:
        """The log of a search."""
        return RunDirectory(self.run).search_log

    @property
    def known(self) -> list[PlannedMember]:
        """The members that are known in advance."""
        if self.sampled:
            return []
        hashes = [config_hash(experiment) for experiment in self.configurations]
        return [(identity, self.role, seed) for identity in hashes for seed in self.seeds]

    @property
    def sampled(self) -> bool:
        """Whether configurations are suggested one after the other."""
        return self.role == "search" and self.first.search.sampler != "grid"

    @property
    def inputs(self) -> dict[str, Path]:
        """The experiment file, and what exists of the paths in it, by their keys."""
        return inputs_of(self.file.tree.plain(), self.file.path, self.base_dir)

    @property
    def kept_by(self) -> str | None:
        """Why --overwrite must not remove the run directory; None where it may."""
        return why_not_removed(self.run, self.inputs)

    @property
    def resolved(self) -> dict[str, Any]:
        """The experiment file with every default filled in; searched keys stay distributions."""
        return dict(_with_defaults(self.first.model_dump(mode="json"), _plain_tree(self.file.tree)))


def make_plan(file: ExperimentFile, results: Path) -> Plan:
    """Return the plan of an experiment file: a search where a key has a distribution, else a seed ensemble."""
    # Members
    first = file.first
    role: MemberRole = "search" if file.searched else "ensemble"
    seeds = seed_numbers(first.search.seeds if file.searched else first.ensemble.seeds)
    enumerable = not file.searched or first.search.sampler == "grid"
    configurations = tuple(file.configurations()) if enumerable else (first,)
    if file.searched:
        _check_seeds(first)

    # Run directory
    run = (Path(first.storage).expanduser() if first.storage else results).absolute() / first.experiment
    return Plan(file, role, configurations, seeds, run, file.path.absolute().parent)


def _check_seeds(experiment: Experiment) -> None:
    search = experiment.search
    # The best of many is best partly by chance on the seeds of the search; only other seeds measure it without bias.
    used = set(seed_numbers(search.seeds)) & set(fresh_seeds(experiment))
    if experiment.ensemble.finalists and used:
        raise UsageError(
            f"ensemble.seeds: seed {min(used)} is one of search.seeds; "
            "finalists are confirmed on seeds that the search never used"
        )
    if search.race and len(seed_numbers(search.seeds)) <= search.race_start:
        raise UsageError(
            f"search.seeds: a race begins with {search.race_start} seeds (race_start) and may add some, "
            f"found only {search.seeds}"
        )


def is_finished(plan: Plan) -> bool:
    """Return whether every planned member of this experiment has ended; False where there is no run yet.

    Raises UsageError when the run directory holds another experiment, or this one unfinished.
    """
    run = RunDirectory(plan.run)
    refuse_foreign(plan)
    if not run.experiment_file.is_file():
        return False
    again = "choose another `experiment:`" if plan.kept_by else "start again with --overwrite"
    advice = f"continue it with `{command('ensemble', 'resume', plan.run)}`, or {again}"
    difference = first_difference(_read_yaml(run.experiment_file), plan.resolved)
    if difference is not None:
        raise UsageError(f"{plan.run} holds another experiment: {difference}; {advice}")
    if not is_complete(plan):
        planned = plural(len(planned_members(plan.run)), "member")
        to_go = "" if plan.sampled else f", {len(unfinished(plan))} of {planned} to go"
        raise UsageError(f"{plan.run} is unfinished{to_go}; {advice}")
    return True


def unfinished(plan: Plan) -> list[PlannedMember]:
    """Return the planned members without a row."""
    run = RunDirectory(plan.run)
    return [
        (identity, role, seed)
        for identity, role, seed in planned_members(plan.run)
        if not run.member(member_id(identity, seed)).row_file.is_file()
    ]


def is_complete(plan: Plan) -> bool:
    """Return whether every planned member has ended and its row is collected, and a search has its finalists."""
    run = RunDirectory(plan.run)
    ended = not unfinished(plan) and run.members_file.is_file()
    if ended and run.collected(run.members_file).num_rows < len(run.row_files):
        run.collect()  # the driver was killed after the last row and before the table
    if plan.role == "search":
        return ended and bool(_record(run, run.search_file).get("finished"))
    return ended and len(planned_members(plan.run)) == len(plan.known)


def planned_members(path: Path) -> list[PlannedMember]:
    """Return the planned members that a run directory lists; none where it has no list."""
    run = RunDirectory(path)
    if not run.planned_file.exists():
        return []
    try:
        table = cast_columns(run.planned_file, read_table(run.planned_file), _PLANNED)
    except StorageError as error:
        raise StorageError(f"{error}; {_advice(run)}") from error
    lacking = [name for name in _PLANNED.names if name not in table.column_names or table[name].null_count]
    if lacking:
        raise StorageError(f"{run.planned_file}: damaged: no '{lacking[0]}' in every row; {_advice(run)}")
    return [(row["config_hash"], row["role"], row["seed"]) for row in table.to_pylist()]


def write_planned(run: Path, members: Sequence[PlannedMember]) -> None:
    """Write the list of planned members."""
    columns = zip(*members, strict=True) if members else ((), (), ())
    table = {field.name: pa.array(list(c), field.type) for field, c in zip(_PLANNED, columns, strict=True)}
    write_table(RunDirectory(run).planned_file, pa.table(table))


def refuse_foreign(plan: Plan, overwrite: bool = False) -> None:
    """Raise UsageError when the directory is not a run, or with `overwrite` holds what must not be removed.

    Raises StorageError where it cannot be a directory.
    """
    for path in (plan.run, *plan.run.parents):
        if path.is_symlink() and not path.exists():
            raise StorageError(f"{path} is a symbolic link to nothing; results need a directory")
        if path.exists() and not path.is_dir():
            raise StorageError(f"{path} is a file; results need a directory")
    if plan.run.is_dir() and any(plan.run.iterdir()) and not RunDirectory(plan.run).is_run:
        raise UsageError(f"{plan.run} exists and is no run directory; choose another --results or `experiment:`")
    if overwrite and plan.run.is_dir() and (reason := plan.kept_by):
        raise UsageError(f"{reason}, or choose another --results or `experiment:`")


def write_plan(plan: Plan, notes: Mapping[str, Any]) -> None:
    """Write the files of a run directory that precede training; `notes` describe data, versions and notices."""
    plan.run.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(plan.run)

    # Experiment. The marker first of all: without it the directory is not recognized as a run.
    run.mark()
    text = plan.file.path.read_text(encoding="utf-8")
    body = yaml.safe_dump(plan.resolved, sort_keys=False, allow_unicode=True, width=120)
    write_text(run.experiment_file, leading_comment(text) + body)
    if not run.space_file.is_file():  # a resumed run keeps the file as it was given
        write_text(run.space_file, text)

    # Notes. Those of an earlier --force stay, since members trained before it are in the results.
    contents = {"asked": plain_values(run.experiment_file), "given": plain_values(run.space_file)}
    earlier = [notice for notice in read_notes(plan).get("notices", []) if notice.startswith(FORCED)]
    notices = [*earlier, *(notice for notice in notes.get("notices", []) if notice not in earlier)]
    write_record(run.notes_file, {**notes, **contents, "notices": notices, "beside": str(plan.base_dir)})

    # Search and members. A search that is extended is no longer finished.
    if run.search_file.is_file():
        write_record(run.search_file, {**_record(run, run.search_file), "finished": False})
    planned = planned_members(plan.run)
    write_planned(plan.run, [*planned, *(member for member in plan.known if member not in planned)])


def clear(plan: Plan) -> Path:
    """Remove a run directory that --overwrite replaces; return where the next one goes, links followed."""
    return remove_run(plan.run, plan.inputs)


def forget_failures(plan: Plan) -> int:
    """Remove the rows of failed members, so that a resumed run trains them again; return how many."""
    failed = [file for file in RunDirectory(plan.run).row_files if row_status(file) == "failed"]
    for file in failed:
        file.unlink()
    return len(failed)


def row_status(file: Path) -> str:
    """Return the status of the member of a row file; StorageError where it is damaged."""
    return str(row_value(file, "status"))


def row_value(file: Path, column: str) -> Any:
    """Return one value of a member's row; StorageError, with the way out, where it is damaged."""
    table = read_table(file, [column])
    if table.column_names != [column] or table.num_rows != 1:
        again = command("ensemble", "resume", file.parents[2])
        raise StorageError(f"{file}: damaged: no '{column}'; remove it, and `{again}` trains that member again")
    return table[column][0].as_py()


def plain_values(file: Path) -> Any:
    """Return the contents of an experiment file as plain values, distributions included; None where it is missing."""
    return parse(read_text(file), str(file))[0].plain() if file.is_file() else None


def first_difference(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    path: tuple[str, ...] = (),
    places: tuple[str, str] = ("there", "here"),
) -> str | None:
    """Return `train.steps is 100 there, 200 here` for the first key that differs, in the order of the file."""
    for name in dict.fromkeys([*new, *old]):
        if not path and name in _IGNORED_SECTIONS:
            continue
        there, here = old.get(name), new.get(name)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            difference = first_difference(there, here, (*path, name), places)
            if difference is not None:
                return difference
        elif there != here:
            return f"{dotted((*path, name))} is {there} {places[0]}, {here} {places[1]}"
    return None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = plain_values(path)
    except UsageError as error:
        raise StorageError(f"{path} is damaged: {error}; start again with --overwrite") from error
    if not isinstance(value, dict):
        raise StorageError(f"{path} is damaged; start again with --overwrite")
    return value


def _plain_tree(node: TreeNode) -> Any:
    """Return a tree as a file says it, distributions and all."""
    if isinstance(node, Fork):
        if isinstance(node.distribution, Choice):
            return {"choice": [_plain_tree(candidate) for candidate in node.candidates]}
        return node.distribution.model_dump(mode="json", by_alias=True)
    if isinstance(node.value, Mapping):
        return {name: _plain_tree(child) for name, child in node.value.items()}
    return [_plain_tree(child) for child in node.value] if isinstance(node.value, tuple) else node.value


def _with_defaults(defaults: Any, given: Any) -> Any:
    """Return `given`, completed by `defaults`."""
    if not isinstance(defaults, Mapping) or not isinstance(given, Mapping):
        return given
    if set(given) - set(defaults) and not set(given) & set(defaults):
        return given  # a distribution, or a mapping of the file's own names
    return {
        **{name: _with_defaults(value, given[name]) if name in given else value for name, value in defaults.items()},
        **{name: value for name, value in given.items() if name not in defaults},
    }


def planned_text(plan: Plan) -> str:
    """Return `2 configurations x 3 seeds (search)`."""
    if plan.sampled:
        search, count = plan.first.search, plan.first.ensemble.finalists
        fresh = plural(len(fresh_seeds(plan.first)), "fresh seed")
        finalists = f", then {plural(count, 'finalist')} x {fresh}" if count else ""
        pruner = f", stopped by {search.pruner}" if search.pruner != "none" else ""
        trials = plural(trial_count(plan.file), "configuration")
        return f"{trials} by {search.sampler}{pruner}, x {plural(len(plan.seeds), 'seed')}{finalists}"
    count = len(plan.configurations)
    seeds = plural(len(plan.seeds), "seed")
    return f"{count} configurations x {seeds} ({plan.role})" if count > 1 else f"{seeds} ({plan.role})"


def configuration_title(plan: Plan, experiment: Experiment) -> str:
    """Return the searched values of a configuration, `lr=0.001`, or the name of the experiment where none is."""
    varied = plan.file.varied(experiment)
    values = [f"{name.removesuffix('.name').rpartition('.')[2]}={_short(value)}" for name, value in varied.items()]
    return " ".join(values) or experiment.experiment


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_notes(plan: Plan) -> dict[str, Any]:
    """Return the notes of a run on its data and versions; empty before it began."""
    return notes_of_run(plan.run)


def notes_of_run(path: Path) -> dict[str, Any]:
    """Return the notes of a run directory; empty where it has none. StorageError where they are damaged."""
    run = RunDirectory(path)
    notes = _record(run, run.notes_file, {"notices": list, "versions": dict, "shards": dict, "beside": str})
    texts = [*(notes.get("notices") or []), *(notes.get("shards") or {}).values()]
    if not all(isinstance(each, str) for each in texts):
        raise StorageError(f"{run.notes_file}: damaged: 'notices' and 'shards' hold texts; {_advice(run)}")
    return {key: value for key, value in notes.items() if value is not None}


def _record(run: RunDirectory, file: Path, kinds: Mapping[str, type] | None = None) -> dict[str, Any]:
    try:
        return read_record(file, kinds)
    except StorageError as error:
        raise StorageError(f"{error}; {_advice(run)}") from error


def _advice(run: RunDirectory) -> str:
    return f"remove that file, and `{command('ensemble', 'resume', run.path)}` goes on without it"
