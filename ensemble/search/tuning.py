"""What Ray Tune asks and tells: which trial comes next, and how each one stands.

Tune runs first in, first out and kills nobody. Trials are handed out in the order of the plan; when the first ones all
fail with one and the same error no further one is handed out, since that is a bug and not bad luck.
"""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from ray import tune
from ray.tune.search import Searcher

from ensemble.search.live import Board, Screen
from ensemble.store import read_table
from ensemble.training.trial import Trial

IDENTICAL_ERRORS = 3


class TrialQueue(Searcher):
    """Hands out trials by number, in order, until they are all out or a bug shows."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        super().__init__()
        self._trials = trials
        self._next = 0
        self._numbers: dict[str, int] = {}
        self._errors: list[str] = []
        self._finished = 0

    @property
    def bug(self) -> str | None:
        """The error that every trial so far ended with, once it came often enough."""
        kinds = {re.sub(r"\S*[\d/]\S*", "", error) for error in self._errors}  # numbers and paths set no error apart
        alike = len(self._errors) >= IDENTICAL_ERRORS and len(kinds) == 1 and not self._finished
        return self._errors[0] if alike else None

    @property
    def left(self) -> int:
        """How many trials were not handed out."""
        return len(self._trials) - self._next

    def suggest(self, trial_id: str) -> dict[str, int] | None:
        """Return the next trial's number, or that there is none."""
        if self.bug is not None or not self.left:
            return Searcher.FINISHED  # type: ignore[return-value]  # a word that Tune knows
        self._numbers[trial_id] = self._next
        self._next += 1
        return {"trial": self._numbers[trial_id]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Count how a trial ended."""
        del result
        if error:
            self._errors.append(failure(self._trials[self._numbers[trial_id]]))
        else:
            self._finished += 1

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: what is finished stands in the members' rows."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Watcher(tune.Callback):
    """Passes on to the board what Tune hears of each trial."""

    def __init__(self, board: Board, screen: Screen, trials: Sequence[Trial]) -> None:
        self._board = board
        self._screen = screen
        self._trials = trials

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune nothing to write down: it pickles its callbacks, and a terminal cannot be."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial runs."""
        self._board.begin(trial.config["trial"])
        self._screen.changed(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note its progress."""
        progress = {name: value for name, value in result.items() if isinstance(value, int | float | str)}
        self._board.update(trial.config["trial"], progress)
        self._screen.changed(trial.config["trial"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note how it ended."""
        number = trial.config["trial"]
        self._board.end(number, status(self._trials[number]))
        self._screen.changed(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that it failed."""
        number = trial.config["trial"]
        self._board.end(number, "failed", failure(self._trials[number]))
        self._screen.changed(number)


def rows(trial: Trial) -> list[dict[str, Any]]:
    """Return the rows that a trial's members left."""
    files = [trial.directory(seed).row_file for seed in trial.seeds]
    tables: list[pa.Table] = [read_table(file) for file in files if file.is_file()]
    return [row for table in tables for row in table.to_pylist()]


def status(trial: Trial) -> str:
    """Return how a trial's members ended: one word where they agree, else counts (2 completed, 1 diverged)."""
    found = [row["status"] for row in rows(trial)]
    if len(set(found)) <= 1:
        return found[0] if found else "completed"
    return ", ".join(f"{found.count(kind)} {kind}" for kind in sorted(set(found)))


def failure(trial: Trial) -> str:
    """Return the error of a trial's failed members; what is known when they could not write any."""
    errors = [row["error"] for row in rows(trial) if row["status"] == "failed"]
    return errors[0] if errors else "the trial's process died"
