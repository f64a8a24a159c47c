"""The Optuna side of a search: one study that sampler and pruner both look at.

It turns configurations into Optuna's trials and back: pruned is told as PRUNED with its intermediate values, diverged
and failed as FAIL, so nothing that was stopped passes for a result. Who asks what when is decided in `judge`.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState, create_trial

from ensemble.config import ExperimentFile
from ensemble.search.pruners import make_pruner, reports
from ensemble.search.records import Configuration
from ensemble.search.rungs import longest
from ensemble.search.samplers import make_sampler
from ensemble.search.space import Parameters, optuna_distribution
from ensemble.search_log import mean_over_seeds

_FEWEST_COMPLETED = 4  # to speak of importance

optuna.logging.set_verbosity(optuna.logging.ERROR)


class OptunaStudy:
    """The study of an experiment file.

    `journal` is the file of a copy for optuna-dashboard: it is written anew and never read.
    """

    def __init__(self, file: ExperimentFile, journal: Path | None) -> None:
        self._file = file
        self._search = file.first.search
        self._study = self._new_study(InMemoryStorage())
        self._journal = None if journal is None else _Journal(self._new_study(_journal_storage(journal)))

    def add_known(self, parameters: Parameters, value: float) -> None:
        """Take in a finished trial of an earlier search."""
        spaces = {name: optuna_distribution(distribution) for name, distribution in self._file.space.items()}
        distributions = {name: spaces[name] for name in parameters}
        self._study.add_trial(create_trial(params=parameters, distributions=distributions, value=value))

    def ask(self, fixed: Parameters, fallback: bool) -> optuna.Trial:
        """Return a new trial with these parameters fixed, the others up to the sampler (a random one as fallback)."""
        with _quiet():
            if fixed:
                self._study.enqueue_trial(fixed)
            number = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = make_sampler(self._search, number, fallback)
            return self._study.ask()

    def leave_out(self, trial: optuna.Trial, reason: str) -> None:
        """Tell a suggestion that is not tried."""
        trial.set_user_attr("left out", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def begin(self, configuration: Configuration) -> None:
        """Show a configuration that is going to be trained."""
        if self._journal is not None:
            self._journal.begin(configuration)

    def view(self, trial: optuna.Trial) -> optuna.Trial:
        """Return the trial that decisions are asked of: in sync order one in a study of what is settled now."""
        if self._search.order == "async" or self._search.pruner == "none":
            return trial
        past = self._new_study(InMemoryStorage())
        past.add_trials([each for each in self._study.get_trials(deepcopy=False) if each.state.is_finished()])
        return past.ask()

    def decide(self, configuration: Configuration, step: int, values: Mapping[int, float]) -> bool:
        """Say whether a configuration goes on after this rung."""
        if self._journal is not None:
            self._journal.report(configuration.number, step, values)
        if self._search.pruner == "none":
            return True
        if not all(map(math.isfinite, values.values())):
            return False  # a configuration that loses a seed is ranked last, whatever its other seeds do
        return not self._report(configuration.view, step, values)

    def settle(self, configuration: Configuration) -> None:
        """Tell the study how a configuration ended."""
        trial = configuration.trial
        if configuration.view is not trial:  # its answers were given long ago; what it notes is compared with later
            for step, (values, _) in configuration.rungs.items():
                if all(map(math.isfinite, values.values())):
                    self._report(trial, step, values)
        for metric, values in configuration.values.items():
            trial.set_user_attr(metric, {str(seed): value for seed, value in values.items()})
        state, means = self._verdict(configuration)
        self._study.tell(trial, values=means, state=state)
        if self._journal is not None:
            self._journal.end(configuration, state, means)

    @property
    def front(self) -> set[int]:
        """The Optuna numbers of the Pareto front."""
        return {trial.number for trial in self._study.best_trials}

    def importances(self) -> dict[str, float]:
        """Return the share of each parameter in what sets good configurations apart; empty where that says nothing.

        PED-ANOVA: Watanabe et al. 2023, arXiv 2304.10255.
        """
        completed = [t for t in self._study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
        if self._search.also or len(completed) < _FEWEST_COMPLETED:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        with _quiet():
            try:
                return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))
            except (ValueError, RuntimeError):  # no parameter that all trials share, or one value alone
                return {}

    def _report(self, trial: optuna.Trial, step: int, values: Mapping[int, float]) -> bool:
        """Report a rung and return whether the trial should end there."""
        mean = math.fsum(values.values()) / len(values)  # whatever their order: a replay has another
        with _quiet():
            for clock, value in reports(self._search, step, values, mean).items():
                trial.report(value, clock)
            return trial.should_prune()

    def _verdict(self, configuration: Configuration) -> tuple[TrialState, list[float] | None]:
        if configuration.state == "pruned":
            return TrialState.PRUNED, None
        means = [configuration.mean(metric) for metric in (self._search.metric, *self._search.also)]
        finite = [mean for mean in means if mean is not None]
        if configuration.state != "completed" or len(finite) < len(means):
            return TrialState.FAIL, None
        return TrialState.COMPLETE, finite

    def _new_study(self, storage: BaseStorage) -> Study:
        modes = (self._search.mode, *self._search.also.values())
        directions = [StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE for mode in modes]
        with _quiet():
            pruner = make_pruner(self._search, longest(self._file))
            name = self._file.first.experiment
            return optuna.create_study(storage=storage, pruner=pruner, study_name=name, directions=directions)


class _Journal:
    """A copy of a study with the configurations that are trained, under their own numbers, and nothing else.

    The study itself also has trials that were left out and those of earlier searches, which would make a dashboard
    count other trials than the report does.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._study.sampler = RandomSampler()  # every value is given, none is sampled
        self._trials: list[optuna.Trial] = []  # by configuration

    def begin(self, configuration: Configuration) -> None:
        """Add a running trial."""
        with _quiet():
            self._study.enqueue_trial(configuration.trial.params)
            self._trials.append(self._study.ask(configuration.trial.distributions))

    def report(self, number: int, step: int, values: Mapping[int, float]) -> None:
        """Add the mean over the seeds at one step."""
        if not self._study.directions[1:] and (mean := mean_over_seeds(values)) is not None:
            self._trials[number].report(mean, step)

    def end(self, configuration: Configuration, state: TrialState, means: list[float] | None) -> None:
        """Add how a trial ended, with every value by seed."""
        trial = self._trials[configuration.number]
        for metric, values in configuration.values.items():
            trial.set_user_attr(metric, {str(seed): value for seed, value in values.items()})
        self._study.tell(trial, values=means, state=state)


def _journal_storage(journal: Path) -> BaseStorage:
    for left in (journal, journal.with_name(f"{journal.name}.lock")):  # a killed process may leave the lock
        left.unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(journal)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's notes on experimental parts and on its own defaults off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
