"""The trials of a study on Ray Tune: a search and then its finalists, or the members of an ensemble.

Ray and torch are loaded here, after all checks. The Tune runs of one study share the data, once in the object store;
each has an actor of its own, which a Ctrl-C pauses (`stopping` has the handler).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from math import ceil
from typing import Any

import ray
from ray import tune

from ensemble.config import Experiment
from ensemble.config.experiment import fresh_seeds
from ensemble.data.loading import load_resident, resident
from ensemble.data.trajectories import read_manifest
from ensemble.open_loop.baselines import write_baselines
from ensemble.run_directory import RunDirectory, config_hash
from ensemble.schema import MemberRole, Say
from ensemble.search.findings import Findings, write_findings
from ensemble.study.checks import FeasibilityCheck
from ensemble.study.cluster import Needs, silence_loggers
from ensemble.study.judge_actor import JudgeActor, JudgeSource, PauseActor, start_actor
from ensemble.study.plan import Plan, PlannedMember, configuration_title, row_status, write_planned
from ensemble.study.prepare import PreparedData, find_origin
from ensemble.study.progress import StudyProgress
from ensemble.study.progress_screen import Screen, progress_screen
from ensemble.study.stopping import RunningTrials, Stopping
from ensemble.study.trial import SharedInputs, train_distributed, train_inline
from ensemble.study.tuning import FixedSource, ProgressCallback, Source, TrialQueue
from ensemble.study.waiting import waiting
from ensemble.text import plural
from ensemble.training.loggers import prepare_trackers
from ensemble.training.tasks import measure_baselines
from ensemble.training.trial import Trial

_log = logging.getLogger(__name__)
_BASELINE_CONFIGURATIONS = 3  # that baselines are measured for where a search has no finalists


class Runner:
    """Trains the members of a plan, `count` trials at a time, each with the resources of `request`."""

    def __init__(
        self, plan: Plan, data: PreparedData, request: Needs, count: int, say: Say, stopping: Stopping
    ) -> None:
        silence_loggers()
        self._plan = plan
        self._experiment = plan.first
        self._needs = request
        self._count = count
        self._say = say
        self._stopping = stopping
        self._data = data
        with waiting("the data are read", say):
            self._main = load_resident(data.main, _log.info)
            self._named = {name: load_resident(path, _log.info) for name, path in data.named.items()}
        self._fingerprint: str = read_manifest(data.main)["fingerprint"]
        self._actor: Any = None  # of the running phase: called at each rung
        self._pending: list[Any] = []  # references of baselines that are being measured
        self._keep: Callable[[], object] = lambda: None  # writes what the running phase has found so far

    def run(self) -> None:
        """Train all members; KeyboardInterrupt, with everything saved, when it is interrupted."""
        prepare_trackers(self._experiment.logging, self._experiment.experiment, self._say)
        if self._plan.role == "search":
            self._search()
        else:
            self._measure_baselines(self._plan.configurations)
            self._train(self._plan.configurations, self._plan.seeds, self._plan.role)
        with waiting("the baselines are measured", self._say):
            ray.get(self._pending)

    def _search(self) -> None:
        # Judge
        plan, search = self._plan, self._experiment.search
        member_ids = {file.parent.name for file in RunDirectory(plan.run).row_files}
        self._actor = start_actor(JudgeActor)
        journal, feasibility = RunDirectory(plan.run).journal_file, FeasibilityCheck(self._data, plan.base_dir)
        with waiting("the log of the search is read", self._say):
            ray.get(self._actor.open_search.remote(plan.file, plan.log, journal, feasibility, member_ids))
        self._keep = self._keep_findings

        # Trials. In sync order more than `lag` at a time would only wait for suggestions.
        source = JudgeSource(self._actor, plan.run, self._origin)
        width = min(self._count, search.lag) if search.order == "sync" else self._count
        complete = False
        try:
            expected = ray.get(self._actor.planned.remote()) or len(plan.configurations)
            complete = self._tune(source, expected, "search", width, ray.get(self._actor.ended_count.remote()))
            if reason := ray.get(self._actor.early_end_reason.remote()):
                self._say(reason)
        finally:
            # After an interruption too, so that an unfinished search can be reported. Unless it is complete, the plan
            # keeps the members of a grid that were not suggested yet.
            found = self._keep_findings(complete)
            self._keep = lambda: None
        if not complete:
            return

        # Finalists. They are planned before the search is marked as finished: a finished search without planned
        # finalists would count as a complete run.
        finalists = found.ranking[: self._experiment.ensemble.finalists]
        self._write_planned(found, finalists, [])
        write_findings(plan.run, found, tuple(map(config_hash, finalists)), finished=True)
        self._measure_baselines(
            finalists or (found.ranking[:_BASELINE_CONFIGURATIONS] if plan.sampled else plan.configurations)
        )
        if finalists:
            seeds = fresh_seeds(self._experiment)
            finalist_count, seed_count = plural(len(finalists), "finalist"), plural(len(seeds), "fresh seed")
            self._say(f"{finalist_count}, trained again from scratch on {seed_count}")
            self._train(finalists, seeds, "finalist")

    def _keep_findings(self, complete: bool = False) -> Findings:
        """Write the tables of the search so far."""
        found: Findings = ray.get(self._actor.findings.remote())
        write_findings(self._plan.run, found, (), finished=False)
        self._write_planned(found, (), [] if complete else self._plan.known)
        return found

    def _train(self, configurations: Sequence[Experiment], seeds: Sequence[int], role: MemberRole) -> None:
        """Train each configuration on all seeds, split into as many trials as run at once."""
        self._actor = start_actor(PauseActor)
        groups = split_seeds(seeds, self._count, self._experiment.resources.pack)
        pairs = [(experiment, group) for experiment in configurations for group in groups]
        trials = [
            Trial(experiment, group, role, self._plan.run, number, self._origin(experiment))
            for number, (experiment, group) in enumerate(pairs)
        ]
        self._tune(FixedSource(trials), len(trials), role, self._count)

    def _tune(self, source: Source, expected: int | None, role: MemberRole, count: int, ended: int = 0) -> bool:
        """Run the trials of a source; return whether all were started, False after an error that all of them have."""
        # Queue and progress
        unit = "trial" if self._plan.file.searched else "pack"
        progress = StudyProgress(expected, ended_before=ended, unit=unit)
        completed = [row_status(file) for file in RunDirectory(self._plan.run).row_files].count("completed")
        queue = TrialQueue(
            source, progress, lambda each: configuration_title(self._plan, each), self._fingerprint, completed
        )

        # Tune. Reusing the actor of an inline trial saves about a second. A trial with workers requests none of their
        # cores, since Ray Train reserves these itself, and a little memory, since an empty request is refused.
        distributed = self._needs.workers > 1
        run, storage = self._plan.run, RunDirectory(self._plan.run).ray
        shared = SharedInputs(role, run, self._actor, self._main, self._named, self._fingerprint, self._needs, storage)
        first = waiting(progress.awaited, lambda line: screen.say(line))
        with progress_screen(progress, self._say) as screen, self._stoppable(queue, progress, screen), first:
            trainable = tune.with_parameters(train_distributed if distributed else train_inline, shared=shared)
            tune.Tuner(
                tune.with_resources(trainable, {"memory": 1_000_000} if distributed else _bundle(self._needs)),
                tune_config=tune.TuneConfig(
                    search_alg=queue, num_samples=-1, max_concurrent_trials=count, reuse_actors=not distributed
                ),
                run_config=tune.RunConfig(
                    name=role,
                    storage_path=str(storage),
                    verbose=0,
                    callbacks=[ProgressCallback(progress, screen, queue)],
                ),
            ).fit()
            if source.finished and not queue.interrupted:  # a budget or a space may end before `expected` trials
                progress.expected = progress.ended

        # How it ended
        if queue.interrupted:
            raise KeyboardInterrupt
        if queue.common_error is not None and queue.remaining != 0:
            remaining = "no more were" if queue.remaining is None else f"{queue.remaining} were not"
            self._say(f"stopped: the first trials all failed with one error, {remaining} started: {queue.common_error}")
            return False
        return True

    def _stoppable(self, queue: TrialQueue, progress: StudyProgress, screen: Screen) -> AbstractContextManager[None]:
        """Let a signal pause the running trials."""

        def pause() -> None:
            queue.interrupted = True
            self._actor.pause.remote()

        def keep() -> None:
            self._keep()
            RunDirectory(self._plan.run).collect()

        def paused() -> bool:
            return not any(trial.status == "running" for trial in progress.trials)

        return self._stopping.trials(RunningTrials(pause, paused, keep, screen.close, screen.say))

    def _origin(self, experiment: Experiment) -> str | None:
        return find_origin(experiment.train.init_from, self._plan.base_dir)

    def _write_planned(self, found: Findings, finalists: Sequence[Experiment], known: Sequence[PlannedMember]) -> None:
        members: list[PlannedMember] = [(identity, "search", seed) for identity, seed in found.planned]
        members += [each for each in known if each not in members]
        seeds = fresh_seeds(self._experiment)
        members += [(config_hash(experiment), "finalist", seed) for experiment in finalists for seed in seeds]
        write_planned(self._plan.run, members)

    def _measure_baselines(self, configurations: Sequence[Experiment]) -> None:
        path = RunDirectory(self._plan.run).baselines_file

        def measure(references: Mapping[str, Any]) -> None:
            write_baselines(path, configurations, resident(references["main"]), measure_baselines)

        # Without a core, next to the trials: they are not delayed.
        if configurations:
            self._pending.append(ray.remote(num_cpus=0)(measure).remote({"main": self._main}))


def _bundle(request: Needs) -> dict[str, float]:
    """Return the request under Tune's names."""
    return {{"CPU": "cpu", "GPU": "gpu"}.get(name, name): amount for name, amount in request.bundle.items()}


def split_seeds(seeds: Sequence[int], slots: int, pack: int | str) -> list[tuple[int, ...]]:
    """Split the seeds of an ensemble into trials: as many as run at once, each at least a pack.

    >>> split_seeds(range(10), 4, "auto")
    [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    """
    size = max(pack if isinstance(pack, int) else 1, ceil(len(seeds) / slots))
    return [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
