"""The command that trains one member of a run again: the run's own experiment file, with every choice made.

Every outermost distribution is overridden by the member's value, a choice of sub-trees as a whole. The overridden file
is read back, and its hash compared with the member's: what the command would train is known before it is printed.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.config import Experiment, load
from ensemble.config.forks import forks
from ensemble.errors import StorageError, UsageError
from ensemble.reporting.run import MemberRow, Run
from ensemble.run_directory import config_hash, member_id
from ensemble.text import command

_SECTIONS = ("data", "model", "train")


@dataclass(frozen=True, slots=True)
class Rebuild:
    """How to train a member again, and why the result may differ."""

    command: str
    overrides: tuple[str, ...]
    warnings: tuple[str, ...]


def rebuild(run: Run, member: MemberRow) -> Rebuild:
    """Return the command that trains `member` again; UsageError where the experiment file cannot be read any more."""
    file = run.directory.experiment_file
    wanted = configuration(run, member)
    # Overrides: every choice of the search, what has changed in the file since, and the one member
    overrides = [f"{name}={_text(_at(wanted, name))}" for name in searched(file) if _has(wanted, name)]
    overrides += list(_further(load(file, overrides).first, wanted, member))
    overrides += list(_identity(load(file, overrides).first, member))
    # What the command would train, and whether it is the same
    found = load(file, overrides)
    warnings = list(_data_warnings(run, found.first))
    if config_hash(found.first) != member["config_hash"]:
        warnings.append(
            f"this version of ensemble reads it as configuration {config_hash(found.first)}, "
            f"not {member['config_hash']}: use the versions named above"
        )
    return Rebuild(command(*_command(run, member, overrides)), tuple(overrides), tuple(warnings))


def configuration(run: Run, member: MemberRow) -> dict[str, Any]:
    """Return a member's configuration; StorageError where its row does not hold it."""
    try:
        value = json.loads(member["config"] or "")
    except ValueError as error:
        raise StorageError(f"{run.directory.members_file}: config of {member['config_hash']} is no JSON") from error
    if not isinstance(value, dict):
        raise StorageError(f"{run.directory.members_file}: config of {member['config_hash']} holds no mapping")
    return value


def searched(file: Path) -> list[str]:
    """Return the dotted paths of the outermost distributions of an experiment file."""
    return [fork.name for fork, needs in forks(load(file).tree) if not needs]


def _command(run: Run, member: MemberRow, overrides: list[str]) -> list[str]:
    """Spell the command; its results directory is next to that of the run, so that both use the same shards."""
    device = "cpu" if member["device"] == "cpu" else "cuda"
    directory = run.path.absolute().parent.parent / "rebuild"
    near = os.path.relpath(directory)
    results = str(directory) if near.startswith("..") else near
    words = ["ensemble", "train", "--config", str(run.directory.experiment_file), "--results", results]
    return [*words, "--device", device, *(word for text in overrides for word in ("--set", text))]


def _identity(experiment: Experiment, member: MemberRow) -> Iterator[str]:
    """Yield what names the one member, and keeps it apart from its run."""
    yield f"experiment={member_id(member['config_hash'], member['seed'])}"
    yield f"ensemble.seeds=[{member['seed']}]"
    if experiment.storage is not None:
        yield "storage=null"


def _further(experiment: Experiment, wanted: Mapping[str, Any], member: MemberRow) -> Iterator[str]:
    """Yield what differs although nothing is searched there, in a file that was changed since."""
    found = experiment.model_dump(mode="json", include=set(_SECTIONS))
    for section in _SECTIONS:
        for key, value in wanted.get(section, {}).items():
            if key in found[section] and found[section][key] != value:
                yield f"{section}.{key}={_text(value)}"
    if member["threads"] is not None and experiment.resources.threads != member["threads"]:
        yield f"resources.threads={member['threads']}"
    if member["world_size"] is not None and experiment.resources.workers != member["world_size"]:
        yield f"resources.workers={member['world_size']}"


def _data_warnings(run: Run, experiment: Experiment) -> Iterator[str]:
    paths = experiment.data.path
    for path in [paths] if isinstance(paths, str) else paths or []:
        if not Path(path).expanduser().exists() and not (run.path / path).exists():
            yield f"data.path {path} is not found from here: add --set data.path=/where/it/is"


def _text(value: Any) -> str:
    """Write a value as JSON, which YAML reads as the same value; floats keep every bit."""
    return json.dumps(value, ensure_ascii=False)


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    return tree


def _has(tree: Any, path: str) -> bool:
    try:
        _at(tree, path)
    except (KeyError, IndexError, ValueError, TypeError):
        return False
    return True


def require_member(run: Run, config: str, seed: int) -> MemberRow:
    """Return the member of a configuration and a seed; UsageError names the seeds there are."""
    members = {int(member["seed"]): member for member in run.members if member["config_hash"] == config}
    if seed in members:
        return members[seed]
    seeds = ", ".join(map(str, sorted(members))) or "none"
    raise UsageError(f"configuration {config} has no member of seed {seed} that ended; it has {seeds}")
