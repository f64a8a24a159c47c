"""The door between the shards and Ray: a data set is read once and lies in the object store of each node.

`load_resident` reads with Ray Data and concatenates in one task; every trial that asks for the result maps the same
memory and copies nothing. It runs before trials start: workers that hold every CPU starve Ray Data without an error.

This is the way while a data set fits into the object store. What is larger would be streamed: blocks of whole episodes
by `streaming_split`, windows cut in `map_batches`, behind the same three members as `windows.WindowSource`.
"""

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data

from ensemble.data.trajectories import (
    EPISODES,
    REBUILD,
    Trajectories,
    describe,
    fill_block,
    read_manifest,
    read_table,
    row_numbers,
    shard_files,
    with_rows,
)
from ensemble.errors import DataError

logger = logging.getLogger(__name__)

_NOISE = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}  # the latter warns of no bars


def load_resident(directory: Path, report: Callable[[str], object] = logger.info) -> "ray.ObjectRef[Trajectories]":
    """Read a shards directory, which every node must see under this path, into Ray's object store.

    Needs a running Ray with a free CPU, and room for the data twice while it loads. `report` is given what Ray Data
    says of the read. Raises DataError that names the shard when one is missing or damaged.
    """
    directory = directory.resolve()
    manifest = read_manifest(directory)
    data = describe(manifest, read_table(directory / EPISODES))
    shards = {directory / file["name"]: file["sha256"] for file in shard_files(manifest)}
    damage = ray.get([_damage.remote(path, sha256) for path, sha256 in shards.items()])
    if any(damage):
        raise DataError("\n".join(filter(None, damage)))
    with _quiet_ray_data():
        blocks = ray.data.read_parquet([str(path) for path in shards], partitioning=None).materialize()
        ref, done = _concatenate.remote(data, directory, *blocks.to_arrow_refs())
    ray.get(done)  # raises here what went wrong there, and fetches nothing to this node
    report(blocks.stats())
    return ref  # type: ignore[no-any-return]  # ray is not typed


def resident(ref: "ray.ObjectRef[Trajectories]") -> Trajectories:
    """Map the data set into this process: no copy is made, and its arrays are read-only.

    Torch ignores the latter: only `windows` may touch `rows`.
    """
    data: Trajectories = ray.get(ref)
    return data


@ray.remote(num_cpus=1)
def _damage(path: Path, sha256: str) -> str | None:
    """Say what is wrong with a shard. Ray Data reads on when a page's own checksum fails (2.60 drops the option)."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path}: missing or damaged shard: {error.strerror}; {REBUILD}"
    return None if found == sha256 else f"{path}: missing or damaged shard: its checksum is wrong; {REBUILD}"


@ray.remote(num_cpus=1, num_returns=2)
def _concatenate(data: Trajectories, directory: Path, *blocks: pa.Table) -> tuple[Trajectories, None]:
    """Put the blocks into one matrix for the object store; the second result says that it is there.

    Each row goes where its episode and step say: Ray Data 2.60 does not keep the order of files, asked to or not.
    """
    rows = np.empty((data.episodes.points.sum(), data.rows.shape[1]), np.float32)
    missing = np.ones(len(rows), np.bool_)
    for block in blocks:
        place = row_numbers(block, data.episodes, directory)
        values = np.empty((len(place), rows.shape[1]), np.float32)
        fill_block(values, block, data.features)
        rows[place] = values
        missing[place] = False
    if missing.any() or sum(map(len, blocks)) != len(rows):
        raise DataError(f"{directory}: the shards do not hold the rows of {EPISODES}; {REBUILD}")
    return with_rows(data, rows), None


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Keep Ray Data's progress bars and reports off the terminal, unless debugging."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context")  # of its defaults
        context = ray.data.DataContext.get_current().copy()
    debugging = logger.isEnabledFor(logging.DEBUG)
    context.enable_progress_bars = debugging
    before = {name: logging.getLogger(name).level for name in _NOISE}
    for name, level in _NOISE.items():
        logging.getLogger(name).setLevel(before[name] if debugging else level)
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
