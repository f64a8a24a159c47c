"""The progress of a study: the state of every trial, from the values that rank 0 reports.

It imports no Ray; a callback of Tune calls it. Rates are member-steps per second: one step of a pack of three counts
three.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ensemble.schema import Progress
from ensemble.text import duration, plural

Clock = Callable[[], float]


@dataclass
class TrialProgress:
    """The state of one trial; `title` has the searched values of its configuration."""

    title: str
    seeds: Sequence[int]
    steps: int  # of one member
    status: str = "waiting"
    progress: dict[str, float | int | str] = field(default_factory=dict)
    error: str = ""
    started: float | None = None
    ended: float | None = None
    # Time and share done of the first and the last report: a rate between these does not include the start-up.
    first: tuple[float, float] | None = None
    last: tuple[float, float] | None = None

    @property
    def done_steps(self) -> float:
        """The member-steps done so far."""
        complete = self.ended is not None and "pruned" not in self.status and "diverged" not in self.status
        return (1.0 if complete else self._reached) * self.steps * len(self.seeds)

    @property
    def share(self) -> float:
        """The share of the trial that is over, 0 to 1; 1 after an early stop too."""
        return 1.0 if self.ended is not None else self._reached

    @property
    def _reached(self) -> float:
        steps = number_in(self.progress, "steps") or self.steps
        return min(1.0, (number_in(self.progress, "step") or 0) / steps)

    @property
    def rate(self) -> float | None:
        """Member-steps per second between the first report and the last one; None where there is nothing to measure."""
        # A trial that was started again may be behind its first report.
        if self.first is None or self.last is None or self.last[0] <= self.first[0] or self.last[1] < self.first[1]:
            return None
        return (self.last[1] - self.first[1]) * self.steps * len(self.seeds) / (self.last[0] - self.first[0])


class StudyProgress:
    """All trials of a study so far.

    `expected` is the number of trials (None: unknown), `ended_before` how many of them ended in earlier runs. A trial
    that has not started counts as many steps as the mean of the ended ones, so that the remaining time allows for early
    stopping. `unit` is the word for a trial: those of a single configuration are its packs.
    """

    def __init__(
        self, expected: int | None, clock: Clock = time.monotonic, ended_before: int = 0, unit: str = "trial"
    ) -> None:
        self.expected = expected
        self.unit = unit
        self.ended_before = ended_before
        self.clock = clock
        self.started = clock()
        self._trials: dict[int, TrialProgress] = {}

    @property
    def trials(self) -> list[TrialProgress]:
        """Every trial so far, in the order they were added."""
        return list(self._trials.values())

    def position(self, number: int) -> int:
        """Return the position of a trial among all of the study, from 1."""
        return self.ended_before + list(self._trials).index(number) + 1

    def trial(self, number: int) -> TrialProgress:
        """Return one trial."""
        return self._trials[number]

    def add(self, number: int, trial: TrialProgress) -> None:
        """Add a trial."""
        self._trials[number] = trial

    def begin(self, number: int) -> None:
        """Record that a trial runs."""
        trial = self._trials[number]
        trial.status, trial.started = "running", self.clock()

    def update(self, number: int, progress: Progress) -> None:
        """Record the progress that a trial reports."""
        trial = self._trials[number]
        if trial.started is None:
            self.begin(number)
        trial.progress.update(progress)
        trial.last = (self.clock(), trial.share)
        trial.first = trial.first or trial.last

    def pause(self, number: int, status: str) -> None:
        """Record that a trial was interrupted and can be resumed."""
        self._trials[number].status = status

    def end(self, number: int, status: str, error: str = "") -> None:
        """Record how a trial ended."""
        trial = self._trials[number]
        trial.status, trial.error, trial.ended = status, error, self.clock()

    @property
    def share(self) -> float:
        """The share of the expected member-steps that is done, 0 to 1."""
        if not self.trials:
            return self.ended / self.expected if self.expected else 0.0
        done, remaining, mean = self._work
        earlier = mean * self.ended_before
        return (earlier + done) / (earlier + done + remaining) if remaining else 1.0

    @property
    def remaining(self) -> float | None:
        """The remaining seconds at the mean rate so far; None while they are unknown."""
        done, remaining, _ = self._work
        known = self.expected is not None and done > 0.01 * (done + remaining)
        return (self.clock() - self.started) * remaining / done if known else None

    @property
    def _work(self) -> tuple[float, float, float]:
        """Member-steps done and remaining in this run, and the mean of a trial."""
        trials = self.trials
        done = sum(trial.done_steps for trial in trials)
        ended = [trial.done_steps for trial in trials if trial.ended is not None]
        started = sum(t.done_steps if t.ended is not None else t.steps * len(t.seeds) for t in trials)
        mean = sum(ended) / len(ended) if ended else started / len(trials) if trials else 0.0
        waiting = max(0, (self.expected or 0) - self.ended_before - len(trials))
        return done, started + mean * waiting - done, mean

    def awaited(self) -> str:
        """Return what the first trial waits for; an empty text once it has reported."""
        if any(trial.first is not None or trial.ended is not None for trial in self.trials):
            return ""
        started = any(trial.started is not None for trial in self.trials)
        return "the first trial has loaded torch and its data" if started else "the process of the first trial starts"

    @property
    def ended(self) -> int:
        """The number of trials that have ended, earlier runs included."""
        return self.ended_before + sum(trial.ended is not None for trial in self.trials)

    @property
    def paused(self) -> int:
        """The number of trials that were interrupted."""
        return sum("paused" in trial.status for trial in self.trials)

    @property
    def finished(self) -> bool:
        """Whether every expected trial has ended."""
        return self.ended == self.expected

    def summary(self) -> str:
        """Return one line on the study."""
        expected = plural(self.expected, self.unit) if self.expected else f"? {self.unit}s"
        text = f"{self.ended} of {expected}, {self.share:.0%}, {duration(self.clock() - self.started, tenths=False)}"
        for status in ("pruned", "diverged", "failed", "paused"):
            if count := sum(status in trial.status for trial in self.trials):
                text += f", {count} {status}"
        if not (self.finished or self.paused) and self.remaining is not None:
            text += f", about {duration(self.remaining, tenths=False)} left"
        return text


def number_in(progress: Progress, name: str) -> float | None:
    """Return the value that a trial reported under a name; None where it is no number."""
    value = progress.get(name)
    return float(value) if isinstance(value, int | float) else None
