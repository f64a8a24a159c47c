"""What Ray Tune asks and tells: which trial comes next, and how each one stands.

Tune runs first in, first out and kills nobody. Trials come from a source: a list, or the judge of a search. When the
first ones all fail with one and the same error no further one is handed out, since that is a bug and not bad luck.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from ray import tune
from ray.tune.search import Searcher

from ensemble.config import Experiment
from ensemble.schema import MemberRole
from ensemble.store import read_table
from ensemble.study.progress import StudyProgress, TrialView
from ensemble.study.progress_screen import Screen
from ensemble.training.trial import Trial, record_failure

IDENTICAL_ERRORS = 3


class Source(Protocol):
    """Where trials come from."""

    @property
    def finished(self) -> bool:
        """Whether there will never be another."""
        ...

    @property
    def left(self) -> int | None:
        """How many have not been handed out; None where nobody knows."""
        ...

    def next(self) -> Trial | None:
        """Return the next one; None where there is none now."""
        ...

    def ended(self, trial: Trial) -> None:
        """Take note that every member of a trial has its row."""
        ...


class Given:
    """Trials that are known beforehand, in their order."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = list(trials)

    @property
    def finished(self) -> bool:
        """Whether all are out."""
        return not self._trials

    @property
    def left(self) -> int:
        """How many are not out."""
        return len(self._trials)

    def next(self) -> Trial | None:
        """Return the first that is left."""
        return self._trials.pop(0) if self._trials else None

    def ended(self, trial: Trial) -> None:
        """Do nothing: their rows say it all."""


class TrialQueue(Searcher):
    """Hands out the trials of a source until it has no more, a bug shows, or somebody interrupts.

    Args:
        source: where they come from.
        board: where each is shown.
        title: names a configuration there.
        fingerprint: of the data, for the rows of trials whose process dies.
        finished_before: trials that ended well when the run was begun.
    """

    def __init__(
        self,
        source: Source,
        progress: StudyProgress,
        title: Callable[[Experiment], str],
        fingerprint: str,
        finished_before: int = 0,
    ) -> None:
        super().__init__()
        self.trials: dict[str, Trial] = {}  # by Tune's name
        self.interrupted = False
        self._source = source
        self._progress = progress
        self._title = title
        self._fingerprint = fingerprint
        self._errors: list[str] = []
        self._finished = finished_before

    @property
    def bug(self) -> str | None:
        """The error that every trial so far ended with, once it came often enough."""
        kinds = {re.sub(r"\S*[\d/]\S*", "", error) for error in self._errors}  # numbers and paths set no error apart
        alike = len(self._errors) >= IDENTICAL_ERRORS and len(kinds) == 1 and not self._finished
        return self._errors[0] if alike else None

    @property
    def left(self) -> int | None:
        """How many trials were not handed out."""
        return self._source.left

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next trial's configuration, None where there is none now, or that there is none."""
        if self.bug is not None or self.interrupted or self._source.finished:
            return Searcher.FINISHED  # type: ignore[return-value]  # a word that Tune knows
        trial = self._source.next()
        if trial is None:
            return Searcher.FINISHED if self._source.finished else None
        self.trials[trial_id] = trial
        experiment = trial.experiment
        self._progress.add(trial.number, TrialView(self._title(experiment), trial.seeds, experiment.train.steps))
        return written(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Count how a trial ended, and pass it on; one that was paused has not."""
        del result
        trial = self.trials[trial_id]
        if error:  # its process may have died before it could say so itself
            record_failure(trial, RuntimeError("the trial's process died"), self._fingerprint)
            self._errors.append(failure(trial))
        if not trial.pending:
            self._finished += not error
            self._source.ended(trial)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: what is finished stands in the members' rows and the log of the search."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Watcher(tune.Callback):
    """Passes on to the board what Tune hears of each trial."""

    def __init__(self, progress: StudyProgress, screen: Screen, queue: TrialQueue) -> None:
        self._progress = progress
        self._screen = screen
        self._queue = queue

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune nothing to write down: it pickles its callbacks, and a terminal cannot be."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial runs."""
        self._progress.begin(trial.config["number"])
        self._screen.changed(trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note its progress."""
        progress = {name: value for name, value in result.items() if isinstance(value, int | float | str)}
        self._progress.update(trial.config["number"], progress)
        self._screen.changed(trial.config["number"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note how it ended, or that it was paused."""
        ours = self._queue.trials[trial.trial_id]
        note = self._progress.pause if ours.pending else self._progress.end
        note(ours.number, status(ours))
        self._screen.changed(ours.number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that it failed."""
        ours = self._queue.trials[trial.trial_id]
        self._progress.end(ours.number, "failed", failure(ours))
        self._screen.changed(ours.number)


def written(trial: Trial) -> dict[str, Any]:
    """Return a trial as Tune's configuration: plain JSON, which `read` reads in the trial's process."""
    return {
        "number": trial.number,
        "experiment": trial.experiment.model_dump_json(),
        "seeds": list(trial.seeds),
        "origin": trial.origin,
    }


def read(config: Mapping[str, Any], role: MemberRole, run: Path) -> Trial:
    """Return the trial that `written` wrote; all trials of a study share role and run directory."""
    experiment = Experiment.model_validate_json(config["experiment"])
    return Trial(experiment, tuple(config["seeds"]), role, run, config["number"], config["origin"])


def rows(trial: Trial, *columns: str) -> list[dict[str, Any]]:
    """Return the rows that a trial's members left, with those of `columns` that they have."""
    files = [trial.directory(seed).row_file for seed in trial.seeds]
    tables: list[pa.Table] = [read_table(file, list(dict.fromkeys(columns))) for file in files if file.is_file()]
    return [row for table in tables for row in table.to_pylist()]


def status(trial: Trial) -> str:
    """Return how a trial's members ended: one word where they agree, else counts (2 completed, 1 diverged)."""
    found = [row["status"] for row in rows(trial, "status")] + ["paused"] * len(trial.pending)
    if len(set(found)) <= 1:
        return found[0] if found else "completed"
    return ", ".join(f"{found.count(kind)} {kind}" for kind in sorted(set(found)))


def failure(trial: Trial) -> str:
    """Return the error of a trial's failed members."""
    return next(str(row["error"]) for row in rows(trial, "error", "status") if row["status"] == "failed")
