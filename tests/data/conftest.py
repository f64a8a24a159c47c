"""Shards on disk, written as the converter writes them but in few words."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.data.trajectories import Trajectories


@pytest.fixture
def write_shards() -> Callable[..., Path]:
    """Write a data set of `make_data` into a directory."""
    return write


def write(data: Trajectories, directory: Path, episodes_per_shard: int = 2) -> Path:
    directory.mkdir()
    files = []

    def add(name: str, table: pa.Table, rows_per_group: int) -> None:
        path = directory / name
        pq.write_table(table, path, row_group_size=rows_per_group, write_page_checksum=True, use_dictionary=False)
        files.append(
            {"name": name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        )

    points, first = data.episodes.points, data.episodes.first
    for start in range(0, len(points), episodes_per_shard):
        stop = min(start + episodes_per_shard, len(points))
        rows = slice(first[start], first[stop - 1] + points[stop - 1])
        columns = {
            "episode": np.repeat(np.arange(start, stop), points[start:stop]).astype(np.int32),
            "step": np.concatenate([np.arange(n) for n in points[start:stop]]).astype(np.int32),
        }
        for feature in data.features:
            flat = np.ascontiguousarray(data.rows[rows, data.columns(feature.name)]).reshape(-1)
            columns[feature.name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), feature.width)
        add(f"shard-{start // episodes_per_shard:05d}.parquet", pa.table(columns), int(points[start]))
    table = {
        "episode": np.arange(len(points), dtype=np.int32),
        "key": list(data.keys),
        "points": points.astype(np.int32),
        "split": pa.array(data.given, pa.string()),
        "hash": data.episodes.hashes,
    }
    add("episodes.parquet", pa.table(table), len(points))
    manifest = {
        "format": "ensemble-shards/1",
        "fingerprint": data.fingerprint,
        "dt": data.dt,
        "features": [
            {"name": f.name, "width": f.width, "role": f.role, "labels": list(f.labels), "angles": list(f.angles)}
            for f in data.features
        ],
        "files": files,
        "notices": [],
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory
