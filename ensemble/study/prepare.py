"""From the `data:` section to shards on disk, before anything is trained.

Missing shards are simulated and converted once, by the command, with a line for the user. They are in `shards/` next to
the results directory, named by a hash of the options that change data, so that experiments share them. Then features,
metrics and windows of the experiment are checked against the data, without Ray and without reading a shard.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.config.data import DataConfig
from ensemble.config.experiment import Experiment
from ensemble.config.model import input_features
from ensemble.data.layouts.folder import expanded, is_shards, parts_of
from ensemble.data.manifest import CONTENT_OPTIONS
from ensemble.data.notes import has_manifest
from ensemble.data.trajectories import Trajectories, describe, read_episodes, read_manifest
from ensemble.errors import DataError, UsageError
from ensemble.lock import held
from ensemble.run_directory import MemberDirectory, RunDirectory
from ensemble.schema import TRAIN_LOSS, Feature, Say
from ensemble.text import did_you_mean, plural
from ensemble.training.tasks import task_of

# Options of `data:` that change the contents of the shards; those of `_NOT_CONVERTED` only their use or their source.
_CONVERSION = CONTENT_OPTIONS | {"follow_links"}
_NOT_CONVERTED = {"source", "path", "simulate", "split", "validation"}
_NAMED = 3  # sources in a line for the user
_LONGEST_STEM = 200  # bytes of a file's name in the name of its shards
_COSTS = ("parameters", "seconds")  # columns of a row that may be further objectives


@dataclass(frozen=True)
class PreparedData:
    """Shards directories: the experiment's data, and its named validation sets."""

    main: Path
    named: Mapping[str, Path]


def prepare(config: DataConfig, base_dir: Path, results: Path, say: Say) -> PreparedData:
    """Return the experiment's shards; make missing ones.

    Relative paths count from the working directory, or else from `base_dir`, the folder of the experiment file.
    Raises DataError for missing files and for data that `convert` refuses.
    """
    cache = results.absolute().parent / "shards"
    if config.path is None:
        main = _simulated(config, cache, say)
    else:
        main = _converted(config, config.path, base_dir, cache, say)
    named = {name: _converted(config, path, base_dir, cache, say) for name, path in config.validation.items()}
    return PreparedData(main, named)


@contextmanager
def naming_cache(data: PreparedData, run: Path) -> Iterator[None]:
    """Add to a DataError of shards that a run made itself which directories to delete, so that they are made again."""
    try:
        yield
    except DataError as error:
        cache = run.absolute().parent.parent / "shards"
        ours = [path for path in (data.main, *data.named.values()) if path.parent == cache and str(path) in str(error)]
        if not ours:
            raise
        named = ", ".join(str(path) for path in ours)
        raise DataError(
            f"{error}\n{named} was made from the original data: delete it, and a run makes it again"
        ) from error


def planned_shards(config: DataConfig, base_dir: Path, results: Path) -> Path:
    """Return the directory in which `prepare` finds or makes the shards. DataError for missing files."""
    cache = results.absolute().parent / "shards"
    if config.path is None:
        return _simulated_target(config, cache)
    paths = source_paths(config, base_dir)
    return paths[0] if _are_shards(paths) else _converted_target(config, paths, cache)


def source_paths(config: DataConfig, base_dir: Path) -> list[Path]:
    """Return the sources that `data.path` names, or its one directory of shards; DataError where one is missing."""
    paths = [config.path] if isinstance(config.path, str) else config.path or []
    found = [_find(path, base_dir) for path in paths]
    return found if _are_shards(found) else expanded(found)


def check_experiments(experiments: Iterable[Experiment], data: PreparedData) -> Trajectories:
    """Refuse experiments that these data do not fit; return the description of the data set (no rows).

    Raises UsageError that lists every unknown feature and metric, DataError when a split has no window.
    """
    main = _description(data.main)
    named = {name: _description(path) for name, path in data.named.items()}
    problems: list[str] = []
    for experiment in experiments:
        problems += [problem for problem in problems_of(experiment, main.features) if problem not in problems]
        if not problems:
            _check_windows(experiment, main, named)
    if problems:
        raise UsageError("\n".join(problems))
    return main


def find_origin(init_from: str | None, base_dir: Path) -> str | None:
    """Return `train.init_from` as an absolute path; UsageError when it is no trained member and no run."""
    if init_from is None:
        return None
    for path in (Path(init_from).expanduser(), base_dir / init_from):
        by_name = RunDirectory(path.parent).member(path.name)
        members = (MemberDirectory(path), by_name, *RunDirectory(path).trained)
        if any(member.model_file.is_file() for member in members):
            # Absolute: Ray Train's workers change directory.
            return str(path.absolute())
    raise UsageError(f"train.init_from: {init_from}: no trained member there (a run directory or its members/<id>)")


def metric_names(experiment: Experiment, features: Sequence[Feature]) -> list[str]:
    """Return every metric that a search may compare on these data; those of the test split would bias the test."""
    splits = ("validation", *(f"validation_{name}" for name in experiment.data.validation))
    task = task_of(experiment.model)
    return [TRAIN_LOSS, *(name for split in splits for name in task.metric_names(experiment, features, split))]


