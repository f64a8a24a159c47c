"""Features and size of an experiment's data before they are converted or simulated.

From the manifest if the shards exist; else from the headers of the files; else from a simulation of two points in a
temporary folder. Without any data, features are assumed and the description says so.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from ensemble.config.data import DataConfig, SimulateConfig
from ensemble.config.experiment import Experiment
from ensemble.data.notes import has_manifest
from ensemble.data.trajectories import describe, read_episodes, read_manifest
from ensemble.errors import DataError
from ensemble.schema import Feature
from ensemble.study.prepare import planned_shards, short_path, source_paths
from ensemble.text import plural

ASSUMED_STATES = 4


@dataclass(frozen=True)
class DataOutlook:
    """Features and size of the data; `ready` is whether their shards exist."""

    features: tuple[Feature, ...]
    episodes: int | None
    points: int | None
    ready: bool
    description: str  # origin and size, for the user
    assumed: bool = False  # whether the features are assumed, without data

    @property
    def bytes(self) -> int:
        """Bytes of all points in memory, float32; 0 where their number is unknown."""
        return 4 * (self.points or 0) * sum(feature.width for feature in self.features)


def data_outlook(experiment: Experiment, base_dir: Path, results: Path) -> DataOutlook:
    """Return features and size of the data; `base_dir` is the experiment file's folder, `results` as in `prepare`."""
    config = experiment.data
    try:
        shards = planned_shards(config, base_dir, results)
        if has_manifest(shards):
            return _described(shards)
        if config.path is None:
            return _simulated(config, experiment)
        return _headers(config, source_paths(config, base_dir))
    # A plan is useful before there are data; `tune` reports the same error when it needs them.
    except DataError as error:
        return _assumed(experiment, str(error))


def _described(shards: Path) -> DataOutlook:
    data = describe(read_manifest(shards), read_episodes(shards))
    points = int(data.episodes.points.sum())
    size = f"{plural(len(data.episodes), 'episode', ',')}, {plural(points, 'point', ',')}"
    return DataOutlook(data.features, len(data.episodes), points, True, f"{short_path(shards)}: {size}")


def _simulated(config: DataConfig, experiment: Experiment) -> DataOutlook:
    from ensemble.simulation import simulate  # imports MuJoCo

    assert config.source is not None  # DataConfig requires a source or a path
    amount = config.simulate
    with tempfile.TemporaryDirectory() as folder:
        probe = SimulateConfig(episodes=1, steps=2, seed=amount.seed, passive=amount.passive)
        raw = simulate(config.source, probe, Path(folder) / "probe.h5")
        outlook = _headers(config, [raw])
    points = amount.episodes * (amount.steps // config.decimate + 1)
    size = f"{plural(amount.episodes, 'episode', ',')}, {plural(points, 'point', ',')}"
    description = f"{config.source}, simulated by the run: {size}"
    return replace(outlook, episodes=amount.episodes, points=points, description=description)


def _headers(config: DataConfig, files: list[Path]) -> DataOutlook:
    from ensemble.data.sources import plan_source  # imports h5py

    plans = [plan_source(file, config) for file in files]
    points = sum(each.points for each in plans) // config.decimate
    names = ", ".join(short_path(file) for file in files[:3]) + (
        f" and {len(files) - 3} more" if len(files) > 3 else ""
    )
    description = f"{names}, converted by the run: {plural(points, 'point', ',')}"
    return DataOutlook(tuple(raw.feature for raw in plans[0].features), None, points, False, description)


def _assumed(experiment: Experiment, why: str) -> DataOutlook:
    """Return the features that the experiment file names, one column each, with at least one state."""
    config = experiment.data
    inputs = [name for entry in getattr(experiment.model, "inputs", {}).values() for name in entry.features]
    names = list(dict.fromkeys([*config.map, *config.roles, *inputs]))
    features = [_feature(name, 1, config.roles.get(name, "state")) for name in names]
    if not any(feature.role == "state" for feature in features):
        features.append(_feature("states", ASSUMED_STATES, "state"))
    width = sum(feature.width for feature in features)
    description = (
        f"not there yet ({why}): the numbers assume {plural(width, 'column')} ({', '.join(f.name for f in features)})"
    )
    return DataOutlook(tuple(features), None, None, False, description, assumed=True)


def _feature(name: str, width: int, role: str) -> Feature:
    known = "control" if role == "action" else role
    labels = tuple(f"{name}[{i}]" for i in range(width))
    return Feature(name, width, known, labels, (False,) * width)  # type: ignore[arg-type]  # the file's own literals
