"""The manifest: the content of a directory of shards. It is written last; without it there is no data set."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.config.data import DataConfig
from ensemble.data import notes, trajectories
from ensemble.data.shards import shard_schema
from ensemble.errors import DataError
from ensemble.schema import Feature, FeatureRole, UInt64

FORMAT = trajectories.FORMAT
# Options of `data:` that determine the content of shards.
CONTENT_OPTIONS = {
    *("layout", "map", "features", "roles", "angles", "dt", "decimate"),
    *("drop_bad_episodes", "cut_at_jumps", "episode_column", "time_axis"),
}


class Entry(BaseModel):
    """A part of the manifest: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FeatureEntry(Entry):
    """A feature of the data set."""

    name: str
    width: int
    role: FeatureRole
    labels: tuple[str, ...]
    source_dtype: str
    angles: tuple[bool, ...]

    @property
    def feature(self) -> Feature:
        """The feature without its source dtype."""
        return Feature(self.name, self.width, self.role, self.labels, self.angles)


class FileEntry(Entry):
    """A file of the directory."""

    name: str
    bytes: int
    sha256: str


class SourceEntry(Entry):
    """A converted file, by its name without the directory."""

    path: str
    bytes: int
    sha256: str


class SkippedEntry(Entry):
    """A left-out file."""

    source: str
    reason: str


class FeatureStatistics(Entry):
    """Statistics of a feature's columns over all episodes, angles not wrapped; see `summary.py`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    min: tuple[float, ...]
    max: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    count: int


class Manifest(Entry):
    """A data set of shards."""

    format: str = FORMAT
    layout: str
    options: str  # hash of the options of the conversion
    fingerprint: str
    dt: float | None
    features: tuple[FeatureEntry, ...]
    episodes: int
    points: int
    transitions: int
    files: tuple[FileEntry, ...]  # shards in the order of their episodes, then the table of episodes
    statistics: dict[str, FeatureStatistics]
    quantiles: str  # method of q01 and q99
    sources: tuple[SourceEntry, ...]
    notices: tuple[str, ...]
    skipped: tuple[SkippedEntry, ...]

    def write(self, directory: Path) -> None:
        """Write the manifest, the last file of a conversion."""
        schema = shard_schema([entry.feature for entry in self.features])
        notes.write_note(directory, notes.MANIFEST, self.model_dump_json(indent=1) + "\n", schema)

    def is_whole(self, directory: Path) -> bool:
        """Return whether all files exist with their sizes."""
        paths = [(directory / file.name, file.bytes) for file in self.files]
        return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of a directory; DataError when it is missing, damaged or of another format."""
    trajectories.read_manifest(directory)
    path = notes.existing_path(directory, notes.MANIFEST)
    try:
        return Manifest.model_validate_json(notes.read_note(path))
    except ValidationError as error:
        raise DataError(f"{path}: damaged: {error.errors()[0]['msg']}; {trajectories.REBUILD}") from error


def options_hash(data: DataConfig) -> str:
    """Return a hash of the options that determine the content of the shards."""
    text = FORMAT + data.model_dump_json(include=CONTENT_OPTIONS)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(features: Sequence[Feature], hashes: Iterable[UInt64]) -> str:
    """Return the identity of a data set: names, widths, roles and angles of features, then the episodes' hashes."""
    # `<u8`: the same bytes on a big-endian machine.
    digest = hashlib.sha256(repr([(f.name, f.width, f.role, tuple(f.angles)) for f in features]).encode())
    for part in hashes:
        digest.update(part.astype("<u8").tobytes())
    return digest.hexdigest()
