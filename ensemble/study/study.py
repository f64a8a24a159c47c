"""A study from beginning to end: data made ready, trials run by Ray Tune, rows collected.

It decides who trains with whom and when, which changes nothing about the results (the law of independence).
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.config import Experiment
from ensemble.data.splits import split_text
from ensemble.data.trajectories import Trajectories, read_manifest
from ensemble.errors import UsageError
from ensemble.run_directory import RunDirectory
from ensemble.schema import Say
from ensemble.store import read_table
from ensemble.study.checks import KnownTrials, check_search, notes
from ensemble.study.cluster import Needs, Node, connected, cpu_count, in_job, needs, slots
from ensemble.study.plan import Plan, clear, planned_text, write_plan
from ensemble.study.prepare import PreparedData, check, find_origin, prepare, shown
from ensemble.text import plural
from ensemble.versions import git_commit, versions


@dataclass(frozen=True)
class Options:
    """What the command line says about where a study runs."""

    address: str = "local"
    device: str | None = None
    overwrite: bool = False  # discard an earlier run of this name, once everything is checked
    forced: Sequence[str] = ()  # what differs from the beginning of the run and was accepted


def run_study(plan: Plan, options: Options, say: Say, shards: Mapping[str, Path] | None = None) -> None:
    """Train every member of the plan that has not finished, and collect all rows in the run directory.

    Args:
        plan: what to train.
        options: where.
        say: prints a line for the user.
        shards: data sets on disk by name, `main` and the named ones; made from the plan's `data:` by default.

    Raises:
        UsageError: the experiment does not fit its data, or no node holds a trial.
        DataError: bad or too little data.
        KeyboardInterrupt: it was interrupted; what was trained is saved.
    """
    first = plan.configurations[0]
    base_dir = plan.base_dir
    _refuse_early(first, options)
    for experiment in plan.configurations:
        find_origin(experiment.train.init_from, base_dir)
    known = check_search(plan.file, base_dir) if plan.role == "search" else []
    if shards is None:
        data = prepare(first.data, base_dir, plan.run.parent, say)
    else:
        data = PreparedData(shards["main"], {name: path for name, path in shards.items() if name != "main"})
    description = check(plan.configurations, data)
    _refuse_other_data(plan, data)
    with connected(options.address, workers=first.resources.workers > 1) as nodes:
        request = needs(first.resources, nodes, options.device)
        count = slots(request, nodes)
        if options.overwrite:
            clear(plan)
        write_plan(plan, _notes(first, data, description, options.forced))
        if plan.role == "search":
            _open_log(plan, data, known)
        _announce(plan, request, count, description, data, say)
        from ensemble.study.runner import Runner  # torch and all of Ray, when everything has been checked

        try:
            Runner(plan, data, request, count, say).run()
        finally:
            RunDirectory(plan.run).collect()  # what has ended is there to be read, however this ends


def _open_log(plan: Plan, data: PreparedData, known: KnownTrials) -> None:
    """Begin the log of a search with what is known, or refuse one that does not follow from this file."""
    from ensemble.search.judge import Judge
    from ensemble.study.checks import Feasible

    Judge(plan.file, plan.log, known=known, feasible=Feasible(data, plan.base_dir))


def _refuse_other_data(plan: Plan, data: PreparedData) -> None:
    """Raise UsageError when a member of this run was trained on data that are no longer these."""
    fingerprint = read_manifest(data.main)["fingerprint"]
    for file in RunDirectory(plan.run).row_files:
        known = read_table(file)["data_fingerprint"][0].as_py()
        if known != fingerprint:
            raise UsageError(
                f"{plan.run}: member {file.parent.name} was trained on data_fingerprint {known}, the data now have "
                f"{fingerprint}; start again with --overwrite"
            )


def _refuse_early(experiment: Experiment, options: Options) -> None:
    """Refuse what this machine cannot hold before data are made; a cluster is asked when it is reached."""
    if options.address != "local" or in_job():
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    machine = Node(socket.gethostname(), cpu_count(), 0.0, memory)
    slots(needs(experiment.resources.model_copy(update={"gpus_per_worker": 0.0}), [machine], "cpu"), [machine])


def _notes(
    experiment: Experiment, data: PreparedData, description: Trajectories, forced: Sequence[str]
) -> dict[str, Any]:
    return {
        "split": split_text(description, experiment.data, experiment.model.window),
        "notices": [*read_manifest(data.main)["notices"], *forced],
        "fingerprint": read_manifest(data.main)["fingerprint"],
        "versions": {**versions(), "git_commit": git_commit()},
        "shards": {"main": str(data.main), **{name: str(path) for name, path in data.named.items()}},
    }


def _announce(plan: Plan, request: Needs, count: int, description: Trajectories, data: PreparedData, say: Say) -> None:
    first = plan.configurations[0]
    episodes, points = len(description.episodes), int(description.episodes.points.sum())
    say(
        f"device {'cuda' if request.gpus else 'cpu'}, {first.train.precision}, {first.resources.threads} thread(s) a "
        f"process, {count} trial(s) at a time of {request.describe()}"
    )
    say(f"data {shown(data.main)}: {plural(episodes, 'episode')}, {plural(points, 'point')}")
    for values, reason in () if plan.sampled else plan.file.infeasible:
        say(f"left out {', '.join(f'{name}={value}' for name, value in values.items())}: {reason}")
    for note in notes(plan.file):
        say(f"note: {note}")
    say(f"{planned_text(plan)} to {shown(plan.run)}")
