"""The display of a study's progress: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ensemble.schema import TRAIN_LOSS, VALIDATION_ACTION, VALIDATION_ROLLOUT, Progress
from ensemble.study.progress import StudyProgress, TrialProgress, number_in
from ensemble.text import duration, plural

SECONDS_BETWEEN_LINES = 5.0  # of one trial, at first
SHARE_BETWEEN_LINES = 0.02  # of the time so far: the log of a long run stays short

TrialColumn = tuple[str, Callable[[TrialProgress], str]]  # header, text of a trial
COLUMNS: tuple[TrialColumn, ...] = (
    ("configuration", lambda trial: trial.title),
    ("seeds", lambda trial: seed_text(trial.seeds)),
    ("step", lambda trial: f"{number_in(trial.progress, 'step') or 0:.0f}/{trial.steps}"),
    ("loss", lambda trial: _mean_std(trial.progress, TRAIN_LOSS, f"{TRAIN_LOSS}_std")),
    ("error", lambda trial: _error(trial.progress)),  # of rollouts or of actions
    ("steps/s", lambda trial: f"{trial.rate:.0f}" if trial.rate else ""),
    ("left", lambda trial: _remaining_time(trial) or trial.status),
)


class Screen(Protocol):
    """A display of the progress."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, number: int) -> None:
        """Show the new state of one trial."""
        ...

    def say(self, line: str) -> None:
        """Print a line that stays."""
        ...

    def close(self) -> None:
        """End the display; it may be closed already."""
        ...


class TableScreen:
    """A table on a terminal, redrawn in place; running trials first, then the latest, as many as fit."""

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
        self.close()

    def update(self, number: int) -> None:
        """Do nothing: the table redraws itself."""

    def say(self, line: str) -> None:
        """Print a line above the table."""
        # Through the console: what is written to the terminal itself, the next table is drawn over.
        self._console.print(Text(line), soft_wrap=True)

    def close(self) -> None:
        """Remove the table."""
        self._live.stop()

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for header, _ in COLUMNS:
            table.add_column(header, no_wrap=True)
        height = max(3, self._console.size.height - 4)
        trials = self._progress.trials
        latest_first = trials[::-1]
        running_first = sorted(latest_first, key=lambda trial: _ORDER.get(trial.status, 2))
        for trial in running_first[:height]:
            table.add_row(*(Text(text(trial)) for _, text in COLUMNS))
        hidden = len(trials) - height
        more = f" ({plural(hidden, self._progress.unit)} not shown)" if hidden > 0 else ""
        return Group(table, Text(self._progress.summary() + more))


class LineScreen:
    """Plain lines: when a trial starts, less and less often while it runs, and at its end with a summary."""

    def __init__(self, progress: StudyProgress, echo: Callable[[str], None]) -> None:
        self._progress = progress
        self._echo = echo
        self._last_lines: dict[int, tuple[str, float]] = {}  # trial: status, time
        self._last_counts: tuple[int, int, int | None] | None = None  # of the last summary

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, line: str) -> None:
        """Print a line."""
        self._echo(line)

    def close(self) -> None:
        """Print the summary of the study."""
        self._summarize()

    def _summarize(self) -> None:
        """Print a summary of the study, unless its counts are those of the last one."""
        counts = self._progress.ended, self._progress.paused, self._progress.expected
        if counts != self._last_counts:
            self._echo(self._progress.summary())
        self._last_counts = counts

    def update(self, number: int) -> None:
        """Print a line on a new status, or when the last line of this trial is some seconds old."""
        trial, now = self._progress.trial(number), self._progress.clock()
        status, printed = self._last_lines.get(number, ("", 0.0))
        pause = max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * (now - self._progress.started))
        if status == trial.status and now - printed < pause:
            return
        self._last_lines[number] = (trial.status, now)
        self._echo(trial_line(self._progress.position(number), self._progress.expected, trial))
        # The summary of a finished study is printed once, when the screen is closed.
        if trial.ended is not None and not self._progress.finished:
            self._summarize()


def trial_line(position: int, expected: int | None, trial: TrialProgress) -> str:
    """Return one line on a trial: `[3/8] lr=0.001 | seeds 0-2 | running | step 40/100 | ..`."""
    parts = [f"[{position}/{expected or '?'}] {trial.title}", f"seeds {seed_text(trial.seeds)}", trial.status]
    if trial.progress:
        parts += [f"{header} {value}" for header, text in COLUMNS[2:-1] if (value := text(trial))]
    if remaining := _remaining_time(trial):
        parts.append(f"{remaining} left")
    return " | ".join([*parts, trial.error] if trial.error else parts)


def progress_screen(progress: StudyProgress, echo: Callable[[str], None]) -> Screen:
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


def _mean_std(progress: Progress, mean_name: str, std_name: str) -> str:
    mean, std = number_in(progress, mean_name), number_in(progress, std_name)
    if mean is None:
        return ""
    # One member has no deviation: NaN.
    return f"{mean:.3g}" if std is None or std != std else f"{mean:.3g} ± {std:.1g}"


def _error(progress: Progress) -> str:
    name = VALIDATION_ROLLOUT if VALIDATION_ROLLOUT in progress else VALIDATION_ACTION
    return _mean_std(progress, name, f"{name}_std")


def _remaining_time(trial: TrialProgress) -> str:
    if trial.status != "running" or not trial.rate:
        return ""
    return duration((1 - trial.share) * trial.steps * len(trial.seeds) / trial.rate, tenths=False)
