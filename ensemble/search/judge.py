"""The judge of a search: it owns the Optuna study, suggests configurations and decides at each rung which continue.

It imports neither Ray nor torch and reads no files of members, so it can be replayed on recorded curves; `judge_actor`
runs it in an actor. Tune only schedules trials and never kills one: a killed trial loses its rows, and one with workers
keeps its resources. Sampler and pruner share one study, so both know what was stopped, and where.

Order `async` decides on what is known at the moment. In order `sync` suggestion n knows exactly trials 0 .. n - lag,
and so does every decision about it, so that the search does not depend on which trial ends first.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import optuna

from ensemble.config import Experiment, ExperimentFile
from ensemble.config.experiment import seed_numbers
from ensemble.errors import StorageError, UsageError
from ensemble.run_directory import config_hash, member_id
from ensemble.search.describe_space import trial_count
from ensemble.search.optuna_study import OptunaStudy
from ensemble.search.racing import next_round
from ensemble.search.records import Configuration, JobOutcome, Suggestion
from ensemble.search.space import Parameters, check_points, configuration_of, grid_parameters, settings_of
from ensemble.search_log import UNLIMITED, Event, EventLog, from_json_keys, to_json_keys

_FIRST_RACE_JOB = 1_000_000  # numbers of jobs that add seeds start here, those below are configurations
_MAX_REJECTED = 1000  # suggestions in a row that are impossible or repeated; then the space counts as exhausted
_MAX_SAMPLED = 20  # of them by the sampler itself, which may repeat itself for ever; the others are random


class Judge:
    """Suggests configurations, decides at rungs, and records both in its log.

    Args:
        file: the experiment file.
        log: the file of the log; events in it are replayed. None: in memory.
        journal: a copy of the study for optuna-dashboard; it is written, never read.
        feasibility: returns why a configuration cannot be trained on the data (None: it can).
        known: completed trials of earlier searches: parameters and value.

    Raises:
        UsageError: a starting point does not fit the space.
        StorageError: the log is damaged.
    """

    def __init__(
        self,
        file: ExperimentFile,
        log: Path | None = None,
        journal: Path | None = None,
        feasibility: Callable[[Experiment], str | None] = lambda experiment: None,
        known: Sequence[tuple[Parameters, float]] = (),
    ) -> None:
        # State: a function of the file and the log
        self.file = file
        self.search = file.first.search
        self.configurations: list[Configuration] = []
        self.infeasible = self.repeated = 0
        self._feasibility = feasibility
        self._seeds = seed_numbers(self.search.seeds)
        self._jobs: dict[int, Suggestion] = {}
        self._running: set[int] = set()  # jobs without an outcome
        self._outcomes: dict[int, JobOutcome] = {}
        self._hashes: set[str] = set()
        self._exhausted = False
        self._grid = grid_parameters(file) if self.search.sampler == "grid" else iter(())
        self._points: list[Parameters | None] = [*check_points(file)]
        self._round: list[tuple[int, int]] = []  # of the race: (configuration, seed) that are still to be trained
        self._study = OptunaStudy(file, journal)
        self._planned = 0

        # Replay. It calls the methods that wrote the events, so their log is in memory until the end: the file must not
        # get each event again. The order is that of the file, since every suggestion depends on what preceded it.
        self._log = EventLog(None)
        stored = EventLog(log)
        if not stored.events and known:
            stored.append({"event": "known", "trials": [[parameters, value] for parameters, value in known]})
        for place, event in enumerate(stored.events, start=1):
            try:
                self._replay(event)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                text = f"event {place} ({event['event']}) does not follow from those before; restore it from a copy"
                raise StorageError(f"{log}: {text}") from error
        self._log = stored

        # Planned trials, of a new search or of one that is extended
        planned = UNLIMITED if self.search.most_trials is None else trial_count(file)
        if planned != self._planned:
            self._log.append({"event": "trials", "count": planned})
            self._planned = planned

    @property
    def planned(self) -> int | None:
        """The number of configurations; unknown until the space is exhausted: None."""
        return None if self._planned == UNLIMITED else self._planned

    @property
    def members(self) -> list[tuple[int, int]]:
        """The (configuration, seed) of every job so far."""
        return [(job.configuration, seed) for job in self._jobs.values() for seed in job.seeds]

    @property
    def finished(self) -> bool:
        """Whether there are no further suggestions."""
        return not self._running and self._all_suggested and not self._round and not self._next_round()

    @property
    def spent(self) -> int:
        """The member-steps of all configurations that the study knows the end of."""
        return sum(configuration.steps for configuration in self.configurations if configuration.reported)

    @property
    def unfinished(self) -> list[Suggestion]:
        """The jobs without an outcome: a resumed search trains these first."""
        return [self._jobs[number] for number in sorted(self._running)]

    def reopen_failures(self, rows: Collection[str] | None = None) -> None:
        """Reopen the jobs that failed, and those of which a member is missing in `rows` (None: none is)."""
        for number, outcome in sorted(self._outcomes.items()):
            job = self._jobs[number]
            names = {member_id(config_hash(job.experiment), seed) for seed in job.seeds}
            if outcome.state == "failed" or (rows is not None and not names.issubset(rows)):
                self._reopen(number)

    def _reopen(self, number: int) -> None:
        self._log.append({"event": "retry", "number": number})
        configuration = self.configurations[self._jobs[number].configuration]
        configuration.steps -= self._outcomes.pop(number).steps
        configuration.state = "running" if number == configuration.number else "completed"
        self._running.add(number)

    def suggest(self) -> Suggestion | None:
        """Return the next job; None where there is none now (or none any more: see `finished`)."""
        # Search
        if not self._all_suggested:
            return self._suggest_new()

        # Race, in whole rounds: the next one starts when every job has ended, so that the order of their ends is
        # irrelevant.
        if not self._round and not self._running:
            self._report_until(len(self.configurations) - 1)
            self._round = self._next_round()
        if not self._round:
            return None
        number, seed = self._round.pop(0)
        return self._new_job(self.configurations[number], (seed,))

    def may_continue(self, number: int, step: int, values: Mapping[int, float]) -> bool:
        """Say whether a job continues after this rung, given its value by seed; a repeated call returns the same."""
        configuration = self.configurations[self._jobs[number].configuration]
        if number != configuration.number:
            return True  # a further seed of the race
        if step not in configuration.rungs and configuration.reported:
            return True  # trained again, since it failed or its rows are lost: Optuna has its end already
        if step not in configuration.rungs:
            kept = self._study.decide(configuration, step, values)
            configuration.rungs[step] = dict(values), kept
            # On disk before the answer: a resumed search must not decide otherwise about a trial that acted on it.
            self._log.append(
                {"event": "rung", "number": number, "step": step, "values": to_json_keys(values), "kept": kept}
            )
        return configuration.rungs[step][1]

    def tell(self, number: int, outcome: JobOutcome) -> None:
        """Record how a job ended."""
        job = self._jobs[number]
        configuration = self.configurations[job.configuration]

        # Log
        values = {metric: to_json_keys(by_seed) for metric, by_seed in outcome.values.items()}
        fields = {"state": outcome.state, "values": values, "steps": outcome.steps}
        self._log.append({"event": "tell", "number": number, **fields})

        # Job and configuration
        self._running.discard(number)
        self._outcomes[number] = outcome
        for metric, by_seed in outcome.values.items():
            configuration.values.setdefault(metric, {}).update(by_seed)
        configuration.steps += outcome.steps
        if number == configuration.number or outcome.state != "completed":
            configuration.state = outcome.state

        # Study. In sync order it waits for `_report_until`, which keeps the order of the suggestions.
        if self.search.order == "async":
            self._report(configuration)

    def importances(self) -> dict[str, float]:
        """Return the share of each parameter in what distinguishes good configurations; empty where it is unknown."""
        self._report_until(len(self.configurations) - 1)
        return self._study.importances()

    def ranking(self) -> list[Configuration]:
        """Return the completed configurations, best first by the mean over the seeds of the search metric.

        With several objectives the Pareto front comes first; after a race the configurations with the most seeds do.
        """
        sign = 1.0 if self.search.mode == "min" else -1.0
        completed = [
            c for c in self.configurations if c.state == "completed" and c.mean(self.search.metric) is not None
        ]
        front = self._study.pareto_front if self.search.also and completed else set()

        def sort_key(c: Configuration) -> tuple[bool, int, float, int]:
            seeds = len(c.values[self.search.metric]) if self.search.race else 0
            return c.trial.number not in front, -seeds, sign * (c.mean(self.search.metric) or 0.0), c.number

        return sorted(completed, key=sort_key)

    @property
    def _all_suggested(self) -> bool:
        """Whether every configuration has been suggested."""
        # A race gets half of the budget: its seeds are trained after the search.
        budget = self.search.budget
        if budget is not None and self.spent >= (budget / 2 if self.search.race else budget):
            return True
        return self._exhausted or len(self.configurations) >= self._planned

    def _suggest_new(self) -> Suggestion | None:
        number = len(self.configurations)
        if self.search.order == "sync":
            self._report_until(number - self.search.lag)
            if number - self._first_unreported() >= self.search.lag:
                return None  # a trial that this suggestion depends on is still running
        configuration = self._next_configuration(number)
        if configuration is None:
            self._exhausted = True
            return None
        self.configurations.append(configuration)
        self._study.begin(configuration)
        start = self.search.race_start if self.search.race else len(self._seeds)
        return self._new_job(configuration, self._seeds[:start])

    def _next_configuration(self, number: int) -> Configuration | None:
        """Ask until a suggestion is possible and new; None where the space is exhausted."""
        for attempt in range(_MAX_REJECTED):
            fixed = self._fixed_parameters(number)
            if fixed is None:
                return None
            trial = self._study.ask(fixed, fallback=attempt >= _MAX_SAMPLED)
            experiment = self._accept(trial)
            if experiment is not None:
                return Configuration(number, experiment, dict(trial.params), trial, self._study.pruner_trial(trial))
        return None

    def _fixed_parameters(self, number: int) -> Parameters | None:
        """Return the parameters given for suggestion `number`; None at the end of a grid."""
        if number < len(self._points) and self._points[number] is not None:
            point, self._points[number] = self._points[number], None
            return point  # once: after an impossible point the sampler is asked
        return next(self._grid, None) if self.search.sampler == "grid" else {}

    def _accept(self, trial: optuna.Trial) -> Experiment | None:
        """Return the configuration of an Optuna trial; reject one that is impossible or was suggested before."""
        experiment: Experiment | None = None
        reason: str | None = None
        try:
            experiment = configuration_of(trial, self.file)
            reason = self._feasibility(experiment)
        except UsageError as error:
            reason = str(error)
        if experiment is not None and reason is None:
            identity = config_hash(experiment)
            if identity not in self._hashes:
                self._hashes.add(identity)
                return experiment
        self.infeasible += reason is not None
        self.repeated += reason is None
        self._study.reject(trial, reason or "suggested before")
        return None

    def _new_job(self, configuration: Configuration, seeds: tuple[int, ...]) -> Suggestion:
        number = configuration.number if configuration.number not in self._jobs else self._race_number()
        job = Suggestion(number, configuration.experiment, seeds, configuration.number)
        self._jobs[number] = job
        self._running.add(number)
        parameters = configuration.parameters
        self._log.append(
            {"event": "suggest", "number": number, "configuration": configuration.number, "seeds": list(seeds),
             "parameters": parameters, "settings": [*settings_of(parameters, self.file).items()],
             "config_hash": config_hash(configuration.experiment)}
        )  # fmt: skip
        return job

    def _race_number(self) -> int:
        return _FIRST_RACE_JOB + len(self._jobs) - len(self.configurations)

    def _next_round(self) -> list[tuple[int, int]]:
        """Return the next round of the race: (configuration, seed) for each contender; empty: there is none."""
        budget = self.search.budget
        if not self.search.race or (budget is not None and self.spent >= budget):
            return []
        completed = {
            c.number: c.values.get(self.search.metric, {}) for c in self.configurations if c.state == "completed"
        }
        scores = {number: values for number, values in completed.items() if all(map(math.isfinite, values.values()))}
        seed_runs = None
        if budget is not None:
            mean_steps = sum(c.steps for c in self.configurations) / max(1, len(self.members))
            seed_runs = max(1, round((budget - self.spent) / max(1.0, mean_steps)))
        return next_round(scores, self.search.mode, self._seeds, seed_runs) if scores else []

    def _first_unreported(self) -> int:
        return next((c.number for c in self.configurations if not c.reported), len(self.configurations))

    def _report_until(self, last: int) -> None:
        """Report configurations up to number `last` to the study, in their order, until one has not ended."""
        for configuration in self.configurations[self._first_unreported() : max(0, last + 1)]:
            if configuration.state == "running":
                return
            self._report(configuration)

    def _report(self, configuration: Configuration) -> None:
        # Once: a job that is trained again ends twice, and Optuna refuses to end a trial twice.
        if not configuration.reported:
            configuration.reported = True
            self._study.tell(configuration)

    def _replay(self, event: Event) -> None:
        """Call the method that wrote an event, and take over what it decided."""
        kind = event["event"]
        if kind == "trials":
            self._planned = event["count"]
        elif kind == "known":
            for parameters, value in event["trials"]:
                self._study.add_known(parameters, value)
        elif kind == "retry":
            self._reopen(event["number"])
        elif kind == "rung":
            values = from_json_keys(event["values"])
            self.may_continue(event["number"], event["step"], values)
            # The logged decision counts, whatever the pruner says now: the trial has acted on it.
            self.configurations[event["number"]].rungs[event["step"]] = values, event["kept"]
        elif kind == "tell":
            objectives = {metric: from_json_keys(by_seed) for metric, by_seed in event["values"].items()}
            self.tell(event["number"], JobOutcome(event["state"], objectives, event["steps"]))
        elif kind == "suggest":
            self._replay_suggestion(event)
        else:
            raise UsageError(f"the log of this search has an event {kind!r}: it is of another version of ensemble")

    def _replay_suggestion(self, event: Event) -> None:
        job = self.suggest()
        # The sampler is asked again: later suggestions depend on every trial of the study, rejected ones among them.
        identity = None if job is None else config_hash(job.experiment)
        if identity != event["config_hash"]:
            raise UsageError(
                f"suggestion {event['number']} of this search was {event['config_hash']}, now it would be {identity}: "
                "the file, the data or a library has changed. Restore it: nothing of the run is lost"
            )
