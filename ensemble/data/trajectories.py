"""A converted data set in memory: every point of every episode as one row of one matrix.

Splits, windows and statistics are arithmetic on its row numbers. This module reads shards without Ray; `loading.py`
shares one such matrix between the trials of a node.
"""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.data import notes
from ensemble.errors import DataError, UsageError
from ensemble.schema import Feature, Float32, Int64, UInt64
from ensemble.store import arrow_file
from ensemble.text import did_you_mean

FORMAT = "ensemble-shards/1"
REBUILD = "rebuild with `ensemble convert`"
_KEYS = {"fingerprint": str, "features": list, "files": list, "notices": list}  # of a manifest, with their types


@dataclass(frozen=True, eq=False, slots=True)
class Segments:
    """Contiguous pieces of episodes, as rows of `Trajectories.rows`: whole episodes or blocks of time."""

    first: Int64  # (m,) row of the first point
    points: Int64  # (m,) number of points; one more than its transitions
    hashes: UInt64  # (m,) content hash of its episode

    def __len__(self) -> int:
        return len(self.first)

    def take(self, which: Int64) -> Self:
        """Return the pieces numbered in `which` (k,), in that order."""
        return type(self)(self.first[which], self.points[which], self.hashes[which])

    def row_chunks(self, size: int, trim: int = 0) -> Iterator[Int64]:
        """Yield the row numbers of all points but the last `trim` of each piece, at most `size` at a time."""
        kept = np.maximum(self.points - trim, 0)
        ends = np.cumsum(kept)
        shift = self.first - (ends - kept)  # row number minus running number, constant within a piece
        total = int(ends[-1]) if len(ends) else 0
        for start in range(0, total, size):
            running = np.arange(start, min(start + size, total))
            yield running + shift[np.searchsorted(ends, running, side="right")]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Trajectories:
    """A whole data set: `rows` is read-only, episodes are concatenated along rows, features along columns."""

    rows: Float32  # (N, D)
    features: tuple[Feature, ...]  # in the order of the manifest
    episodes: Segments  # all of them, in order
    keys: tuple[str, ...]  # one name per episode
    given: tuple[str | None, ...]  # the split that the source defines, if any
    fingerprint: str
    dt: float | None  # seconds between two points
    masks: tuple[tuple[str, ...], ...] = ()  # names of the source's subsets that an episode is in; () without any

    def columns(self, feature: str) -> slice:
        """Return the columns of a feature; UsageError with the nearest name when there is none."""
        offset = 0
        for candidate in self.features:
            if candidate.name == feature:
                return slice(offset, offset + candidate.width)
            offset += candidate.width
        names = [candidate.name for candidate in self.features]
        raise UsageError(f"no feature '{feature}' in the data{did_you_mean(feature, names)}; it has {', '.join(names)}")

    def episode_of(self, rows: Int64) -> Int64:
        """Return the number of the episode of each of `rows` (k,)."""
        return np.searchsorted(self.episodes.first, rows, side="right") - 1

    def feature(self, name: str) -> Feature:
        """Return the feature of this name; UsageError with the nearest name when there is none."""
        self.columns(name)
        return next(feature for feature in self.features if feature.name == name)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest of a shards directory; DataError when it is missing, damaged or of another format."""
    path = notes.existing_path(directory, notes.MANIFEST)
    if not path.is_file():
        raise DataError(f"{directory}: not a data set: no manifest in its {notes.FOLDER} ({REBUILD})")
    try:
        manifest = json.loads(notes.read_note(path))
    except DataError as error:
        raise DataError(f"{error}; {REBUILD}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged: {error}; {REBUILD}") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise DataError(f"{path}: format {version!r} instead of {FORMAT!r}; {REBUILD}")
    lacking = [key for key, kind in _KEYS.items() if not isinstance(manifest.get(key), kind)]
    if lacking:
        raise DataError(f"{path}: damaged: no '{lacking[0]}'; {REBUILD}")
    return manifest  # type: ignore[no-any-return]  # it is a dict: checked above


def read_trajectories(directory: Path) -> Trajectories:
    """Read a shards directory into memory and verify page checksums.

    Raises DataError with the path of a missing or damaged shard.
    """
    manifest = read_manifest(directory)
    data = describe(manifest, read_episodes(directory))
    rows = np.empty((data.episodes.points.sum(), sum(feature.width for feature in data.features)), np.float32)
    filled = 0
    for file in shard_files(manifest):
        filled = _fill(rows, filled, directory / file["name"], data)
    if filled != len(rows):
        raise DataError(f"{directory}: {filled} rows in the shards, {len(rows)} in the table of episodes; {REBUILD}")
    return with_rows(data, rows)


def describe(manifest: dict[str, Any], episodes: pa.Table) -> Trajectories:
    """Return the data set of a manifest and its episode table, without rows."""
    points = episodes["points"].to_numpy().astype(np.int64)
    if not len(points):
        raise DataError("the data set holds 0 episodes")
    return Trajectories(
        rows=np.empty((0, sum(feature["width"] for feature in manifest["features"])), np.float32),
        features=tuple(
            Feature(f["name"], f["width"], f["role"], tuple(f["labels"]), tuple(f["angles"]))
            for f in manifest["features"]
        ),
        episodes=Segments(np.cumsum(points) - points, points, episodes["hash"].to_numpy().astype(np.uint64)),
        keys=tuple(episodes["key"].to_pylist()),
        given=tuple(episodes["split"].to_pylist()),
        fingerprint=manifest["fingerprint"],
        dt=manifest["dt"],
        masks=tuple(map(tuple, episodes["masks"].to_pylist())) if "masks" in episodes.column_names else (),
    )


def with_rows(data: Trajectories, rows: Float32) -> Trajectories:
    """Return the data set with these rows (N, D), which become read-only."""
    assert rows.dtype == np.float32
    assert rows.shape == (data.episodes.points.sum(), data.rows.shape[1])
    rows.setflags(write=False)
    return replace(data, rows=rows)


def shard_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return name, bytes and sha256 of the shards, in the order of their episodes."""
    return sorted((f for f in manifest["files"] if f["name"].startswith("shard-")), key=lambda f: str(f["name"]))


