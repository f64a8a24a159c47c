"""What a run shows of its `Board` while it trains: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensemble.schema import TRAIN_LOSS, VALIDATION_ACTION, VALIDATION_ROLLOUT, Progress
from ensemble.study.progress import StudyProgress, TrialView, number_in
from ensemble.text import duration, plural

SECONDS_BETWEEN_LINES = 5.0  # of one trial, at first
SHARE_BETWEEN_LINES = 0.02  # of the time so far: a run of ten hours does not say something every few seconds

# One column of the live table: header, and how a view reads under it.
Column = tuple[str, Callable[[TrialView], str]]
COLUMNS: tuple[Column, ...] = (
    ("configuration", lambda view: view.title),
    ("seeds", lambda view: seed_text(view.seeds)),
    ("step", lambda view: f"{number_in(view.progress, 'step') or 0:.0f}/{view.steps}"),
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

    def __init__(self, progress: StudyProgress, console: Console) -> None:
        self._progress = progress
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
        views = self._progress.trials
        latest_first = views[::-1]
        running_first = sorted(latest_first, key=lambda view: _ORDER.get(view.status, 2))
        for view in running_first[:height]:
            table.add_row(*(Text(text(view)) for _, text in COLUMNS))
        hidden = len(views) - height
        more = f" ({plural(hidden, 'trial')} not shown)" if hidden > 0 else ""
        return Group(table, Text(self._progress.summary() + more))


class LineScreen:
    """Plain lines: when a trial starts and while it runs, ever less often; when one ends also how the whole stands."""

    def __init__(self, progress: StudyProgress, echo: Callable[[str], None]) -> None:
        self._progress = progress
        self._echo = echo
        self._said: dict[int, tuple[str, float]] = {}
        self._summed: tuple[int, int, int | None] | None = None  # what the last summary counted

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sum_up()

    def _sum_up(self) -> None:
        """Say how the whole stands, where that is another count than the last."""
        counts = self._progress.ended, self._progress.paused, self._progress.expected
        if counts != self._summed:
            self._echo(self._progress.summary())
        self._summed = counts

    def changed(self, index: int) -> None:
        """Say it where it is news: another status, or some seconds since the last line of this trial."""
        view, now = self._progress.view(index), self._progress.clock()
        status, when = self._said.get(index, ("", 0.0))
        pause = max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * (now - self._progress.started))
        if status == view.status and now - when < pause:
            return
        self._said[index] = (view.status, now)
        self._echo(line(self._progress.place(index), self._progress.expected, view))
        if view.ended is not None and not self._progress.finished:
            self._sum_up()


def line(place: int, trials: int | None, view: TrialView) -> str:
    """Return one trial as one line of text."""
    parts = [f"[{place}/{trials or '?'}] {view.title}", f"seeds {seed_text(view.seeds)}", view.status]
    if view.progress:
        parts += [f"{header} {value}" for header, text in COLUMNS[2:-1] if (value := text(view))]
    if left := _left(view):
        parts.append(f"{left} left")
    return " | ".join([*parts, view.error] if view.error else parts)


def screen(progress: StudyProgress, echo: Callable[[str], None]) -> Screen:
    """Return a table where standard output is a terminal, lines elsewhere."""
    console = Console()
    return (
        TableScreen(progress, console)
        if console.is_terminal and not console.is_dumb_terminal
        else LineScreen(progress, echo)
    )


def seed_text(seeds: Sequence[int]) -> str:
    """Return `0-9` for a run of seeds and `3,5,8` for others."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(str(seed) for seed in seeds)


_ORDER = {"running": 0, "waiting": 1}


def _spread(progress: Progress, mean: str, std: str) -> str:
    middle, spread = number_in(progress, mean), number_in(progress, std)
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
