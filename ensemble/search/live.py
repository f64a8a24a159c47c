"""What a run shows while it trains: a live table on a terminal, plain lines elsewhere.

A `Board` holds what is known of every trial and is fed the flat progress that rank 0 reports. It knows no Ray; the
study passes on what Tune tells it. Rates are member-steps per second: a pack of three doing one step counts three.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensemble.schema import TRAIN_LOSS, VALIDATION_ACTION, VALIDATION_ROLLOUT

SECONDS_BETWEEN_LINES = 5.0  # of one trial, at first
SHARE_BETWEEN_LINES = 0.02  # of the time so far: a run of ten hours does not say something every few seconds

Clock = Callable[[], float]
Progress = Mapping[str, float | int | str]


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
        steps = _number(self.progress, "steps") or self.steps
        return min(1.0, (_number(self.progress, "step") or 0) / steps)

    @property
    def rate(self) -> float | None:
        """Return member-steps per second between the first report and the last one."""
        if self.first is None or self.last is None or self.last[0] <= self.first[0] or self.last[1] < self.first[1]:
            return None  # nothing to measure; a trial that began again stands behind its first report
        return (self.last[1] - self.first[1]) * self.steps * len(self.seeds) / (self.last[0] - self.first[0])


class Board:
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

    def end(self, number: int, status: str, error: str = "") -> None:
        """Note how a trial ended."""
        view = self._views[number]
        view.status, view.error, view.ended = status, error, self.clock()

    @property
    def share(self) -> float:
        """Return the finished share of the member-steps that are expected, 0 to 1."""
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
    def finished(self) -> bool:
        """Say whether every trial that is expected has ended."""
        return self.ended == self.expected

    def summary(self) -> str:
        """Return one line on the whole study."""
        views, ended = self.trials, self.ended
        text = f"{ended} of {self.expected or '?'} trials, {self.share:.0%}, {duration(self.clock() - self.started)}"
        for status in ("pruned", "diverged", "failed"):
            if count := sum(status in view.status for view in views):
                text += f", {count} {status}"
        if not self.finished and self.remaining is not None:
            text += f", about {duration(self.remaining)} left"
        return text


# One column of the live table: header, and how a view reads under it.
Column = tuple[str, Callable[[TrialView], str]]
COLUMNS: tuple[Column, ...] = (
    ("configuration", lambda view: view.title),
    ("seeds", lambda view: seed_text(view.seeds)),
    ("step", lambda view: f"{_number(view.progress, 'step') or 0:.0f}/{view.steps}"),
    ("loss", lambda view: _spread(view.progress, TRAIN_LOSS, f"{TRAIN_LOSS}_std")),
    ("error", lambda view: _error(view.progress)),  # of rollouts or of actions
    ("steps/s", lambda view: f"{view.rate:.0f}" if view.rate else ""),
    ("left", lambda view: _left(view) or view.status),
)


class Screen(Protocol):
    """Where a board is shown."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def changed(self, index: int) -> None:
        """Show what changed in one trial."""
        ...


class TableScreen:
    """A table on a terminal, redrawn in place; at most `height` trials, the running and latest ones first."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._console = console
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def changed(self, index: int) -> None:
        """Do nothing: the table redraws itself."""

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for header, _ in COLUMNS:
            table.add_column(header, no_wrap=True)
        height = max(3, self._console.size.height - 4)
        views = self._board.trials
        latest_first = views[::-1]
        running_first = sorted(latest_first, key=lambda view: _ORDER.get(view.status, 2))
        for view in running_first[:height]:
            table.add_row(*(Text(text(view)) for _, text in COLUMNS))
        hidden = len(views) - height
        more = f" ({hidden} trials not shown)" if hidden > 0 else ""
        return Group(table, Text(self._board.summary() + more))


class LineScreen:
    """Plain lines: when a trial starts and while it runs, ever less often; when one ends also how the whole stands."""

    def __init__(self, board: Board, echo: Callable[[str], None]) -> None:
        self._board = board
        self._echo = echo
        self._said: dict[int, tuple[str, float]] = {}
        self._summed: tuple[int, int | None] | None = None  # what the last summary counted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sum_up()

    def _sum_up(self) -> None:
        """Say how the whole stands, where that is another count than the last."""
        counts = self._board.ended, self._board.expected
        if counts != self._summed:
            self._echo(self._board.summary())
        self._summed = counts

    def changed(self, index: int) -> None:
        """Say it where it is news: another status, or some seconds since the last line of this trial."""
        view, now = self._board.view(index), self._board.clock()
        status, when = self._said.get(index, ("", 0.0))
        pause = max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * (now - self._board.started))
        if status == view.status and now - when < pause:
            return
        self._said[index] = (view.status, now)
        self._echo(line(self._board.place(index), self._board.expected, view))
        if view.ended is not None and not self._board.finished:
            self._sum_up()


def line(place: int, trials: int | None, view: TrialView) -> str:
    """Return one trial as one line of text."""
    parts = [f"[{place}/{trials or '?'}] {view.title}", f"seeds {seed_text(view.seeds)}", view.status]
    if view.progress:
        parts += [f"{header} {value}" for header, text in COLUMNS[2:-1] if (value := text(view))]
    if left := _left(view):
        parts.append(f"{left} left")
    return " | ".join([*parts, view.error] if view.error else parts)


def screen(board: Board, echo: Callable[[str], None]) -> Screen:
    """Return a table where standard output is a terminal, lines elsewhere."""
    console = Console()
    return (
        TableScreen(board, console) if console.is_terminal and not console.is_dumb_terminal else LineScreen(board, echo)
    )


def seed_text(seeds: Sequence[int]) -> str:
    """Return `0-9` for a run of seeds and `3,5,8` for others."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(str(seed) for seed in seeds)


def duration(seconds: float) -> str:
    """Return `45 s`, `3 min 05 s` or `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"


_ORDER = {"running": 0, "waiting": 1}


def _number(progress: Progress, name: str) -> float | None:
    value = progress.get(name)
    return float(value) if isinstance(value, int | float) else None


def _spread(progress: Progress, mean: str, std: str) -> str:
    middle, spread = _number(progress, mean), _number(progress, std)
    if middle is None:
        return ""
    return f"{middle:.3g}" if spread is None or spread != spread else f"{middle:.3g} ± {spread:.1g}"


def _error(progress: Progress) -> str:
    name = VALIDATION_ROLLOUT if VALIDATION_ROLLOUT in progress else VALIDATION_ACTION
    return _spread(progress, name, f"{name}_std")


def _left(view: TrialView) -> str:
    if view.status != "running" or not view.rate:
        return ""
    return duration((1 - view.share) * view.steps * len(view.seeds) / view.rate)
