"""`ensemble simulate`, `inspect` and `convert`: write, describe and convert files of trajectories."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource
from pydantic import ValidationError

from ensemble.cli.options import PATH, SEED, say
from ensemble.config import DataConfig
from ensemble.config.base import MOST_EPISODES, MOST_POINTS
from ensemble.config.data import Layout
from ensemble.errors import UsageError
from ensemble.simulation import ENVIRONMENTS
from ensemble.text import command, plural

if TYPE_CHECKING:
    from ensemble.data.inspect import Inspection
    from ensemble.schema import OnProgress

_LAYOUTS = get_args(Layout)
_MAP_HELP = "Where a feature is found, for files of no known layout; several with commas, as state=x,y. Repeatable."


@click.command()
@click.argument("environment", type=click.Choice(list(ENVIRONMENTS)))
@click.option("--out", type=PATH, help="HDF5 file to write.  [default: ENVIRONMENT.h5]")
@click.option("--episodes", type=click.IntRange(1, MOST_EPISODES), default=1000, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1, MOST_POINTS), default=100, show_default=True, help="Transitions of an episode."
)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option("--passive/--torques", default=True, show_default=True, help="Random torques, of double_pendulum only.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def simulate(
    environment: str, out: Path | None, episodes: int, steps: int, seed: int, passive: bool, overwrite: bool
) -> None:
    """Simulate trajectories with real physics (MuJoCo) into an HDF5 file.

    double_pendulum swings freely or under random torques (NeRD's layout); inverted_pendulum is balanced by an expert
    whose controls are recorded (D4RL's layout).

    \b
    ensemble simulate double_pendulum
    ensemble simulate inverted_pendulum --episodes 4000
    ensemble simulate double_pendulum --torques --episodes 5000 --out pendulum.h5
    """
    from ensemble.config.data import SimulateConfig
    from ensemble.simulation import simulate as simulate_environment

    # Simulate
    target = out or Path(f"{environment}.h5")
    config = SimulateConfig(episodes=episodes, steps=steps, seed=seed, passive=passive)
    with _sole_writer(target, "choose another --out", overwrite), _progress("episodes") as progress:
        simulate_environment(environment, config, target, progress)

    # Report
    driven = {"inverted_pendulum": "by the expert"}.get(environment, "passive" if passive else "with torques")
    say(f"{target}: {plural(episodes, 'episode')} of {plural(steps, 'transition')}, {driven}")
    say(f"next: {command('ensemble', 'inspect', target)}")


def _layout_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for reading files, common to `inspect` and `convert`."""
    options = [
        click.option(
            "--layout",
            type=click.Choice(_LAYOUTS),
            metavar="NAME",
            default="auto",
            show_default=True,
            help=f"Their layout: {', '.join(_LAYOUTS)}.",
        ),
        click.option("--map", "maps", metavar="NAME=KEY", multiple=True, help=_MAP_HELP),
        click.option(
            "--derive", metavar="NAME=FEATURE", multiple=True, help="A finite difference in time, as velocity."
        ),
        click.option(
            "--features", metavar="NAME[,..]", default="", help="Keep these beside the controls: object,robot0_*."
        ),
        click.option("--role", "roles", metavar="NAME=ROLE", multiple=True, help="state, control, output, auxiliary."),
        click.option("--episode-column", metavar="NAME", help="Column that numbers the episodes of a table."),
        click.option(
            "--time-axis",
            type=click.Choice(["first", "second", "last"]),
            help="Axis of time in mapped arrays; second: the first one is that of episodes.",
        ),
        click.option("--dt", type=click.FloatRange(0, min_open=True), help="Seconds between two points."),
        click.option("--angles", metavar="NAME[,..]", default="", help="What wraps at +-pi: theta, states[0]."),
        click.option(
            "--decimate", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Keep every n-th point."
        ),
        click.option("--cut-at-jumps", is_flag=True, help="Cut episodes where the state jumps, and count the cuts."),
        click.option("--follow-links", is_flag=True, help="Follow links to other HDF5 files."),
    ]
    # Reversed, since click lists options in the order of decorators from the top.
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("file", type=PATH)
@click.option("--write", type=PATH, help="Experiment file to make: it trains a small model on FILE.")
@click.option("--overwrite", is_flag=True, help="Replace that experiment file if it exists.")
@_layout_options
def inspect(file: Path, write: Path | None, overwrite: bool, **options: Any) -> None:
    """Say what a file or folder of trajectories holds: layout, episodes, features, ranges, what is not a number.

    \b
    ensemble inspect data.h5
    ensemble inspect data.h5 --write mine.yaml
    ensemble inspect emps.h5 --map state=position --map control=voltage
    ensemble inspect drive.csv --map state=x,y,heading \\
        --map control=steering
    """
    from ensemble.data.inspect import inspect_file, write_experiment

    # Describe the file
    inspection = inspect_file(file, _data_config((file,), **options))
    for line in inspection.lines():
        say(line)

    # Write an experiment
    if write is None:
        say(f"next: {_next_inspection(inspection)}")
        return
    if write.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--write {write}: an experiment file ends in .yaml")
    with _sole_writer(write, "choose another name", overwrite):
        write_experiment(inspection, write)
    say(f"next: {command('ensemble', 'train', '--config', write)}")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE [FILE ..]", type=PATH)
@click.option("--out", required=True, type=PATH, help="Directory of shards to make, or what --to makes.")
@_layout_options
@click.option("--skip-bad", is_flag=True, help="Leave bad files out, and list them in the manifest.")
@click.option("--drop-bad-episodes", is_flag=True, help="Leave out episodes that cannot be used, counted by reason.")
@click.option(
    "--to",
    "target",
    type=click.Choice(["shards", "lerobot", "robomimic"]),
    default="shards",
    show_default=True,
    help="What to make: shards, a LeRobot folder, or a robomimic file.",
)
@click.option("--task", help="With --to: what the robot does, in words.  [default: the name of FILE]")
def convert(files: tuple[Path, ...], out: Path, skip_bad: bool, target: str, task: str | None, **options: Any) -> None:
    """Convert trajectories to checked Parquet shards, or to data sets of LeRobot and robomimic.

    A FILE is HDF5, npz, MATLAB, CSV or Parquet: NeRD, robomimic, LIBERO, Isaac Lab, robosuite, Minari, ManiSkill,
    ALOHA, MoCapAct, D4RL and rollouts of Stable-Baselines are known by the names in them, others need --map. A folder
    is a LeRobot data set if it has meta/info.json, otherwise the files in it. With --to, FILE may be a directory of
    shards as well.

    \b
    ensemble convert pendulum.h5 --out shards/pendulum
    ensemble convert emps.h5 --out shards/emps \\
        --map state=position --map control=voltage
    ensemble convert *.npz --out shards/rollouts --skip-bad
    ensemble convert lift.hdf5 --out shards/lift --features object,robot0_*
    ensemble convert aloha/ --out aloha_lerobot --to lerobot --dt 0.02 \\
        --task "transfer the cube"
    """
    if task is not None and target == "shards":
        raise UsageError("--task goes with --to lerobot or --to robomimic; shards hold none")
    config = _data_config(files, **options)
    for folder in files:
        if folder.is_dir():
            say(f"{folder}: {_contents(folder)}")
    if target != "shards":
        _export(files, out, target, config, task, skip_bad)
        return
    from ensemble.data.convert import convert as convert_files
    from ensemble.data.inspect import describe_data_set

    # Convert
    if out.is_file():
        raise UsageError(f"--out {out} is a file; shards need a directory")
    with _progress("points") as progress:
        manifest = convert_files(files, out, config, progress, skip_bad)

    # Report
    for line in describe_data_set(out, manifest):
        say(line)
    for notice in manifest.notices:
        say(f"  {notice}")
    for skipped in manifest.skipped:
        say(f"  left out {skipped.source}: {skipped.reason}")
    size = f"{plural(manifest.episodes, 'episode')}, {plural(manifest.points, 'point')}"
    say(f"{out}: {size}, fingerprint {manifest.fingerprint[:12]}")
    say(f"next: {command('--set', f'data.path={out}')} with ensemble train or tune")


def _contents(folder: Path) -> str:
    """Return what a folder is as a source, in a few words."""
    from ensemble.data.layouts.folder import contents

    return contents(folder)


def _export(
    files: tuple[Path, ...], out: Path, target: Any, config: DataConfig, task: str | None, skip_bad: bool
) -> None:
    """Write a data set of another program and report it."""
    from ensemble.data.exports.export import export

    with _progress("points") as progress:
        exported = export(files, out, target, config, task or files[0].stem, progress, skip_bad)
    for notice in exported.notices:
        say(f"  {notice}")
    say(f"{out}: {target}, {plural(exported.episodes, 'episode')}, {plural(exported.points, 'point')}")
    say(f"next: {command('ensemble', 'inspect', out)} reads it again")


def _next_inspection(inspection: "Inspection") -> str:
    """Return the command that writes an experiment file: the options as given, and a map where there is none."""
    given, mapped = _given_options(), []
    if inspection.recording is None:
        proposal = inspection.proposal
        mapped = proposal.options if proposal else ["--map", "state=ARRAY", "--map", "control=ARRAY"]
        if "--time-axis" in mapped and "--time-axis" in given:
            mapped = mapped[: mapped.index("--time-axis")]
    return command("ensemble", "inspect", inspection.path, *mapped, *given, "--write", _free_name("mine.yaml"))


def _given_options() -> list[str]:
    """Return the options on the command line of the running command, each with its value."""
    context = click.get_current_context()
    words = []
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) == ParameterSource.COMMANDLINE
        if not isinstance(option, click.Option) or not given:
            continue
        value = context.params[name]
        for each in value if option.multiple else [value]:
            words += [option.opts[0]] if option.is_flag else [option.opts[0], str(each)]
    return words


def _free_name(name: str) -> str:
    """Return the name, or the first with a number, of no file in the working directory."""
    path = Path(name)
    names = [name, *(f"{path.stem}{number}{path.suffix}" for number in range(2, 100))]
    return next((each for each in names if not Path(each).exists()), name)


def _data_config(
    files: tuple[Path, ...],
    maps: tuple[str, ...],
    derive: tuple[str, ...],
    roles: tuple[str, ...],
    angles: str,
    features: str,
    **options: Any,
) -> DataConfig:
    """Return the `data:` section of the options; UsageError with all wrong ones."""
    derived = {name: {"derivative_of": feature} for name, feature in _pairs("--derive", derive).items()}
    values = {
        "path": [str(path) for path in files],
        "map": {**{name: _arrays(name, value) for name, value in _pairs("--map", maps).items()}, **derived},
        "roles": _pairs("--role", roles),
        "angles": [name for name in angles.split(",") if name],
        "features": [name for name in features.split(",") if name],
        **options,
    }
    # The section checks the options, so a command line is refused for the same reasons as a file.
    try:
        return DataConfig.model_validate(values)
    except ValidationError as error:
        problems = [f"--{'.'.join(str(key) for key in each['loc'])}: {each['msg']}" for each in error.errors()]
        raise UsageError("\n".join(problems)) from error


def _arrays(name: str, value: str) -> str | list[str]:
    """Return the array of --map, or the list of them that commas separate."""
    keys = value.split(",")
    if not all(keys):
        raise UsageError(f"--map {name}={value}: an array without a name between the commas")
    return keys if len(keys) > 1 else value


def _pairs(option: str, texts: tuple[str, ...]) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {text}: needs NAME=VALUE")
        if name in pairs:
            raise UsageError(f"{option} {text}: {name} is given twice, as {pairs[name]} too")
        pairs[name] = value
    return pairs


@contextmanager
def _sole_writer(file: Path, advice: str, overwrite: bool) -> Iterator[None]:
    """Let no other process write the file meanwhile; UsageError where one does, or the file exists already."""
    from ensemble.lock import held_beside

    with held_beside(file):
        if file.exists() and not overwrite:
            raise UsageError(f"{file} exists; {advice}, or replace it with --overwrite")
        yield


@contextmanager
def _progress(unit: str) -> Iterator["OnProgress | None"]:
    """Show a progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
