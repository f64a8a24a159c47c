"""Where a row comes from: a configuration, its members, data, versions, code and random streams, as lines of text.

`ensemble explain` prints them; the command that trains a member again is `rebuild`'s.
"""

import json
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ensemble.errors import UsageError
from ensemble.reporting.groups import is_finite, role_rank
from ensemble.reporting.number_format import number, setting
from ensemble.reporting.rebuild import configuration, rebuild, require_member, searched
from ensemble.reporting.run import MemberRow, Run
from ensemble.reporting.selection import find_configuration
from ensemble.streams import key

_SHOWN = 30  # members


def explain(run: Run, config: str, seed: int | None) -> str:
    """Return the lineage of a configuration, or of one member of it.

    `config` is what `find_configuration` takes. UsageError with the nearest names where it is not one configuration, or
    where there is no such member.
    """
    found = find_configuration(run, config)
    members = sorted(
        (member for member in run.members if member["config_hash"] == found),
        key=lambda member: (role_rank(member["role"]), member["seed"]),
    )
    if not members:
        raise UsageError(f"{run.search.label(found) if run.search else found} left no member yet: nothing to explain")
    if seed is not None:
        members = [require_member(run, found, seed)]
    chosen = members[0]
    made_here = (_lineage_lines(run, chosen), _stream_lines(run, chosen), _rebuild_lines(run, chosen))
    lineage = (_import_lines(members),) if chosen.get("imported_from") else made_here
    parts = (_configuration_lines(run, found, chosen), _member_lines(run, members), *lineage)
    return "".join(f"{line}\n" for part in parts for line in part)


def _configuration_lines(run: Run, found: str, member: MemberRow) -> Iterator[str]:
    yield f"configuration {found}" + (f"   {run.search.label(found)}" if run.search else "")
    config = configuration(run, member)
    for name in searched(run.directory.experiment_file):
        value = config
        for part in name.split("."):
            value = value[int(part)] if isinstance(value, list) else value.get(part, {})
        yield f"  {name} = {json.dumps(value)}"
    if run.search is not None:
        for trial in run.search.trials_of(found):
            stopped = f" at step {run.search.stops[trial.number]}" if trial.number in run.search.stops else ""
            value_text = "" if trial.value is None else f", {run.search.metric} {number(trial.value)}"
            yield f"  trial #{trial.number}: {trial.state}{stopped}{value_text}"


def _member_lines(run: Run, members: Sequence[MemberRow]) -> Iterator[str]:
    metric = run.check_metric(None)
    searched_metric = run.search.metric if run.search else metric
    yield ""
    yield "members"
    for member in members[:_SHOWN]:
        name = metric if is_finite(member.get(metric)) else searched_metric
        value = f"{name} {number(member[name], 6)}" if is_finite(member.get(name)) else str(member["error"] or "")
        weights = member["weights_sha256"] or "none"
        step = "imported" if member["steps"] is None else f"step {member['steps']}"
        yield f"  {member['role']:<8}  seed {member['seed']:<4}  {member['status']:<9}  {step}  {value}".rstrip()
        yield f"            weights_sha256 {weights}"
    if len(members) > _SHOWN:
        yield f"  .. and {len(members) - _SHOWN} more in {run.directory.members_file.name}"


def _import_lines(members: Sequence[MemberRow]) -> Iterator[str]:
    """Say which files members are from that were not trained here; nothing trains them again."""
    yield ""
    yield "imported: trained elsewhere, on data and by a recipe not recorded in the files"
    for member in members[:_SHOWN]:
        yield f"  seed {member['seed']:<4}  {member['imported_from']}  sha256 {member['imported_sha256']}"


def _lineage_lines(run: Run, member: MemberRow) -> Iterator[str]:
    yield ""
    yield "lineage"
    split = run.notes.get("split")
    yield f"  data        fingerprint {member['data_fingerprint']}" + (f", {split}" if split else "")
    commit = str(member["git_commit"] or "unknown")
    yield f"  code        git commit {commit.rstrip('+')}" + (
        " with uncommitted changes" if commit.endswith("+") else ""
    )
    versions = _versions(member)
    yield f"  versions    {', '.join(f'{name} {versions[name]}' for name in sorted(versions)) or 'unknown'}"
    for name, then in sorted(versions.items()):
        now = _installed(name)
        if now is not None and now != then:
            yield f"              here {name} is {now}: the bits may differ"
    processes = "" if member["world_size"] in (None, 1) else f", {member['world_size']} processes (DDP)"
    threads = setting(member["threads"])
    yield f"  machine     {member['device']}, {threads} thread{'' if threads == '1' else 's'} each{processes}"
    yield "              on one kind of machine; another one's libraries may round differently"


def _stream_lines(run: Run, member: MemberRow) -> Iterator[str]:
    """Say which random streams the member draws from, and how they are keyed: by nothing but seed, purpose and step."""
    seed = int(member["seed"])
    yield ""
    yield f"random streams of seed {seed}: blake2b of 'seed|purpose|step', 64 bits (ensemble/streams.py)"
    yield f"  weights     ({seed}, 'weights', 0) = {key(seed, 'weights'):016x}, layers in the order of the model"
    yield f"  order       ({seed}, 'order', epoch), epoch 0 = {key(seed, 'order'):016x}, mixed with each episode's hash"
    if _dropout(configuration(run, member)):
        yield f"  dropout     ({seed}, 'dropout/site', 0), site 0 = {key(seed, 'dropout/0'):016x}, mixed with the step"
    else:
        yield "  dropout     none"
    yield "  Neither the configuration, nor the pack, nor when it was scheduled enters: equal seeds draw equal numbers."


def _rebuild_lines(run: Run, member: MemberRow) -> Iterator[str]:
    found = rebuild(run, member)
    yield ""
    yield f"to train seed {member['seed']} again"
    yield f"  {found.command}"
    if member["status"] == "completed":
        yield f"  gives weights_sha256 {member['weights_sha256']}"
    elif member["status"] == "pruned":
        yield f"  It was stopped at step {member['steps']}; the command trains it to the end, to other weights."
    else:
        yield f"  It {member['status']}: {(member['error'] or 'no message').splitlines()[0]}"
    yield from (f"  warning: {warning}" for warning in found.warnings)


def _dropout(tree: Any) -> bool:
    """Tell whether any dropout rate is above zero."""
    if isinstance(tree, dict):
        return any(("dropout" in k and isinstance(v, int | float) and v > 0) or _dropout(v) for k, v in tree.items())
    return isinstance(tree, list) and any(_dropout(each) for each in tree)


def _versions(member: MemberRow) -> dict[str, str]:
    try:
        value = json.loads(member["versions"] or "{}")
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _installed(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    try:
        return version(name)
    except PackageNotFoundError:
        return None