def read_episodes(directory: Path) -> pa.Table:
    """Read the table of episodes and verify its checksum; DataError with its path when that fails."""
    path = notes.existing_path(directory, notes.EPISODES)
    try:
        if path == notes.earlier_path(directory, notes.EPISODES):
            return pq.read_table(path, page_checksum_verification=True, partitioning=None)
        return pq.read_table(arrow_file(base64.b64decode(notes.read_note(path))))
    except (pa.ArrowException, OSError, ValueError, DataError) as error:
        raise DataError(f"{path}: missing or damaged: {error}; {REBUILD}") from error


def episodes_text(table: pa.Table) -> str:
    """Return the table of episodes as the text of a note: a Parquet file in base64."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def fill_block(rows: Float32, table: pa.Table | pa.RecordBatch, features: tuple[Feature, ...]) -> None:
    """Copy the feature columns of a shard's table into `rows` (n, D)."""
    offset = 0
    for feature in features:
        values = table[feature.name]
        chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
        flat = np.concatenate([chunk.flatten().to_numpy() for chunk in chunks])
        rows[:, offset : offset + feature.width] = flat.reshape(len(rows), feature.width)
        offset += feature.width


def _fill(rows: Float32, start: int, path: Path, data: Trajectories) -> int:
    """Copy one shard into `rows` from row `start` on and return the row after its last."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                stop = start + len(table)
                if not np.array_equal(row_numbers(table, data.episodes, path), np.arange(start, stop)):
                    raise DataError(f"{path}: its episodes are not in the order of the table of episodes; {REBUILD}")
                fill_block(rows[start:stop], table, data.features)
                start = stop
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: missing or damaged shard: {error}; {REBUILD}") from error
    return start


def row_numbers(table: pa.Table, episodes: Segments, path: Path) -> Int64:
    """Return the row number (n,) of each point of a shard's table; DataError for points of other episodes."""
    number = table["episode"].to_numpy().astype(np.int64)
    step = table["step"].to_numpy().astype(np.int64)
    valid = (number >= 0) & (number < len(episodes)) & (step >= 0)
    # Only where the number is valid: others would index beyond the episodes.
    valid[valid] &= step[valid] < episodes.points[number[valid]]
    if not valid.all():
        raise DataError(f"{path}: its episodes are not those of the table of episodes; {REBUILD}")
    rows: Int64 = episodes.first[number] + step
    return rows
