"""The data of an experiment before anything is made of them: which features, how many points, and where that is from.

The manifest answers where the shards are there; else the headers of the files; else a simulation of two points in a
temporary folder, thrown away at once. Where there are no data at all, features are assumed and said to be.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from ensemble.config.data import DataConfig, SimulateConfig
from ensemble.config.experiment import Experiment
from ensemble.data.trajectories import EPISODES, MANIFEST, describe, read_manifest, read_table
from ensemble.errors import DataError
from ensemble.schema import Feature
from ensemble.study.prepare import planned_shards, short_path, sources
from ensemble.text import plural

ASSUMED_STATES = 4


@dataclass(frozen=True)
class DataOutlook:
    """What is known of the data: `ready` says that their shards are there."""

    features: tuple[Feature, ...]
    episodes: int | None
    points: int | None
    ready: bool
    words: str  # where this is from, for the reader
    assumed: bool = False  # whether the features are a guess, since there are no data

    @property
    def bytes(self) -> int:
        """Bytes of all points in memory, float32; 0 where their number is not known."""
        return 4 * (self.points or 0) * sum(feature.width for feature in self.features)


def data_outlook(experiment: Experiment, base_dir: Path, results: Path) -> DataOutlook:
    """Return what is known of the data. `beside` is the folder of the experiment file, `results` as in `prepare`."""
    config = experiment.data
    try:
        shards = planned_shards(config, base_dir, results)
        if (shards / MANIFEST).is_file():
            return _described(shards)
        if config.path is None:
            return _simulated(config, experiment)
        return _headers(config, sources(config, base_dir))
    except DataError as error:
        return _assumed(experiment, str(error))


def _described(shards: Path) -> DataOutlook:
    data = describe(read_manifest(shards), read_table(shards / EPISODES))
    points = int(data.episodes.points.sum())
    words = f"{short_path(shards)}: {plural(len(data.episodes), 'episode', ',')}, {plural(points, 'point', ',')}"
    return DataOutlook(data.features, len(data.episodes), points, True, words)


def _simulated(config: DataConfig, experiment: Experiment) -> DataOutlook:
    from ensemble.simulation import simulate  # MuJoCo, needed only here

    assert config.source is not None  # DataConfig holds it: a source or a path
    amount = config.simulate
    with tempfile.TemporaryDirectory() as folder:
        probe = SimulateConfig(episodes=1, steps=2, seed=amount.seed, passive=amount.passive)
        raw = simulate(config.source, probe, Path(folder) / "probe.h5")
        found = _headers(config, [raw])
    points = amount.episodes * (amount.steps // config.decimate + 1)
    size = f"{plural(amount.episodes, 'episode', ',')}, {plural(points, 'point', ',')}"
    words = f"{config.source}, simulated by the run: {size}"
    return replace(found, episodes=amount.episodes, points=points, words=words)


def _headers(config: DataConfig, files: list[Path]) -> DataOutlook:
    from ensemble.data.sources import plan  # HDF5, needed only here

    plans = [plan(file, config) for file in files]
    points = sum(each.points for each in plans) // config.decimate
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    names = ", ".join(short_path(file) for file in files[:3]) + more
    words = f"{names}, converted by the run: {plural(points, 'point', ',')}"
    return DataOutlook(tuple(raw.feature for raw in plans[0].features), None, points, False, words)


def _assumed(experiment: Experiment, why: str) -> DataOutlook:
    """Take the features that the file names, one column each, or some states where it names none."""
    config = experiment.data
    wanted = [name for entry in getattr(experiment.model, "inputs", {}).values() for name in entry.features]
    names = list(dict.fromkeys([*config.map, *config.roles, *wanted]))
    features = [_feature(name, 1, config.roles.get(name, "state")) for name in names]
    if not any(feature.role == "state" for feature in features):
        features.append(_feature("states", ASSUMED_STATES, "state"))
    width = sum(feature.width for feature in features)
    words = (
        f"not there yet ({why}): the numbers assume {plural(width, 'column')} ({', '.join(f.name for f in features)})"
    )
    return DataOutlook(tuple(features), None, None, False, words, assumed=True)


def _feature(name: str, width: int, role: str) -> Feature:
    known = "control" if role == "action" else role
    labels = tuple(f"{name}[{i}]" for i in range(width))
    return Feature(name, width, known, labels, (False,) * width)  # type: ignore[arg-type]  # the file's own literals
