"""A study from beginning to end: prepare data, run trials with Ray Tune, collect rows.

It decides which members train together and when; the results do not depend on that (the law of independence).
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.config import Experiment
from ensemble.data.splits import split_text
from ensemble.data.trajectories import Trajectories, read_manifest
from ensemble.errors import UsageError
from ensemble.machine import cores, memory
from ensemble.run_directory import RunDirectory
from ensemble.schema import Say
from ensemble.study.checks import FeasibilityCheck, KnownTrials, check_search, require_extras, search_notes
from ensemble.study.cluster import ClusterNode, Needs, connected, in_job, needs, slots
from ensemble.study.plan import Plan, clear, planned_text, row_value, write_plan
from ensemble.study.prepare import PreparedData, check_experiments, find_origin, naming_cache, prepare, short_path
from ensemble.study.stopping import Stopping
from ensemble.text import plural
from ensemble.versions import git_commit, versions


@dataclass(frozen=True)
class Options:
    """The options of the command line on where and how a study runs."""

    address: str = "local"
    device: str | None = None
    overwrite: bool = False  # discard an earlier run of this name, once everything is checked
    forced: Sequence[str] = ()  # differences from the beginning of the run that --force accepted


def run_study(plan: Plan, options: Options, say: Say, shards: Mapping[str, Path] | None = None) -> None:
    """Train every member of the plan that has not finished, and collect all rows in the run directory.

    Args:
        plan: what to train.
        options: where to train it.
        say: prints a line for the user.
        shards: data sets on disk by name, `main` and the named ones; by default made from the plan's `data:`.

    Raises:
        UsageError: the experiment does not fit its data, or no node holds a trial.
        DataError: bad or too little data.
        KeyboardInterrupt: it was interrupted; what was trained is saved.
    """
    # Checks, before anything is simulated or converted
    experiment, base_dir = plan.first, plan.base_dir
    _check_resources(experiment, options)
    require_extras(experiment.logging)
    for configuration in plan.configurations:
        find_origin(configuration.train.init_from, base_dir)
    known = check_search(plan.file, base_dir) if plan.role == "search" else []

    # Data
    if shards is None:
        data = prepare(experiment.data, base_dir, plan.run.parent, say)
    else:
        data = PreparedData(shards["main"], {name: path for name, path in shards.items() if name != "main"})
    with naming_cache(data, plan.run):
        description = check_experiments(plan.configurations, data)
        _refuse_other_data(plan, data)

    stopping, workers = Stopping(plan.run, say), experiment.resources.workers > 1
    with stopping.watch(), naming_cache(data, plan.run), connected(options.address, workers, say) as nodes:
        request = needs(experiment.resources, nodes, options.device)
        count = slots(request, nodes)

        # Run directory. An earlier run is removed only now: every refusal above leaves it in place.
        if options.overwrite:
            clear(plan)
        write_plan(plan, _notes(experiment, data, description, options.forced))
        if plan.role == "search":
            _open_log(plan, data, known)
        _announce(plan, request, count, description, data, say)

        # Training
        from ensemble.study.runner import Runner  # loads torch and all of Ray

        try:
            Runner(plan, data, request, count, say, stopping).run()
        finally:
            # After an error or an interruption too: what has ended can be reported.
            RunDirectory(plan.run).collect()


def _open_log(plan: Plan, data: PreparedData, known: KnownTrials) -> None:
    """Begin the log of a search with the known trials, or refuse a log that this file does not reproduce."""
    # In this process, where a UsageError reaches the user before any actor or trial is started.
    from ensemble.search.judge import Judge

    Judge(plan.file, plan.log, known=known, feasibility=FeasibilityCheck(data, plan.base_dir))


def _refuse_other_data(plan: Plan, data: PreparedData) -> None:
    """Raise UsageError when a member of this run was trained on other data."""
    fingerprint = read_manifest(data.main)["fingerprint"]
    for file in RunDirectory(plan.run).row_files:
        trained_on = row_value(file, "data_fingerprint")
        if trained_on != fingerprint:
            raise UsageError(
                f"{plan.run}: member {file.parent.name} was trained on data_fingerprint {trained_on}, the data now "
                f"have {fingerprint}; start again with --overwrite"
            )


def _check_resources(experiment: Experiment, options: Options) -> None:
    """Refuse a trial that does not fit on this machine; the nodes of a cluster are known only after connecting."""
    if options.address != "local" or in_job():
        return
    machine = ClusterNode(socket.gethostname(), cores(), 0.0, memory())
    # CPUs and memory only: counting GPUs would load torch.
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
    experiment, unit = plan.first, "trial" if plan.file.searched else "pack"
    episodes, points = len(description.episodes), int(description.episodes.points.sum())
    say(
        f"device {'cuda' if request.gpus else 'cpu'}, {experiment.train.precision}, "
        f"{plural(experiment.resources.threads, 'thread')} a process, {plural(count, unit)} at a time of "
        f"{request.describe()}"
    )
    say(f"data {short_path(data.main)}: {plural(episodes, 'episode')}, {plural(points, 'point')}")
    for values, reason in () if plan.sampled else plan.file.infeasible:
        say(f"left out {', '.join(f'{name}={value}' for name, value in values.items())}: {reason}")
    for note in search_notes(plan.file):
        say(f"note: {note}")
    say(f"{planned_text(plan)} to {short_path(plan.run)}")
