"""What is known of every trial while a study runs, fed by the flat progress that rank 0 reports.

It knows no Ray; the study passes on what Tune tells it. Rates are member-steps per second: a pack of three doing one
step counts three.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ensemble.schema import Progress
from ensemble.text import duration, plural

Clock = Callable[[], float]


@dataclass
class TrialView:
    """What is known of one trial; `title` names its configuration by what varies."""

    title: str
    seeds: Sequence[int]
    steps: int  # of one member
    status: str = "waiting"
    progress: dict[str, float | int | str] = field(default_factory=dict)
    error: str = ""
    started: float | None = None
    ended: float | None = None
    first: tuple[float, float] | None = None  # time and done share of the first report: rates leave out the start-up
    last: tuple[float, float] | None = None

    @property
    def worked(self) -> float:
        """Return the member-steps done so far."""
        whole = self.ended is not None and "pruned" not in self.status and "diverged" not in self.status
        return (1.0 if whole else self._reached) * self.steps * len(self.seeds)

    @property
    def share(self) -> float:
        """Return the finished share of the trial's steps, 0 to 1."""
        return 1.0 if self.ended is not None else self._reached

    @property
    def _reached(self) -> float:
        steps = number_in(self.progress, "steps") or self.steps
        return min(1.0, (number_in(self.progress, "step") or 0) / steps)

    @property
    def rate(self) -> float | None:
        """Return member-steps per second between the first report and the last one."""
        if self.first is None or self.last is None or self.last[0] <= self.first[0] or self.last[1] < self.first[1]:
            return None  # nothing to measure; a trial that began again stands behind its first report
        return (self.last[1] - self.first[1]) * self.steps * len(self.seeds) / (self.last[0] - self.first[0])


class StudyProgress:
    """All trials of a study so far, fed by what they report.

    `expected` is how many there will be, None where nobody knows, `before` how many of them had ended when this began;
    what is not seen here counts as much as the mean of what has ended, so that the time left allows for trials that are
    stopped early.
    """

    def __init__(self, expected: int | None, clock: Clock = time.monotonic, before: int = 0) -> None:
        self.expected = expected
        self.before = before
        self.clock = clock
        self.started = clock()
        self._views: dict[int, TrialView] = {}

    @property
    def trials(self) -> list[TrialView]:
        """Every trial so far, in the order they were added."""
        return list(self._views.values())

    def place(self, number: int) -> int:
        """Return the place of a trial, from 1."""
        return self.before + list(self._views).index(number) + 1

    def view(self, number: int) -> TrialView:
        """Return one trial."""
        return self._views[number]

    def add(self, number: int, view: TrialView) -> None:
        """Take up a trial."""
        self._views[number] = view

    def begin(self, number: int) -> None:
        """Note that a trial runs."""
        view = self._views[number]
        view.status, view.started = "running", self.clock()

    def update(self, number: int, progress: Progress) -> None:
        """Note what a trial reports."""
        view = self._views[number]
        if view.started is None:
            self.begin(number)
        view.progress.update(progress)
        view.last = (self.clock(), view.share)
        view.first = view.first or view.last

    def pause(self, number: int, status: str) -> None:
        """Note that a trial stopped before its end, to be resumed."""
        self._views[number].status = status

    def end(self, number: int, status: str, error: str = "") -> None:
        """Note how a trial ended."""
        view = self._views[number]
        view.status, view.error, view.ended = status, error, self.clock()

    @property
    def share(self) -> float:
        """Return the finished share of the member-steps that are expected, 0 to 1."""
        if not self.trials:
            return self.ended / self.expected if self.expected else 0.0
        done, left, typical = self._work
        earlier = typical * self.before
        return (earlier + done) / (earlier + done + left) if left else 1.0

    @property
    def remaining(self) -> float | None:
        """Return the seconds still to go at the mean rate so far; None while nothing is known."""
        done, left, _ = self._work
        known = self.expected is not None and done > 0.01 * (done + left)
        return (self.clock() - self.started) * left / done if known else None

    @property
    def _work(self) -> tuple[float, float, float]:
        """Return member-steps done and left here, and those of a typical trial."""
        views = self.trials
        done = sum(view.worked for view in views)
        ended = [view.worked for view in views if view.ended is not None]
        begun = sum(view.worked if view.ended is not None else view.steps * len(view.seeds) for view in views)
        typical = sum(ended) / len(ended) if ended else begun / len(views) if views else 0.0
        waiting = max(0, (self.expected or 0) - self.before - len(views))
        return done, begun + typical * waiting - done, typical

    @property
    def ended(self) -> int:
        """Return how many trials have ended, those before this began among them."""
        return self.before + sum(view.ended is not None for view in self.trials)

    @property
    def paused(self) -> int:
        """Return how many trials stopped before their end."""
        return sum("paused" in view.status for view in self.trials)

    @property
    def finished(self) -> bool:
        """Say whether every trial that is expected has ended."""
        return self.ended == self.expected

    def summary(self) -> str:
        """Return one line on the whole study."""
        views, ended = self.trials, self.ended
        of = plural(self.expected, "trial") if self.expected else "? trials"
        text = f"{ended} of {of}, {self.share:.0%}, {duration(self.clock() - self.started)}"
        for status in ("pruned", "diverged", "failed", "paused"):
            if count := sum(status in view.status for view in views):
                text += f", {count} {status}"
        if not (self.finished or self.paused) and self.remaining is not None:
            text += f", about {duration(self.remaining)} left"
        return text


def number_in(progress: Progress, name: str) -> float | None:
    """Return what a trial reported under a name; None where it is no number."""
    value = progress.get(name)
    return float(value) if isinstance(value, int | float) else None
