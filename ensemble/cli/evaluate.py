"""`ensemble evaluate`: trained policies control the real environment; a table, a verdict, a film."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensemble.cli.options import FILE, FOLDER, SEED, NamedPath, say
from ensemble.errors import UsageError
from ensemble.text import command, plural, rough_duration

if TYPE_CHECKING:
    from ensemble.closed_loop.evaluate import Candidate, EvaluationProtocol
    from ensemble.schema import OnSetting

SECONDS_BETWEEN_LINES = 10.0
SHARE_BETWEEN_LINES = 0.05  # of the elapsed time
_LARGEST_NOISE = 3.0  # the motor's limit


@click.command()
@click.argument("run", metavar="DIR", type=FOLDER)
@click.option("--config", metavar="HASH", help="One configuration alone: the beginning of its config_hash.")
@click.option("--episodes", type=click.IntRange(1, 100_000), default=300, show_default=True, help="The same for all.")
@click.option(
    "--noise", "noises", type=click.FloatRange(0, _LARGEST_NOISE), multiple=True, default=(0.01, 0.03, 0.05),
    show_default=True, help="U(-noise, noise) is added to each action. Repeatable.",
)  # fmt: skip
@click.option(
    "--replan", "replans", type=click.IntRange(1, 100), multiple=True, default=(10, 13, 15), show_default=True,
    help="Actions applied per call of a policy. Repeatable.",
)  # fmt: skip
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of starts, noise and sampling.")
@click.option(
    "--combine", type=click.Choice(["mean", "median", "none"]), multiple=True, default=("mean", "median"),
    show_default=True, help="All members as one controller: mean of chunks, or the one nearest to the median.",
)  # fmt: skip
@click.option("--video", type=FILE, metavar="FILE.gif", help="Film of the best member by converge rate.")
@click.option("--video-members", type=click.Choice(["best", "all"]), default="best", show_default=True)
@click.option("--record", type=FILE, metavar="FILE.h5", help="Write the members' episodes of the first setting (D4RL).")
@click.option(
    "--beside", type=NamedPath(exists=True, path_type=Path), multiple=True, metavar="CSV|DIR",
    help="Published figures, or another evaluated run, in the same table. Repeatable.",
)  # fmt: skip
@click.option("--table-only", is_flag=True, help="Run nothing: show the table of earlier measurements.")
@click.option("--overwrite", is_flag=True, help="Replace the film and the recording if they exist.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def evaluate(run: Path, table_only: bool, beside: tuple[Path, ...], **options: Any) -> None:
    """Let trained policies balance the inverted pendulum, all members and episodes at once, and compare them.

    Expert and zero control, the mean of the members' chunks and the member nearest to their median control the same
    episodes. Rows go to evaluation.parquet in DIR: repeated measurements replace their rows, all others stay. DIR may
    be a member's directory, too.

    \b
    ensemble evaluate results/pi0_quick
    ensemble evaluate results/pi0_quick --episodes 50 --noise 0.05 --replan 10 \\
        --video balance.gif
    ensemble evaluate results/pi0 --table-only --beside results/fast \\
        --beside results/tables/tinypi0_published.csv
    """
    if table_only:
        _show(run, beside)
        return
    _check_outputs(options)
    where = _measure(run, **options)
    _show(where, beside, options["episodes"], options["seed"])


def _check_outputs(options: dict[str, Any]) -> None:
    for name, endings in (("video", (".gif",)), ("record", (".h5", ".hdf5"))):
        file: Path | None = options[name]
        if file is not None and file.suffix not in endings:
            raise UsageError(f"--{name} {file}: must end in {' or '.join(endings)}")
        if file is not None and file.exists() and not options["overwrite"]:
            raise UsageError(f"--{name}: {file} exists; choose another, or replace it with --overwrite")


def _measure(
    run: Path,
    config: str | None,
    noises: Sequence[float],
    replans: Sequence[int],
    episodes: int,
    seed: int,
    combine: Sequence[str],
    video: Path | None,
    video_members: str,
    record: Path | None,
    device: str,
    **_: Any,
) -> Path:
    """Run the closed loops, store their rows, film and record; return the run directory."""
    if not run.is_dir():
        raise UsageError(f"no run directory {run}")
    from ensemble.closed_loop import evaluate as closed
    from ensemble.closed_loop.film import Recorder
    from ensemble.run_directory import RunDirectory

    # Candidates and settings, sorted and distinct: the order of options must not change the rows
    joint: Any = tuple(dict.fromkeys(name for name in combine if name != "none"))
    distinct = tuple(sorted(set(noises))), tuple(sorted(set(replans)))
    protocol = closed.EvaluationProtocol(*distinct, episodes, seed, joint)
    candidates = closed.find_candidates(run, config)
    closed.check_protocol(candidates, protocol, device)
    if record is not None and len(candidates) > 1:
        raise UsageError(f"--record takes one configuration: choose one of {len(candidates)} with --config")
    where = closed.run_of(run)
    _announce(candidates, protocol, device, where)

    # Closed loops, one setting after another. Rows are stored after each: an interrupt loses one setting.
    recorder = Recorder(whole=record is not None)
    rows = []
    try:
        with _progress() as progress:
            for measured in closed.evaluate(candidates, protocol, device, progress, recorder.watch):
                closed.keep_rows(RunDirectory(where).evaluation_file, measured)
                rows += measured
    except KeyboardInterrupt:
        say(f"interrupted; the settings that were finished are in {RunDirectory(where).evaluation_file}")
        raise

    # Film and recording
    if video is not None:
        say(f"{video}: {recorder.write_film(rows, video, video_members == 'all')}")
    if record is not None:
        say(f"{record}: {recorder.write_recording(record)}")
    return where


def _announce(candidates: Sequence["Candidate"], protocol: "EvaluationProtocol", device: str, where: Path) -> None:
    from ensemble.run_directory import RunDirectory

    members = sum(len(each.members) for each in candidates)
    noises, replans = (", ".join(f"{value:g}" for value in values) for values in (protocol.noises, protocol.replans))
    names = {"mean": "their mean", "median": "the nearest to their median"}
    # A configuration of one member has no combinations.
    combined = {name for each in candidates for name in each.combinations(protocol)}
    joint = " and ".join(names[name] for name in protocol.combine if name in combined)
    of = f"{plural(members, 'member')} of {plural(len(candidates), 'configuration')}"
    say(f"device {device}: {of}{f', {joint}' if joint else ''}")
    episodes = plural(protocol.episodes, "episode")
    say(f"noise {noises} x replan {replans}, {episodes} of seed {protocol.seed}, the same for all")
    say(f"rows go to {RunDirectory(where).evaluation_file}")


def _show(run: Path, beside: Sequence[Path], episodes: int | None = None, seed: int | None = None) -> None:
    from rich.console import Console

    from ensemble.closed_loop.report import compose_evaluation
    from ensemble.closed_loop.show import render_evaluation, write_evaluation

    render_evaluation(write_evaluation(compose_evaluation(run, beside, episodes, seed)), Console())
    film = ("--noise", "0.05", "--replan", "10", "--video-members", "all", "--video", "film.gif")
    say(f"next: {command('ensemble', 'evaluate', run, *film)}")


@contextmanager
def _progress() -> Iterator["OnSetting"]:
    """Show a bar with the time left on a terminal, occasional lines elsewhere."""
    if not sys.stdout.isatty():
        yield _Lines()
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, transient=True) as bar:
        task = bar.add_task("baselines", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


class _Lines:
    """Prints the progress at growing intervals, for logs."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last > max(SECONDS_BETWEEN_LINES, SHARE_BETWEEN_LINES * (now - self._begin)) and done < total:
            self._last = now
            left = (now - self._begin) * (total - done) / done
            say(f"{what} | {done / total:.0%} | about {rough_duration(left)} left")
