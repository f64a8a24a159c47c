"""The interface to Ray Tune: the queue from which it takes trials, and the callback that follows their progress.

Tune schedules first in, first out and stops no trial: a stopped trial would lose its last rows, and one with workers
would leak their resources. Trials come from a source: a list, or the judge of a search. When the first ones all fail
with the same error, a bug is the likely cause and no further trial is started.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from ensemble.config import Experiment
from ensemble.schema import MemberRole
from ensemble.store import read_table
from ensemble.study.progress import StudyProgress, TrialProgress
from ensemble.study.progress_screen import Screen
from ensemble.training.trial import Trial, record_failure

IDENTICAL_ERRORS = 3  # of the first trials, after which no further one is started

# Tune copies these into the description of every trial's process, which Ray's agents log in clear text.
_SECRETS = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
class_cache.ENV_VARS_TO_PROPAGATE = class_cache.ENV_VARS_TO_PROPAGATE - _SECRETS


class Source(Protocol):
    """A source of trials."""

    @property
    def finished(self) -> bool:
        """Whether there are no further trials."""
        ...

    @property
    def remaining(self) -> int | None:
        """The number of trials that have not been started; None where it is unknown."""
        ...

    def next(self) -> Trial | None:
        """Return the next trial; None where there is none now."""
        ...

    def ended(self, trial: Trial) -> None:
        """Process a trial all of whose members have rows."""
        ...


class FixedSource:
    """A list of trials, in its order."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = list(trials)

    @property
    def finished(self) -> bool:
        """Whether all trials were started."""
        return not self._trials

    @property
    def remaining(self) -> int:
        """The number of trials that have not been started."""
        return len(self._trials)

    def next(self) -> Trial | None:
        """Return the first remaining trial."""
        return self._trials.pop(0) if self._trials else None

    def ended(self, trial: Trial) -> None:
        """Do nothing: the rows are all that is needed."""


class TrialQueue(Searcher):
    """Passes the trials of a source to Tune until there are no more, all fail alike, or the run is interrupted.

    Args:
        source: where the trials come from.
        progress: the progress of the study, to which each trial is added.
        title: names a configuration there.
        fingerprint: of the data, for the rows of trials whose process dies.
        completed: number of members that earlier runs completed.
    """

    def __init__(
        self,
        source: Source,
        progress: StudyProgress,
        title: Callable[[Experiment], str],
        fingerprint: str,
        completed: int = 0,
    ) -> None:
        super().__init__()
        self.trials: dict[str, Trial] = {}  # by Tune's id
        self.interrupted = False
        self._source = source
        self._progress = progress
        self._title = title
        self._fingerprint = fingerprint
        self._errors: list[str] = []
        self._completed = completed

    def __getstate__(self) -> dict[str, Any]:
        """Return no state."""
        return {}  # Tune pickles its searcher, and locks and connections cannot be pickled

    @property
    def common_error(self) -> str | None:
        """The error that all trials so far ended with, once there are enough of them."""
        # Without the words that hold numbers and paths, which differ between trials of one cause.
        kinds = {re.sub(r"\S*[\d/]\S*", "", error) for error in self._errors}
        alike = len(self._errors) >= IDENTICAL_ERRORS and len(kinds) == 1 and not self._completed
        return self._errors[0] if alike else None

    @property
    def remaining(self) -> int | None:
        """The number of trials that were not started; None where it is unknown."""
        return self._source.remaining

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next trial's configuration; None where there is none now, FINISHED where there are no more."""
        if self.common_error is not None or self.interrupted or self._source.finished:
            return Searcher.FINISHED  # type: ignore[return-value]  # a constant of Tune
        trial = self._source.next()
        if trial is None:
            return Searcher.FINISHED if self._source.finished else None
        self.trials[trial_id] = trial
        experiment = trial.experiment
        self._progress.add(trial.number, TrialProgress(self._title(experiment), trial.seeds, experiment.train.steps))
        return trial_to_config(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass a trial that ended to the source; a paused one has not ended."""
        del result
        trial = self.trials[trial_id]
        if error:
            # Its process may have died before it wrote rows itself; existing rows are kept.
            record_failure(trial, RuntimeError("the trial's process died"), self._fingerprint)
            self._errors.append(trial_error(trial))
        if not trial.pending:
            self._completed += not error
            self._source.ended(trial)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the rows of the members and the log of the search are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class ProgressCallback(tune.Callback):
    """Updates the progress of the study and its display with the events of Tune."""

    def __init__(self, progress: StudyProgress, screen: Screen, queue: TrialQueue) -> None:
        self._progress = progress
        self._screen = screen
        self._queue = queue

    def __getstate__(self) -> dict[str, Any]:
        """Return no state."""
        return {}  # Tune pickles its callbacks, and a terminal cannot be pickled

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that a trial runs."""
        self._progress.begin(trial.config["number"])
        self._screen.update(trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record its progress."""
        progress = {name: value for name, value in result.items() if isinstance(value, int | float | str)}
        self._progress.update(trial.config["number"], progress)
        self._screen.update(trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record how it ended, or that it was paused."""
        ours = self._queue.trials[trial.trial_id]
        record = self._progress.pause if ours.pending else self._progress.end
        record(ours.number, trial_status(ours))
        self._screen.update(ours.number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that it failed."""
        ours = self._queue.trials[trial.trial_id]
        self._progress.end(ours.number, "failed", trial_error(ours))
        self._screen.update(ours.number)


def trial_to_config(trial: Trial) -> dict[str, Any]:
    """Return a trial as Tune's configuration: plain JSON, for `trial_from_config` in the trial's process."""
    return {
        "number": trial.number,
        "experiment": trial.experiment.model_dump_json(),
        "seeds": list(trial.seeds),
        "origin": trial.origin,
    }


def trial_from_config(config: Mapping[str, Any], role: MemberRole, run: Path) -> Trial:
    """Return the trial of a configuration; all trials of a Tune run share role and run directory."""
    experiment = Experiment.model_validate_json(config["experiment"])
    return Trial(experiment, tuple(config["seeds"]), role, run, config["number"], config["origin"])


def member_rows(trial: Trial, *columns: str) -> list[dict[str, Any]]:
    """Return the rows of a trial's members, with those of `columns` that they have; a member may have none."""
    files = [trial.directory(seed).row_file for seed in trial.seeds]
    tables: list[pa.Table] = [read_table(file, list(dict.fromkeys(columns))) for file in files if file.is_file()]
    return [row for table in tables for row in table.to_pylist()]


def trial_status(trial: Trial) -> str:
    """Return the status of a trial's members: one word where they agree, else counts (2 completed, 1 diverged)."""
    statuses = [row["status"] for row in member_rows(trial, "status")] + ["paused"] * len(trial.pending)
    if len(set(statuses)) <= 1:
        return statuses[0] if statuses else "completed"
    return ", ".join(f"{statuses.count(kind)} {kind}" for kind in sorted(set(statuses)))


def trial_error(trial: Trial) -> str:
    """Return the error of a trial's failed members."""
    return next(str(row["error"]) for row in member_rows(trial, "error", "status") if row["status"] == "failed")
