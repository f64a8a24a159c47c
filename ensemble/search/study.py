"""A study from beginning to end: data made ready, trials run by Ray Tune, rows collected.

It decides who trains with whom and when, which changes nothing about the results (the law of independence).
"""

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from ensemble.config import Experiment
from ensemble.data.splits import describe_split, split_episodes
from ensemble.data.trajectories import Trajectories, read_manifest
from ensemble.errors import UsageError
from ensemble.search.cluster import Needs, Node, connected, cpu_count, in_job, needs, quieten, slots
from ensemble.search.plan import Plan, planned_text, titles, write_plan
from ensemble.search.prepare import PreparedData, check, find_origin, prepare, shown
from ensemble.store import RunDirectory, read_table

Say = Callable[[str], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the command line says about where a study runs."""

    address: str = "local"
    device: str | None = None
    before: Callable[[], None] = lambda: None  # called when everything is checked, before anything is written


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
    """
    first = plan.configurations[0]
    _refuse_early(first, options)
    if shards is None:
        data = prepare(first.data, plan.file.path.absolute().parent, plan.run.parent, say)
    else:
        data = PreparedData(shards["main"], {name: path for name, path in shards.items() if name != "main"})
    description = check(plan.configurations, data)
    for experiment in plan.configurations:
        find_origin(experiment.train.init_from, plan.file.path.absolute().parent)
    _refuse_other_data(plan, data)
    with connected(options.address, workers=first.resources.workers > 1) as nodes:
        request = needs(first.resources, nodes, options.device)
        count = slots(request, nodes)
        options.before()
        write_plan(plan, _notes(first, data, description))
        _announce(plan, request, count, description, data, say)
        try:
            train_members(plan, data, request, count, say)
        finally:
            RunDirectory(plan.run).collect()  # what has ended is there to be read, however this ends


def spread(seeds: Sequence[int], slots: int, pack: int | str) -> list[tuple[int, ...]]:
    """Split the seeds of an ensemble into trials: as many as run at once, each at least a pack.

    >>> spread(range(10), 4, "auto")
    [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    """
    size = max(pack if isinstance(pack, int) else 1, ceil(len(seeds) / slots))
    return [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]


def _refuse_other_data(plan: Plan, data: PreparedData) -> None:
    """Raise UsageError when a member of this run was trained on data that are no longer these."""
    fingerprint = read_manifest(data.main)["fingerprint"]
    for identity in plan.members:
        file = RunDirectory(plan.run).member(identity).row_file
        known = read_table(file)["data_fingerprint"][0].as_py() if file.is_file() else fingerprint
        if known != fingerprint:
            raise UsageError(
                f"{plan.run}: member {identity} was trained on data_fingerprint {known}, the data now have "
                f"{fingerprint}; start again with --overwrite"
            )


def _refuse_early(experiment: Experiment, options: Options) -> None:
    """Refuse what this machine cannot hold before data are made; a cluster is asked when it is reached."""
    if options.address != "local" or in_job():
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    machine = Node(socket.gethostname(), cpu_count(), 0.0, memory)
    slots(needs(experiment.resources.model_copy(update={"gpus_per_worker": 0.0}), [machine], "cpu"), [machine])


def train_members(plan: Plan, data: PreparedData, request: Needs, count: int, say: Say) -> None:
    """Run the trials. Ray and torch are loaded here, when everything has been checked."""
    import ray

    from ensemble.data.loading import load_resident, resident
    from ensemble.evaluation.baselines import write_baselines
    from ensemble.search.trial import Shared
    from ensemble.training.trial import Trial

    quieten()
    main = load_resident(data.main, _log.info)
    named = {name: load_resident(path, _log.info) for name, path in data.named.items()}
    groups = [plan.seeds] if plan.role == "search" else spread(plan.seeds, count, plan.file.first.resources.pack)
    beside = plan.file.path.absolute().parent
    trials = tuple(
        Trial(experiment, tuple(seeds), plan.role, plan.run, find_origin(experiment.train.init_from, beside))
        for experiment in plan.configurations
        for seeds in groups
    )
    fingerprint = read_manifest(data.main)["fingerprint"]
    shared = Shared(trials, main, named, fingerprint, request, plan.run / "ray")

    def baselines(references: Mapping[str, Any]) -> None:
        write_baselines(plan.run / "baselines.parquet", plan.configurations, resident(references["main"]))

    waiting = ray.remote(num_cpus=0)(baselines).remote({"main": main})
    _tune(plan, shared, count, say)
    ray.get(waiting)


def _tune(plan: Plan, shared: Any, count: int, say: Say) -> None:
    from ray import tune

    from ensemble.search import live
    from ensemble.search.trial import train_distributed, train_inline
    from ensemble.search.tuning import TrialQueue, Watcher

    trials, distributed = shared.trials, shared.needs.workers > 1
    names = dict(zip((trial.config_hash for trial in trials), _titles_by_trial(plan, trials), strict=True))
    views = [live.TrialView(names[t.config_hash], t.seeds, t.experiment.train.steps) for t in trials]
    board = live.Board(views)
    queue = TrialQueue(trials)
    with live.screen(board, say) as screen:
        trainable = tune.with_parameters(train_distributed if distributed else train_inline, shared=shared)
        tuner = tune.Tuner(
            # A trial with workers holds none of their cores itself; asking for nothing at all is refused.
            tune.with_resources(trainable, {"memory": 1_000_000} if distributed else _bundle(shared.needs)),
            tune_config=tune.TuneConfig(
                search_alg=queue,
                num_samples=len(trials),
                max_concurrent_trials=count,
                reuse_actors=not distributed,
            ),
            run_config=tune.RunConfig(
                name=plan.role, storage_path=str(shared.storage), verbose=0, callbacks=[Watcher(board, screen, trials)]
            ),
        )
        tuner.fit()
    if queue.bug is not None and queue.left:
        say(f"stopped: the first trials all failed with one error, {queue.left} were not started: {queue.bug}")
    _record_deaths(shared, [number for number, view in enumerate(views) if view.status == "failed"])


def _titles_by_trial(plan: Plan, trials: Sequence[Any]) -> list[str]:
    by_configuration = dict(zip((id(experiment) for experiment in plan.configurations), titles(plan), strict=True))
    return [by_configuration[id(trial.experiment)] for trial in trials]


def _record_deaths(shared: Any, failed: Sequence[int]) -> None:
    """Write the rows of members whose process died before it could."""
    from ensemble.training.trial import record_failure

    for number in failed:
        record_failure(shared.trials[number], RuntimeError("the trial's process died"), shared.fingerprint)


def _bundle(request: Needs) -> dict[str, float]:
    """Return the request in Tune's spelling."""
    return {{"CPU": "cpu", "GPU": "gpu"}.get(name, name): amount for name, amount in request.bundle.items()}


def _notes(experiment: Experiment, data: PreparedData, description: Trajectories) -> dict[str, Any]:
    parts = split_episodes(description, experiment.data.split, experiment.model.history)
    return {
        "split": describe_split(description, parts),
        "notices": list(read_manifest(data.main)["notices"]),
        "shards": {"main": str(data.main), **{name: str(path) for name, path in data.named.items()}},
    }


def _announce(plan: Plan, request: Needs, count: int, description: Trajectories, data: PreparedData, say: Say) -> None:
    first = plan.configurations[0]
    episodes, points = len(description.episodes), int(description.episodes.points.sum())
    say(
        f"device {'cuda' if request.gpus else 'cpu'}, {first.train.precision}, {first.resources.threads} thread(s) a "
        f"process, {count} trial(s) at a time of {request.describe()}"
    )
    say(f"data {shown(data.main)}: {episodes} episodes, {points} points")
    for values, reason in plan.file.infeasible:
        say(f"left out {', '.join(f'{name}={value}' for name, value in values.items())}: {reason}")
    say(f"{planned_text(plan)} to {shown(plan.run)}")
