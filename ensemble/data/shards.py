"""Shards: Parquet files of whole episodes, with the columns `episode`, `step` and one fixed-size list per feature.

Written without dictionaries, compression or statistics, which cost more time than they save bytes on noise-like floats;
every page has a checksum, every row group holds whole episodes.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.data.trajectories import REBUILD
from ensemble.errors import DataError
from ensemble.schema import EpisodeBlock, Feature, Float32, Int64, UInt64
from ensemble.store import atomic_file

EPISODE_COLUMNS = pa.schema(
    [
        pa.field("episode", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("points", pa.int32(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("hash", pa.uint64(), nullable=False),
    ]
)

_MASKS = pa.field("masks", pa.list_(pa.string()), nullable=False)

_OPTIONS: dict[str, Any] = {
    "compression": "none",
    "use_dictionary": False,
    "write_statistics": False,
    "write_page_checksum": True,
    "write_batch_size": 1 << 18,  # values per encoding step: fewer, larger steps are a third faster
}


def shard_schema(features: Sequence[Feature]) -> pa.Schema:
    """Return the columns of a shard."""
    element = pa.field("element", pa.float32(), nullable=False)
    fields = [pa.field(name, pa.int32(), nullable=False) for name in ("episode", "step")]
    fields += [pa.field(f.name, pa.list_(element, f.width), nullable=False) for f in features]
    return pa.schema(fields)


def write_shard(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write a shard, one row group per batch; on StorageError (full disk) there is no file."""
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema, **_OPTIONS) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=max(1, len(batch)))


def block_batch(block: EpisodeBlock, first: int, schema: pa.Schema) -> pa.RecordBatch:
    """Return a block as rows of a shard, its episodes numbered from `first` on."""
    ends = np.cumsum(block.points)
    episode = np.repeat(np.arange(first, first + len(ends), dtype=np.int32), block.points)
    starts = (ends - block.points).astype(np.int32)
    step = np.arange(ends[-1], dtype=np.int32) - np.repeat(starts, block.points)
    columns = [pa.array(episode), pa.array(step)]
    for name, values in block.features.items():
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=schema.field(name).type))
    return pa.record_batch(columns, schema=schema)


def read_shard(path: Path, features: Sequence[Feature]) -> Iterator[EpisodeBlock]:
    """Yield the row groups of a shard with verified checksums; keys are the numbers of the episodes.

    Raises DataError with the path when the shard is damaged.
    """
    for batch in _row_groups(path):
        episode = batch["episode"].to_numpy()
        starts = np.flatnonzero(np.diff(episode, prepend=episode[0] - 1))
        points = np.diff(np.append(starts, len(episode)))
        values = {f.name: _matrix(batch[f.name], f.width) for f in features}
        yield EpisodeBlock(tuple(str(i) for i in episode[starts]), points, values)


def renumber(path: Path, shift: int) -> None:
    """Add `shift` to the numbers of a shard's episodes."""
    schema = pq.read_schema(path)
    write_shard(path, schema, (_shifted(batch, shift) for batch in _row_groups(path)))


def content_hashes(block: EpisodeBlock) -> UInt64:
    """Return the hash of each episode: eight bytes of blake2b over its rows, feature after feature."""
    ends = np.cumsum(block.points)
    features = list(block.features.values())
    return np.array(
        [_content_hash(features, int(a), int(b)) for a, b in zip(ends - block.points, ends, strict=True)],
        dtype=np.uint64,
    )


def episode_table(
    keys: Sequence[str],
    sources: Sequence[str],
    points: Int64,
    shards: Int64,
    splits: Sequence[str | None],
    hashes: UInt64,
    masks: Sequence[Sequence[str]] = (),
) -> pa.Table:
    """Return the table of episodes; all arguments have one entry per episode; masks get a column where any is."""
    columns = [np.arange(len(keys)), list(keys), list(sources), points, shards, list(splits), hashes]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, EPISODE_COLUMNS, strict=True)]
    table = pa.table(arrays, schema=EPISODE_COLUMNS)
    return table.append_column(_MASKS, pa.array(list(map(list, masks)), _MASKS.type)) if any(masks) else table


def _content_hash(features: Sequence[Float32], start: int, stop: int) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for rows in features:
        digest.update(rows[start:stop].data.cast("B"))
    return int.from_bytes(digest.digest(), "little")


def _row_groups(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False).combine_chunks()
                yield from table.to_batches()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: missing or damaged shard: {error}; {REBUILD}") from error


def _matrix(values: pa.FixedSizeListArray, width: int) -> Float32:
    flat: Float32 = values.flatten().to_numpy()
    return flat.reshape(-1, width)


def _shifted(batch: pa.RecordBatch, shift: int) -> pa.RecordBatch:
    episode = batch["episode"].to_numpy() + np.int32(shift)
    return pa.record_batch([pa.array(episode), *batch.columns[1:]], schema=batch.schema)
