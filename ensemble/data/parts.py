"""The shards of one source, written by parallel threads.

Reading, casting, hashing and encoding all release Python's lock. The files do not depend on the number of threads,
since rows alone decide the division into shards.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ensemble.config.data import DataConfig
from ensemble.data.blocks import READ_ROWS, BlockIssues, canonical_block, plan_blocks, split_block
from ensemble.data.layouts.recording import Recording
from ensemble.data.manifest import FileEntry
from ensemble.data.shards import block_batch, content_hashes, shard_schema, write_shard
from ensemble.data.summary import RunningSummary, Summary
from ensemble.errors import DataError
from ensemble.schema import UInt64
from ensemble.store import sha256_file

SHARD_BYTES = 64 << 20  # approximate size of a shard: several per source keep all cores busy


@dataclass(frozen=True, slots=True)
class Job:
    """Settings that the conversions of all sources share."""

    out: Path
    data: DataConfig
    options: str  # hash of the options
    pool: Executor
    advance: Callable[[int], None]  # takes the number of written points


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A written shard, or an empty one without a file."""

    episodes: tuple[int, ...]  # numbers in the recording
    points: tuple[int, ...]
    hashes: UInt64
    summary: Summary | None  # None, as `file`, when all of its episodes were left out
    issues: BlockIssues
    file: FileEntry | None


def write_parts(index: int, recording: Recording, source: Path, first: int, job: Job) -> list[Part]:
    """Write all shards of source number `index`, several at a time; when one fails, all are removed.

    Episodes are numbered from `first` on, left-out ones included.
    """
    stop = threading.Event()
    futures: list[Future[Part]] = []
    for number, blocks in enumerate(_shard_blocks(recording)):
        path = job.out / f"shard-{index:05d}-{number:05d}.parquet"
        writer = _Writer(path, recording, blocks, first + blocks[0][0], source, job, stop)
        futures.append(job.pool.submit(writer.run))
    try:
        return [future.result() for future in futures]
    except BaseException:
        stop.set()
        for future in futures:
            future.cancel()
        # A running writer would create its file again after the removal below.
        wait(futures)
        for number in range(len(futures)):
            (job.out / f"shard-{index:05d}-{number:05d}.parquet").unlink(missing_ok=True)
        raise


def _shard_blocks(recording: Recording) -> list[list[tuple[int, int]]]:
    """Group blocks into shards of about SHARD_BYTES."""
    rows = max(READ_ROWS, SHARD_BYTES // (4 * recording.width + 8))
    blocks = list(plan_blocks(recording.points, READ_ROWS))
    sizes = np.array([recording.points[first:last].sum() for first, last in blocks])
    return [blocks[first:last] for first, last in plan_blocks(sizes, rows)]


@dataclass
class _Writer:
    """Reads, checks and writes the episodes of one shard."""

    path: Path
    recording: Recording
    blocks: list[tuple[int, int]]
    first: int  # number of the first episode
    source: Path
    job: Job
    stop: threading.Event
    issues: BlockIssues = field(default_factory=BlockIssues)
    episodes: list[int] = field(default_factory=list)
    points: list[int] = field(default_factory=list)
    hashes: list[UInt64] = field(default_factory=list)

    def run(self) -> Part:
        """Write the shard and return its description."""
        features = [feature.feature for feature in self.recording.features]
        summary = RunningSummary(features)
        schema = shard_schema(features)
        write_shard(self.path, schema, self._batches(schema, summary))
        if not self.episodes:
            self.path.unlink()
            return Part((), (), np.empty(0, np.uint64), None, self.issues, None)
        size, digest = self.path.stat().st_size, sha256_file(self.path)
        file = FileEntry(name=self.path.name, bytes=size, sha256=digest)
        hashes = np.concatenate(self.hashes)
        return Part(tuple(self.episodes), tuple(self.points), hashes, summary.total, self.issues, file)

    def _batches(self, schema: pa.Schema, summary: RunningSummary) -> Iterator[pa.RecordBatch]:
        data = self.job.data
        for start, end in self.blocks:
            if self.stop.is_set():
                raise DataError(f"{self.source}: given up, since another part of it is bad")
            block, which, issues = canonical_block(self.recording, start, end, data.decimate)
            self.issues.merge(issues)
            for group in split_block(block):
                self.hashes.append(content_hashes(group))
                summary.add(group, self.hashes[-1])
                yield block_batch(group, self.first + len(self.points), schema)
                self.points += group.points.tolist()
            self.episodes += which.tolist()
            self.job.advance(int(self.recording.points[start:end].sum()))
