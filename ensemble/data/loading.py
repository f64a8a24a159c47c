"""Shards into Ray: a data set is read once into the object store of each node.

Every trial that gets the result of `load_resident` maps the same memory without a copy. Small data are read by this
process: Ray Data starts tens of processes for one shard. A large data set is read by Ray Data on all nodes and
concatenated in one task. It is read before trials start: workers that hold every CPU starve Ray Data without an error.

This works while a data set fits into the object store. A larger one would be streamed: blocks of whole episodes by
`streaming_split`, windows cut in `map_batches`, behind the same three members as `windows.WindowSource`.
"""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data

from ensemble.data.trajectories import (
    REBUILD,
    Trajectories,
    describe,
    fill_block,
    read_episodes,
    read_manifest,
    read_trajectories,
    row_numbers,
    shard_files,
    with_rows,
)
from ensemble.errors import DataError
from ensemble.text import plural

logger = logging.getLogger(__name__)

DIRECT_BYTES = 256 * 2**20  # of rows in memory, up to which this process reads them itself

# The second one warns that there are no progress bars.
_LOG_LEVELS = {"ray.data": logging.CRITICAL, "ray.data._internal.progress": logging.CRITICAL}


def load_resident(directory: Path, report: Callable[[str], object] = logger.info) -> "ray.ObjectRef[Trajectories]":
    """Read a shards directory, which every node must see under this path, into Ray's object store.

    Needs a running Ray with a free CPU, and memory for the data twice while it loads. `report` gets a line, or Ray
    Data's statistics, of the read. Raises DataError with the path of a missing or damaged shard.
    """
    directory = directory.resolve()
    manifest = read_manifest(directory)
    data = describe(manifest, read_episodes(directory))
    shards = {directory / file["name"]: file["sha256"] for file in shard_files(manifest)}
    points, width = int(data.episodes.points.sum()), data.rows.shape[1]
    if points * width * data.rows.itemsize > DIRECT_BYTES:
        return _read_with_ray_data(data, directory, shards, report)
    _refuse_damage([_damage(path, sha256) for path, sha256 in shards.items()])
    ref: ray.ObjectRef[Trajectories] = ray.put(read_trajectories(directory))
    report(f"Read {plural(points, 'row')} of {plural(len(shards), 'shard')} in this process")
    return ref


def _read_with_ray_data(
    data: Trajectories, directory: Path, shards: Mapping[Path, str], report: Callable[[str], object]
) -> "ray.ObjectRef[Trajectories]":
    """Read the rows in blocks on all nodes, and concatenate them into one matrix."""
    damage = ray.remote(num_cpus=1)(_damage)
    _refuse_damage(ray.get([damage.remote(path, sha256) for path, sha256 in shards.items()]))
    with _quiet_ray_data():
        blocks = ray.data.read_parquet([str(path) for path in shards], partitioning=None).materialize()
        ref, done = _concatenate.remote(data, directory, *blocks.to_arrow_refs())
    # Raises the task's error without fetching the matrix to this node.
    ray.get(done)
    report(blocks.stats())
    return ref  # type: ignore[no-any-return]  # ray is not typed


def _refuse_damage(found: Sequence[str | None]) -> None:
    if any(found):
        raise DataError("\n".join(filter(None, found)))


def resident(ref: "ray.ObjectRef[Trajectories]") -> Trajectories:
    """Map the data set into this process without a copy; its arrays are read-only.

    Torch ignores read-only flags, so `rows` must be read through `windows` alone.
    """
    data: Trajectories = ray.get(ref)
    return data


def _damage(path: Path, sha256: str) -> str | None:
    """Return what is wrong with a shard, or None."""
    # Ray Data 2.60 drops the option that verifies page checksums and reads damaged pages without an error.
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path}: missing or damaged shard: {error.strerror}; {REBUILD}"
    return None if actual == sha256 else f"{path}: missing or damaged shard: its checksum is wrong; {REBUILD}"


@ray.remote(num_cpus=1, num_returns=2)
def _concatenate(data: Trajectories, directory: Path, *blocks: pa.Table) -> tuple[Trajectories, None]:
    """Copy the blocks into one matrix for the object store; the second result can be waited for without the first."""
    rows = np.empty((data.episodes.points.sum(), data.rows.shape[1]), np.float32)
    missing = np.ones(len(rows), np.bool_)
    for block in blocks:
        # By episode and step: Ray Data 2.60 does not keep the order of files, not even with preserve_order.
        numbers = row_numbers(block, data.episodes, directory)
        values = np.empty((len(numbers), rows.shape[1]), np.float32)
        fill_block(values, block, data.features)
        rows[numbers] = values
        missing[numbers] = False
    if missing.any() or sum(map(len, blocks)) != len(rows):
        raise DataError(f"{directory}: the shards do not hold the rows of the table of episodes; {REBUILD}")
    return with_rows(data, rows), None


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Turn off Ray Data's progress bars and reports, unless the log level is DEBUG."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context")  # of its defaults
        context = ray.data.DataContext.get_current().copy()
    debugging = logger.isEnabledFor(logging.DEBUG)
    context.enable_progress_bars = debugging
    context.use_datasource_v2 = False  # version 2 reads the footers of few shards with 32 processes
    before = {name: logging.getLogger(name).level for name in _LOG_LEVELS}
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(before[name] if debugging else level)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