def _simulated(config: DataConfig, cache: Path, say: Say) -> Path:
    assert config.source is not None  # DataConfig holds it: a source or a path
    target = _simulated_target(config, cache)
    if has_manifest(target):
        return target
    # The simulated file has a hash of its own: another conversion of the same simulation reuses it.
    amount = config.simulate.model_dump(mode="json")
    raw = cache / f"{config.source}-{_digest([config.source, amount])}.h5"
    with held(target.with_name(f".{target.name}.lock")):
        if not raw.is_file():
            from ensemble.simulation import simulate  # loads MuJoCo

            say(f"simulating {plural(config.simulate.episodes, 'episode')} of {config.source} to {short_path(raw)}")
            simulate(config.source, config.simulate, raw)
        return _convert(config, [raw], target, say)


def _converted(config: DataConfig, paths: str | list[str], base_dir: Path, cache: Path, say: Say) -> Path:
    files = source_paths(config.model_copy(update={"path": paths}), base_dir)
    if _are_shards(files):
        read_manifest(files[0])  # raises where this is no data set
        _refuse_conversion(config, files[0])
        return files[0]
    target = _converted_target(config, files, cache)
    if has_manifest(target):
        return target
    with held(target.with_name(f".{target.name}.lock")):
        return _convert(config, files, target, say)


def _simulated_target(config: DataConfig, cache: Path) -> Path:
    amount = config.simulate.model_dump(mode="json")
    return cache / f"{config.source}-{_digest([config.source, amount, _conversion(config)])}"


def _converted_target(config: DataConfig, files: list[Path], cache: Path) -> Path:
    # Size and time of change stand for the content, which may be too large to be hashed at every start.
    parts = [part for path in files for part in parts_of(path)]
    stamps = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in parts]
    # A file's name may be as long as a name can be; this one and its lock's have additions.
    stem = os.fsdecode(os.fsencode(files[0].stem)[:_LONGEST_STEM])
    return cache / f"{stem}-{_digest([stamps, _conversion(config)])}"


def _are_shards(paths: Sequence[Path]) -> bool:
    """Return whether these paths are one directory that a conversion made, or began to make."""
    return len(paths) == 1 and is_shards(paths[0])


def _refuse_conversion(config: DataConfig, shards: Path) -> None:
    """Raise UsageError for options of a conversion: these shards are converted already."""
    plain = DataConfig(path=str(shards))
    for name in sorted(_CONVERSION):
        if getattr(config, name) != getattr(plain, name):
            raise UsageError(
                f"data.{name} is given, but {shards} is converted already: give the original files as data.path, "
                f"or leave data.{name} out"
            )


def _convert(config: DataConfig, sources: list[Path], target: Path, say: Say) -> Path:
    if has_manifest(target):
        return target  # another process made it while this one waited for the lock
    from ensemble.data.convert import convert  # loads HDF5

    named = ", ".join(path.name for path in sources[:_NAMED])
    more = f" and {len(sources) - _NAMED} more" if len(sources) > _NAMED else ""
    say(f"converting {named}{more} to {short_path(target)}")
    manifest = convert(sources, target, config)
    for notice in manifest.notices:
        say(f"  {notice}")
    return target


def _find(path: str, base_dir: Path) -> Path:
    for candidate in (Path(path).expanduser(), base_dir / path):
        if candidate.exists():
            return candidate.absolute()
    raise DataError(f"data.path: no file or directory {path} (looked in {Path.cwd()} and {base_dir.absolute()})")


def _conversion(config: DataConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=_NOT_CONVERTED)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def short_path(path: Path) -> str:
    """Return a path relative to the working directory where it is inside, else unchanged."""
    base = Path.cwd()
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _description(directory: Path) -> Trajectories:
    return describe(read_manifest(directory), read_episodes(directory))


def problems_of(experiment: Experiment, features: Sequence[Feature]) -> list[str]:
    """Return a message for each input and metric of an experiment that data of these features do not have."""
    problems = []
    try:
        input_features(experiment.model, features)
    except UsageError as error:
        problems += str(error).splitlines()
    metrics = metric_names(experiment, features)
    requested = {"metric": [experiment.search.metric], "also": list(experiment.search.also)}
    for key, names in requested.items():
        allowed = metrics if key == "metric" else [*metrics, *_COSTS]
        unknown = [name for name in names if name not in allowed]
        available = f"; there are {', '.join(allowed[:12])}"
        problems += [f"search.{key}: no metric '{name}'{did_you_mean(name, allowed) or available}" for name in unknown]
    return problems


def _check_windows(experiment: Experiment, data: Trajectories, named: Mapping[str, Trajectories]) -> None:
    for name, other in named.items():
        if other.features != data.features:
            raise DataError(f"data.validation.{name}: other features than the data")
    task_of(experiment.model).check_data(experiment, data, named)
