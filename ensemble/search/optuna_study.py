"""The Optuna study of a search, shared by sampler and pruner.

It turns configurations into Optuna's trials and back: a pruned one is told as PRUNED with its intermediate values, a
diverged or failed one as FAIL, so that nothing that was stopped counts as a result. `judge` decides when each method is
called.
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
from ensemble.search.pruners import intermediate_values, make_pruner
from ensemble.search.records import Configuration
from ensemble.search.rungs import longest_training
from ensemble.search.samplers import make_sampler
from ensemble.search.space import Parameters, optuna_distribution
from ensemble.search_log import mean_over_seeds

_MIN_COMPLETED = 4  # trials, below which importances are noise

optuna.logging.set_verbosity(optuna.logging.ERROR)


class OptunaStudy:
    """The study of an experiment file.

    `journal` is the file of a copy for optuna-dashboard: it is written from the start each time and never read.
    """

    def __init__(self, file: ExperimentFile, journal: Path | None) -> None:
        self._file = file
        self._search = file.first.search
        # In memory: the log of the search is its only memory, and a replay fills the study again.
        self._study = self._new_study(InMemoryStorage())
        self._journal = None if journal is None else _Journal(self._new_study(_journal_storage(journal)))

    def add_known(self, parameters: Parameters, value: float) -> None:
        """Add a completed trial of an earlier search."""
        distributions = {name: optuna_distribution(self._file.space[name]) for name in parameters}
        self._study.add_trial(create_trial(params=parameters, distributions=distributions, value=value))

    def ask(self, fixed: Parameters, fallback: bool) -> optuna.Trial:
        """Return a new trial with these parameters fixed and the others sampled, at random where `fallback` is set."""
        with _quiet():
            if fixed:
                self._study.enqueue_trial(fixed)
            # Every trial counts here, rejected ones too: the same seed would suggest the same values again.
            number = len(self._study.get_trials(deepcopy=False))
            self._study.sampler = make_sampler(self._search, number, fallback)
            return self._study.ask()

    def reject(self, trial: optuna.Trial, reason: str) -> None:
        """End a suggestion that is not trained."""
        trial.set_user_attr("left out", reason)
        self._study.tell(trial, state=TrialState.FAIL)

    def begin(self, configuration: Configuration) -> None:
        """Add a configuration that starts training to the journal."""
        if self._journal is not None:
            self._journal.begin(configuration)

    def pruner_trial(self, trial: optuna.Trial) -> optuna.Trial:
        """Return the trial that the pruner decides about: in sync order one of a copy that holds what ended by now."""
        if self._search.order == "async" or self._search.pruner == "none":
            return trial
        snapshot = self._new_study(InMemoryStorage())
        snapshot.add_trials([each for each in self._study.get_trials(deepcopy=False) if each.state.is_finished()])
        return snapshot.ask()

    def decide(self, configuration: Configuration, step: int, values: Mapping[int, float]) -> bool:
        """Say whether a configuration continues after this rung."""
        if self._journal is not None:
            self._journal.report(configuration.number, step, values)
        if self._search.pruner == "none":
            return True
        if not all(map(math.isfinite, values.values())):
            return False  # without one of its seeds a configuration is never ranked, whatever the others reach
        return not self._report(configuration.pruner_trial, step, values)

    def tell(self, configuration: Configuration) -> None:
        """Tell the study how a configuration ended."""
        trial = configuration.trial
        # In sync order the decisions were made on a copy. Later trials are compared with the rungs, so they are copied.
        if configuration.pruner_trial is not trial:
            for step, (values, _) in configuration.rungs.items():
                if all(map(math.isfinite, values.values())):
                    self._report(trial, step, values)
        for metric, values in configuration.values.items():
            trial.set_user_attr(metric, {str(seed): value for seed, value in values.items()})
        state, means = self._final_state(configuration)
        self._study.tell(trial, values=means, state=state)
        if self._journal is not None:
            self._journal.end(configuration, state, means)

    @property
    def pareto_front(self) -> set[int]:
        """The Optuna numbers of the trials on the Pareto front."""
        return {trial.number for trial in self._study.best_trials}

    def importances(self) -> dict[str, float]:
        """Return the share of each parameter in what distinguishes good configurations; empty where it is unknown.

        PED-ANOVA: Watanabe et al. 2023, arXiv 2304.10255.
        """
        completed = [t for t in self._study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
        if self._search.also or len(completed) < _MIN_COMPLETED:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        with _quiet():
            try:
                return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))
            except (ValueError, RuntimeError):
                return {}  # no parameter that all trials share, or only one value of it

    def _report(self, trial: optuna.Trial, step: int, values: Mapping[int, float]) -> bool:
        """Report a rung and return whether the trial should stop there."""
        # The exact sum does not depend on the order of the seeds, which is another one in a replay.
        mean = math.fsum(values.values()) / len(values)
        with _quiet():
            for pruner_step, value in intermediate_values(self._search, step, values, mean).items():
                trial.report(value, pruner_step)
            return trial.should_prune()

    def _final_state(self, configuration: Configuration) -> tuple[TrialState, list[float] | None]:
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
            pruner = make_pruner(self._search, longest_training(self._file))
            name = self._file.first.experiment
            return optuna.create_study(storage=storage, pruner=pruner, study_name=name, directions=directions)


class _Journal:
    """A copy of a study with only the configurations that are trained, under their own numbers.

    The study itself also contains rejected suggestions and the trials of earlier searches: with these a dashboard
    would count more trials than the report does.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._study.sampler = RandomSampler()  # unused: every value is fixed
        self._trials: list[optuna.Trial] = []  # by configuration

    def begin(self, configuration: Configuration) -> None:
        """Add a running trial."""
        with _quiet():
            self._study.enqueue_trial(configuration.trial.params)
            self._trials.append(self._study.ask(configuration.trial.distributions))

    def report(self, number: int, step: int, values: Mapping[int, float]) -> None:
        """Add the mean over the seeds at one step."""
        # Optuna accepts no intermediate values with several objectives.
        if not self._study.directions[1:] and (mean := mean_over_seeds(values)) is not None:
            self._trials[number].report(mean, step)

    def end(self, configuration: Configuration, state: TrialState, means: list[float] | None) -> None:
        """Add how a trial ended, with every value by seed."""
        trial = self._trials[configuration.number]
        for metric, values in configuration.values.items():
            trial.set_user_attr(metric, {str(seed): value for seed, value in values.items()})
        self._study.tell(trial, values=means, state=state)


def _journal_storage(journal: Path) -> BaseStorage:
    # A killed process may leave the lock file, and Optuna would wait for it.
    for file in (journal, journal.with_name(f"{journal.name}.lock")):
        file.unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(journal)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Optuna's warnings about experimental features and about its defaults."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
