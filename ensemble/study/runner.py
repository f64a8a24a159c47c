"""The trials of a study on Ray Tune: a search and then its finalists, or the members of an ensemble.

Ray and torch are loaded here, when everything has been checked. Two Tune runs of one study share the data, which lie
in the object store once, and the desk.
"""

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import ray
from ray import tune

from ensemble.config import Experiment
from ensemble.config.experiment import fresh_seeds
from ensemble.data.loading import load_resident, resident
from ensemble.data.trajectories import read_manifest
from ensemble.errors import INTERRUPTED
from ensemble.evaluation.baselines import write_baselines
from ensemble.run_directory import RunDirectory, config_hash
from ensemble.schema import MemberRole, Say
from ensemble.search.findings import Findings, write_findings
from ensemble.study import progress_screen as live
from ensemble.study.checks import Feasible
from ensemble.study.cluster import Needs, quieten
from ensemble.study.judge_actor import JudgeActor, PauseActor, Suggested, start_actor
from ensemble.study.plan import Plan, Planned, row_status, title, write_planned
from ensemble.study.prepare import PreparedData, find_origin
from ensemble.study.progress import StudyProgress
from ensemble.study.trial import Shared, train_distributed, train_inline
from ensemble.study.tuning import Given, Source, TrialQueue, Watcher
from ensemble.text import command, plural
from ensemble.training.tasks import measure_baselines
from ensemble.training.trial import Trial

_log = logging.getLogger(__name__)
_WITHOUT_FINALISTS = 3  # configurations that the baselines are measured for


