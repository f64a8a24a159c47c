"""The judge of a search: it owns the Optuna study, suggests configurations and says at each rung whether one goes on.

It knows neither Ray nor torch nor files of members, so it can be replayed on recorded curves; `desk` puts it in an
actor. Tune only schedules trials and never kills one. That is on purpose: a killed trial loses its rows, and one with
workers keeps its resources; and since sampler and pruner look at one study, both know what was stopped, and where.

Order `async` decides on what is known at the moment. In order `sync` suggestion n knows exactly trials 0 .. n - lag,
and so does every decision about it, so that a search comes out the same whichever trial happened to end first.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import optuna

from ensemble.config import Experiment, ExperimentFile
from ensemble.config.experiment import seed_numbers
from ensemble.errors import UsageError
from ensemble.run_directory import config_hash, member_id
from ensemble.search.describe_space import trial_count
from ensemble.search.optuna_study import OptunaStudy
from ensemble.search.racing import next_round
from ensemble.search.records import Configuration, Outcome, Suggestion
from ensemble.search.space import Parameters, check_points, configuration_of, grid_parameters, settings_of
from ensemble.search_log import UNLIMITED, Event, EventLog, keyed, seeded

_FIRST_OF_RACE = 1_000_000  # number of a job that adds seeds
_MOST_REFUSED = 1000  # suggestions in a row that are impossible or were made before
_REPEATS = 20  # of them, before the sampler is given up for a random one


class Judge:
    """Suggests, decides, remembers.

    Args:
        file: the experiment file.
        log: where its memory lies; what stands there is replayed. None: in memory.
        journal: a copy of the study for optuna-dashboard; it is written, never read.
        feasible: says why a configuration cannot be trained on the data (None: it can).
        known: finished trials of earlier searches: parameters and value.

    Raises:
        UsageError: a starting point does not fit the space.
        StorageError: the log is damaged.
    """

    def __init__(
        self,
        file: ExperimentFile,
        log: Path | None = None,
        journal: Path | None = None,
        feasible: Callable[[Experiment], str | None] = lambda experiment: None,
        known: Sequence[tuple[Parameters, float]] = (),
    ) -> None:
        self.file = file
        self.search = file.first.search
        self.configurations: list[Configuration] = []
        self.infeasible = self.repeated = 0
        self._feasible = feasible
        self._seeds = seed_numbers(self.search.seeds)
        self._jobs: dict[int, Suggestion] = {}
        self._open: set[int] = set()  # jobs without an outcome
        self._outcomes: dict[int, Outcome] = {}
        self._hashes: set[str] = set()
        self._exhausted = False
        self._grid = grid_parameters(file) if self.search.sampler == "grid" else iter(())
        self._points: list[Parameters | None] = [*check_points(file)]
        self._round: list[tuple[int, int]] = []  # of the race: (configuration, seed) to hand out
        self._study = OptunaStudy(file, journal)
        self._log = EventLog(None)
        self._planned = 0
        past = EventLog(log)
        if not past.events and known:
            past.append({"event": "known", "trials": [[parameters, value] for parameters, value in known]})
        for event in past.events:
            self._replay(event)
        self._log = past
        planned = UNLIMITED if self.search.most_trials is None else trial_count(file)
        if planned != self._planned:  # a new search, or one that is extended
            self._log.append({"event": "trials", "count": planned})
            self._planned = planned

    @property
    def planned(self) -> int | None:
        """How many configurations there will be; None where that is for the space to say."""
        return None if self._planned == UNLIMITED else self._planned

    @property
    def members(self) -> list[tuple[int, int]]:
        """The (configuration, seed) of every job so far."""
        return [(job.configuration, seed) for job in self._jobs.values() for seed in job.seeds]

    @property
    def finished(self) -> bool:
        """Whether there will never be another suggestion."""
        return not self._open and self._searched and not self._round and not self._racing()

    @property
    def spent(self) -> int:
        """The member-steps of everything that was told."""
        return sum(configuration.steps for configuration in self.configurations if configuration.told)

    @property
    def unfinished(self) -> list[Suggestion]:
        """The jobs without an outcome: what a resumed search begins with."""
        return [self._jobs[number] for number in sorted(self._open)]

    def reopen_failures(self, rows: Collection[str] | None = None) -> None:
        """Let jobs that failed be tried again, and those of which a member is not among `rows`: it is lost."""
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
        self._open.add(number)

    def suggest(self) -> Suggestion | None:
        """Return the next job; None where there is none now (or ever again: see `finished`)."""
        if not self._searched:
            return self._explore()
        if not self._round and not self._open:  # the race goes by rounds, so that it does not matter who ends first
            self._settle_until(len(self.configurations) - 1)
            self._round = self._racing()
        if not self._round:
            return None
        number, seed = self._round.pop(0)
        return self._hand_out(self.configurations[number], (seed,))

    def may_continue(self, number: int, step: int, values: Mapping[int, float]) -> bool:
        """Say whether a job goes on after this rung, given its value by seed; asked twice it says the same."""
        configuration = self.configurations[self._jobs[number].configuration]
        if number != configuration.number:
            return True  # a further seed of the race
        if step not in configuration.rungs and configuration.told:
            return True  # tried again, since it failed or its rows are lost: Optuna knows how it ended
        if step not in configuration.rungs:
            kept = self._study.decide(configuration, step, values)
            configuration.rungs[step] = dict(values), kept
            self._log.append({"event": "rung", "number": number, "step": step, "values": keyed(values), "kept": kept})
        return configuration.rungs[step][1]

    def tell(self, number: int, outcome: Outcome) -> None:
        """Take in how a job ended."""
        job = self._jobs[number]
        configuration = self.configurations[job.configuration]
        values = {metric: keyed(found) for metric, found in outcome.values.items()}
        how = {"state": outcome.state, "values": values, "steps": outcome.steps}
        self._log.append({"event": "tell", "number": number, **how})
        self._open.discard(number)
        self._outcomes[number] = outcome
        for metric, found in outcome.values.items():
            configuration.values.setdefault(metric, {}).update(found)
        configuration.steps += outcome.steps
        if number == configuration.number or outcome.state != "completed":
            configuration.state = outcome.state
        if self.search.order == "async":
            self._settle(configuration)

    def importances(self) -> dict[str, float]:
        """Return the share of each parameter in what sets good configurations apart; empty where that says nothing."""
        self._settle_until(len(self.configurations) - 1)
        return self._study.importances()

    def ranking(self) -> list[Configuration]:
        """Return the completed configurations, best first by the mean over the seeds of the search metric.

        With several objectives the Pareto front stands before the others; after a race those with all the seeds do.
        """
        sign = 1.0 if self.search.mode == "min" else -1.0
        done = [c for c in self.configurations if c.state == "completed" and c.mean(self.search.metric) is not None]
        front = self._study.front if self.search.also and done else set()

        def place(c: Configuration) -> tuple[bool, int, float, int]:
            seeds = len(c.values[self.search.metric]) if self.search.race else 0
            return c.trial.number not in front, -seeds, sign * (c.mean(self.search.metric) or 0.0), c.number

        return sorted(done, key=place)

    @property
    def _searched(self) -> bool:
        """Whether every configuration has been suggested."""
        budget = self.search.budget
        if budget is not None and self.spent >= (budget / 2 if self.search.race else budget):
            return True
        return self._exhausted or len(self.configurations) >= self._planned

    def _explore(self) -> Suggestion | None:
        number = len(self.configurations)
        if self.search.order == "sync":
            self._settle_until(number - self.search.lag)
            if number - self._settled() >= self.search.lag:
                return None
        configuration = self._next_configuration(number)
        if configuration is None:
            self._exhausted = True
            return None
        self.configurations.append(configuration)
        self._study.begin(configuration)
        start = self.search.race_start if self.search.race else len(self._seeds)
        return self._hand_out(configuration, self._seeds[:start])

    def _next_configuration(self, number: int) -> Configuration | None:
        """Ask until a suggestion is possible and new; None where there is nothing new to be found."""
        for attempt in range(_MOST_REFUSED):
            fixed = self._fixed(number)
            if fixed is None:
                return None
            trial = self._study.ask(fixed, fallback=attempt >= _REPEATS)
            experiment = self._examine(trial)
            if experiment is not None:
                return Configuration(number, experiment, dict(trial.params), trial, self._study.view(trial))
        return None

    def _fixed(self, number: int) -> Parameters | None:
        """Return what is given for suggestion `number`; None at the end of a grid."""
        if number < len(self._points) and self._points[number] is not None:
            point, self._points[number] = self._points[number], None  # once: an impossible one is not asked again
            return point
        return next(self._grid, None) if self.search.sampler == "grid" else {}

    def _examine(self, trial: optuna.Trial) -> Experiment | None:
        """Return the configuration of an Optuna trial; one that is impossible or not new is told as failed."""
        experiment: Experiment | None = None
        reason: str | None = None
        try:
            experiment = configuration_of(trial, self.file)
            reason = self._feasible(experiment)
        except UsageError as error:
            reason = str(error)
        if experiment is not None and reason is None:
            identity = config_hash(experiment)
            if identity not in self._hashes:
                self._hashes.add(identity)
                return experiment
        self.infeasible += reason is not None
        self.repeated += reason is None
        self._study.leave_out(trial, reason or "suggested before")
        return None

    def _hand_out(self, configuration: Configuration, seeds: tuple[int, ...]) -> Suggestion:
        number = configuration.number if configuration.number not in self._jobs else self._next_job()
        job = Suggestion(number, configuration.experiment, seeds, configuration.number)
        self._jobs[number] = job
        self._open.add(number)
        parameters = configuration.parameters
        self._log.append(
            {"event": "suggest", "number": number, "configuration": configuration.number, "seeds": list(seeds),
             "parameters": parameters, "settings": [*settings_of(parameters, self.file).items()],
             "config_hash": config_hash(configuration.experiment)}
        )  # fmt: skip
        return job

    def _next_job(self) -> int:
        return _FIRST_OF_RACE + len(self._jobs) - len(self.configurations)

    def _racing(self) -> list[tuple[int, int]]:
        """Return the next round of the race: (configuration, seed) for each that may still be the best."""
        budget = self.search.budget
        if not self.search.race or (budget is not None and self.spent >= budget):
            return []
        done = {c.number: c.values.get(self.search.metric, {}) for c in self.configurations if c.state == "completed"}
        scores = {number: values for number, values in done.items() if all(map(math.isfinite, values.values()))}
        left = None
        if budget is not None:
            typical = sum(c.steps for c in self.configurations) / max(1, len(self.members))
            left = max(1, round((budget - self.spent) / max(1.0, typical)))  # seed-runs
        return next_round(scores, self.search.mode, self._seeds, left) if scores else []

    def _settled(self) -> int:
        return next((c.number for c in self.configurations if not c.told), len(self.configurations))

    def _settle_until(self, last: int) -> None:
        """Settle configurations up to number `last`, in their order, as far as they have ended."""
        for configuration in self.configurations[self._settled() : max(0, last + 1)]:
            if configuration.state == "running":
                return
            self._settle(configuration)

    def _settle(self, configuration: Configuration) -> None:
        if not configuration.told:
            configuration.told = True
            self._study.settle(configuration)

    def _replay(self, event: Event) -> None:
        """Do again what happened."""
        kind = event["event"]
        if kind == "trials":
            self._planned = event["count"]
        elif kind == "known":
            for parameters, value in event["trials"]:
                self._study.add_known(parameters, value)
        elif kind == "retry":
            self._reopen(event["number"])
        elif kind == "rung":
            values = seeded(event["values"])
            self.may_continue(event["number"], event["step"], values)
            self.configurations[event["number"]].rungs[event["step"]] = values, event["kept"]
        elif kind == "tell":
            found = {metric: seeded(each) for metric, each in event["values"].items()}
            self.tell(event["number"], Outcome(event["state"], found, event["steps"]))
        elif kind == "suggest":
            self._replay_suggestion(event)
        else:
            raise UsageError(f"the log of this search speaks of {kind!r}: it is of another version of ensemble")

    def _replay_suggestion(self, event: Event) -> None:
        job = self.suggest()
        found = None if job is None else config_hash(job.experiment)
        if found != event["config_hash"]:
            raise UsageError(
                f"suggestion {event['number']} of this search was {event['config_hash']}, now it would be {found}: "
                "the file, the data or a library is not what it was. Restore it: nothing of the run is lost"
            )