class Runner:
    """Everything that trains for one plan: `count` trials at a time, each holding `request`."""

    def __init__(self, plan: Plan, data: PreparedData, request: Needs, count: int, say: Say) -> None:
        quieten()
        self._plan = plan
        self._first = plan.file.first
        self._needs = request
        self._count = count
        self._say = say
        self._data = data
        self._main = load_resident(data.main, _log.info)
        self._named = {name: load_resident(path, _log.info) for name, path in data.named.items()}
        self._fingerprint: str = read_manifest(data.main)["fingerprint"]
        self._actor: Any = None  # of the running phase: called at each rung
        self._waiting: list[Any] = []

    def run(self) -> None:
        """Train what the plan asks for; KeyboardInterrupt, with everything saved, when it is interrupted."""
        if self._plan.role == "search":
            self._search()
        else:
            self._measure_baselines(self._plan.configurations)
            self._train(self._plan.configurations, self._plan.seeds, self._plan.role)
        ray.get(self._waiting)

    def _search(self) -> None:
        plan = self._plan
        rows = {file.parent.name for file in RunDirectory(plan.run).row_files}
        self._actor = start_actor(JudgeActor)
        journal, feasible = RunDirectory(plan.run).journal_file, Feasible(self._data, plan.base_dir)
        ray.get(self._actor.open_search.remote(plan.file, plan.log, journal, feasible, rows))
        source = Suggested(self._actor, plan.run, self._origin)
        search = self._first.search
        width = min(self._count, search.lag) if search.order == "sync" else self._count
        whole = False
        try:
            expected = ray.get(self._actor.planned.remote()) or len(plan.configurations)
            whole = self._tune(source, expected, "search", width, ray.get(self._actor.ended.remote()))
            if ending := ray.get(self._actor.ending.remote()):
                self._say(ending)
        finally:
            found: Findings = ray.get(self._actor.findings.remote())
            write_findings(plan.run, found, (), finished=False)
            self._write_planned(found, (), [] if whole else plan.known)
        if not whole:
            return
        finalists = found.ranking[: self._first.ensemble.finalists]
        self._write_planned(found, finalists, [])
        write_findings(plan.run, found, tuple(map(config_hash, finalists)), finished=True)
        self._measure_baselines(
            finalists or (found.ranking[:_WITHOUT_FINALISTS] if plan.sampled else plan.configurations)
        )
        if finalists:
            seeds = fresh_seeds(self._first)
            who, fresh = plural(len(finalists), "finalist"), plural(len(seeds), "fresh seed")
            self._say(f"{who}, trained again from scratch on {fresh}")
            self._train(finalists, seeds, "finalist")

    def _train(self, configurations: Sequence[Experiment], seeds: Sequence[int], role: MemberRole) -> None:
        """Train each configuration on all seeds, spread over as many trials as run at once."""
        self._actor = start_actor(PauseActor)
        groups = spread(seeds, self._count, self._first.resources.pack)
        pairs = [(experiment, group) for experiment in configurations for group in groups]
        trials = [
            Trial(experiment, group, role, self._plan.run, number, self._origin(experiment))
            for number, (experiment, group) in enumerate(pairs)
        ]
        self._tune(Given(trials), len(trials), role, self._count)

    def _tune(self, source: Source, expected: int | None, role: MemberRole, count: int, ended: int = 0) -> bool:
        """Run the trials of a source; say whether all were begun, and not stopped by a bug that all of them have."""
        distributed = self._needs.workers > 1
        progress = StudyProgress(expected, before=ended)
        before = [row_status(file) for file in RunDirectory(self._plan.run).row_files].count("completed")
        queue = TrialQueue(
            source, progress, lambda experiment: title(self._plan, experiment), self._fingerprint, before
        )
        run, storage = self._plan.run, RunDirectory(self._plan.run).ray
        shared = Shared(role, run, self._actor, self._main, self._named, self._fingerprint, self._needs, storage)
        with live.screen(progress, self._say) as screen, self._interruptible(queue):
            trainable = tune.with_parameters(train_distributed if distributed else train_inline, shared=shared)
            tune.Tuner(
                # A trial with workers holds none of their cores itself; asking for nothing at all is refused.
                tune.with_resources(trainable, {"memory": 1_000_000} if distributed else _bundle(self._needs)),
                tune_config=tune.TuneConfig(
                    search_alg=queue, num_samples=-1, max_concurrent_trials=count, reuse_actors=not distributed
                ),
                run_config=tune.RunConfig(
                    name=role, storage_path=str(storage), verbose=0, callbacks=[Watcher(progress, screen, queue)]
                ),
            ).fit()
            if source.finished and not queue.interrupted:  # a budget or a space may end before what was expected
                progress.expected = progress.ended
        if queue.interrupted:
            raise KeyboardInterrupt
        if queue.bug is not None and queue.left != 0:
            left = "no more" if queue.left is None else f"{queue.left}"
            self._say(f"stopped: the first trials all failed with one error, {left} were started: {queue.bug}")
            return False
        return True

    @contextmanager
    def _interruptible(self, queue: TrialQueue) -> Iterator[None]:
        """Take the first Ctrl-C as a wish to stop at the next rungs; the second one ends the process at once."""
        before = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: object) -> None:
            del number, frame
            if queue.interrupted:
                self._say(f"stopped; continue with: {command('ensemble', 'resume', self._plan.run)}")
                os._exit(INTERRUPTED)  # all that is on disk is whole, and Ray's processes follow this one
            queue.interrupted = True
            self._actor.pause.remote()
            self._say("stopping: running trials save their members at the next validation; Ctrl-C again stops at once")

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _origin(self, experiment: Experiment) -> str | None:
        return find_origin(experiment.train.init_from, self._plan.base_dir)

    def _write_planned(self, found: Findings, finalists: Sequence[Experiment], known: Sequence[Planned]) -> None:
        members: list[Planned] = [(identity, "search", seed) for identity, seed in found.planned]
        members += [each for each in known if each not in members]
        seeds = fresh_seeds(self._first)
        members += [(config_hash(experiment), "finalist", seed) for experiment in finalists for seed in seeds]
        write_planned(self._plan.run, members)

    def _measure_baselines(self, configurations: Sequence[Experiment]) -> None:
        path = RunDirectory(self._plan.run).baselines_file

        def measure(references: Mapping[str, Any]) -> None:
            write_baselines(path, configurations, resident(references["main"]), measure_baselines)

        if configurations:
            self._waiting.append(ray.remote(num_cpus=0)(measure).remote({"main": self._main}))


def _bundle(request: Needs) -> dict[str, float]:
    """Return the request in Tune's spelling."""
    return {{"CPU": "cpu", "GPU": "gpu"}.get(name, name): amount for name, amount in request.bundle.items()}


def spread(seeds: Sequence[int], slots: int, pack: int | str) -> list[tuple[int, ...]]:
    """Split the seeds of an ensemble into trials: as many as run at once, each at least a pack.

    >>> spread(range(10), 4, "auto")
    [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    """
    size = max(pack if isinstance(pack, int) else 1, ceil(len(seeds) / slots))
    return [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
