"""Trajectories as a LeRobot data set of version 3.0, the version that LeRobot writes and reads since its 0.4.

Source: huggingface/lerobot, src/lerobot/datasets/{dataset_metadata,dataset_writer,compute_stats}.py. All states become
the columns of `observation.state` and all controls those of `action`, which is what its policies read; further features
are `auxiliary.<name>` and `output.<name>`. `meta/info.json` is written last: without it the folder is no data set.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.data.layouts.container import Values
from ensemble.data.layouts.described import KEY, Described
from ensemble.data.layouts.folder import LEROBOT_INFO
from ensemble.data.layouts.lerobot.layout import ACTION, INDEX_COLUMNS, STATE
from ensemble.data.trajectories import Trajectories
from ensemble.errors import UsageError
from ensemble.schema import Feature
from ensemble.store import atomic_file, write_json, write_table, write_text

VERSION = "v3.0"
_FILE_BYTES = 100 << 20  # LeRobot's own limit of a file of frames
_CHUNK_FILES = 1000  # files in a folder chunk-000
_WHOLE = 1e-6  # relative distance from a whole number of frames a second that is rounding
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the tables: the features in it, one behind the other, and its values (N, w)."""

    key: str
    features: tuple[Feature, ...]
    values: Values

    def described(self, order: Sequence[Feature]) -> dict[str, Any]:
        """Return the entry of `info.json`; `order` are all features of the data set."""
        if not self.features:
            return {"dtype": str(self.values.dtype), "shape": [1], "names": None}
        firsts = np.cumsum([0, *(feature.width for feature in self.features)]).tolist()
        parts = [
            Described.of(feature, order.index(feature), self.key, first).to_json()
            for feature, first in zip(self.features, firsts, strict=False)
        ]
        names = [label for feature in self.features for label in feature.labels]
        return {"dtype": "float32", "shape": [len(names)], "names": names, "info": {KEY: parts}}

    def array(self, rows: slice) -> pa.Array:
        """Return some rows for a table: numbers, or lists of fixed length for more than one column."""
        part = np.ascontiguousarray(self.values[rows])
        width = part.shape[1]
        return (
            pa.array(part[:, 0]) if width == 1 else pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), width)
        )


def write_lerobot(out: Path, data: Trajectories, task: str) -> list[str]:
    """Write a data set folder and return what it cannot hold, one notice a thing; `task` says what the robot does.

    Raises UsageError without a time step or without a state, StorageError when the disk cannot be written.
    """
    # What is written
    if data.dt is None:
        raise UsageError("LeRobot counts frames a second, and the time step is unknown: give --dt")
    fps = 1 / data.dt
    whole = abs(round(fps) - fps) <= _WHOLE * fps
    columns = [*_features(data), *_indices(data, fps)]
    places = _places(data, columns)

    # Tables of frames and of episodes, tasks and statistics
    for place in dict.fromkeys(places):
        _write_frames(out, place, [i for i, each in enumerate(places) if each == place], data, columns)
    write_table(out / "meta" / "episodes" / "chunk-000" / "file-000.parquet", _episodes(data, columns, places, task))
    write_table(out / "meta" / "tasks.parquet", _tasks(task))
    write_json(out / "meta" / "stats.json", {column.key: _statistics(column.values) for column in columns})

    # The description
    splits = _splits(data.given)
    info = {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": len(data.episodes),
        "total_frames": len(data.rows),
        "total_tasks": 1,
        "chunks_size": _CHUNK_FILES,
        "data_files_size_in_mb": _FILE_BYTES >> 20,
        "video_files_size_in_mb": 200,
        "fps": round(fps) if whole else fps,
        "splits": splits or {"train": f"0:{len(data.episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": {column.key: column.described(data.features) for column in columns},
    }
    write_text(out / LEROBOT_INFO, json.dumps(info, indent=4) + "\n")  # in the order of the columns
    return _notices(data, columns, fps, whole, bool(splits))


def _features(data: Trajectories) -> list[_Column]:
    """Return the columns of the features: all states, all controls, and the others each."""
    groups = {STATE: [f for f in data.features if f.role == "state"]}
    groups |= {ACTION: [f for f in data.features if f.role == "control"]}
    groups |= {f"{f.role}.{f.name}": [f] for f in data.features if f.role not in ("state", "control")}
    if not groups[STATE]:
        raise UsageError("no feature has the role state, which LeRobot calls observation.state: give --role NAME=state")
    columns = []
    for key, features in groups.items():
        if features:
            values = np.concatenate([data.rows[:, data.columns(feature.name)] for feature in features], axis=1)
            columns.append(_Column(key, tuple(features), _held(values, data) if key == ACTION else values))
    return columns


def _held(actions: Values, data: Trajectories) -> Values:
    """Return the actions with the last row of each episode, which nothing follows, as the row before it."""
    last = data.episodes.first + data.episodes.points - 1
    held = actions.copy()
    held[last] = actions[last - 1]
    return held


def _indices(data: Trajectories, fps: float) -> list[_Column]:
    """Return the columns that every data set has."""
    step = np.arange(len(data.rows)) - np.repeat(data.episodes.first, data.episodes.points)
    values: dict[str, Values] = {
        "timestamp": (step / fps).astype(np.float32),
        "frame_index": step,
        "episode_index": np.repeat(np.arange(len(data.episodes)), data.episodes.points),
        "index": np.arange(len(data.rows)),
        "task_index": np.zeros(len(data.rows), np.int64),
    }
    assert values.keys() == set(INDEX_COLUMNS)
    return [_Column(key, (), each[:, None]) for key, each in values.items()]


def _places(data: Trajectories, columns: Sequence[_Column]) -> list[tuple[int, int]]:
    """Return the chunk and the file of each episode."""
    width = sum(column.values.shape[1] * column.values.itemsize for column in columns)
    before = (data.episodes.first * width) // _FILE_BYTES  # files of equal size; an episode is in that of its beginning
    number = np.unique(before, return_inverse=True)[1]
    return [(int(n) // _CHUNK_FILES, int(n) % _CHUNK_FILES) for n in number]


def _write_frames(
    out: Path, place: tuple[int, int], episodes: Sequence[int], data: Trajectories, columns: Sequence[_Column]
) -> None:
    """Write the frames of some episodes, one row group an episode."""
    path = out / "data" / f"chunk-{place[0]:03d}" / f"file-{place[1]:03d}.parquet"
    writer = None
    with atomic_file(path) as temporary:
        for episode in episodes:
            first = int(data.episodes.first[episode])
            rows = slice(first, first + int(data.episodes.points[episode]))
            table = pa.table({column.key: column.array(rows) for column in columns})
            writer = writer or pq.ParquetWriter(temporary, table.schema, write_page_checksum=True)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def _episodes(data: Trajectories, columns: Sequence[_Column], places: Sequence[tuple[int, int]], task: str) -> pa.Table:
    """Return the table of `meta/episodes`: where the frames of each episode are, and their statistics."""
    first, points = data.episodes.first, data.episodes.points
    table: dict[str, Any] = {
        "episode_index": np.arange(len(points)),
        "tasks": [[task]] * len(points),
        "length": points,
        "data/chunk_index": [chunk for chunk, _ in places],
        "data/file_index": [file for _, file in places],
        "dataset_from_index": first,
        "dataset_to_index": first + points,
        "meta/episodes/chunk_index": np.zeros(len(points), np.int64),
        "meta/episodes/file_index": np.zeros(len(points), np.int64),
    }
    for column in columns:
        each = [_statistics(column.values[a : a + n]) for a, n in zip(first, points, strict=True)]
        table |= {f"stats/{column.key}/{name}": [statistics[name] for statistics in each] for name in each[0]}
    return pa.table(table)


def _statistics(values: Values) -> dict[str, list[Any]]:
    """Return what LeRobot normalizes with: of each column of (n, w), over all frames."""
    quantiles = np.quantile(values, list(_QUANTILES.values()), axis=0)
    return {
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "mean": values.mean(axis=0, dtype=np.float64).tolist(),
        "std": values.std(axis=0, dtype=np.float64).tolist(),
        "count": [len(values)],
        **{name: row.tolist() for name, row in zip(_QUANTILES, quantiles, strict=True)},
    }


def _tasks(task: str) -> pa.Table:
    """Return `meta/tasks.parquet`: numbers of tasks, under their texts as the index that pandas reads."""
    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
        for name, kind, numpy_kind in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array([0], pa.int64()), "task": [task]})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _splits(given: Sequence[str | None]) -> dict[str, str] | None:
    """Return the ranges of the given splits, None without any or where they are no ranges of episodes."""
    starts = [i for i in range(len(given)) if i == 0 or given[i] != given[i - 1]]
    names = [given[start] for start in starts]
    if None in names or len(set(names)) < len(names):
        return None
    stops = [*starts[1:], len(given)]
    return {str(name): f"{a}:{b}" for name, a, b in zip(names, starts, stops, strict=True)}


def _notices(data: Trajectories, columns: Sequence[_Column], fps: float, whole: bool, split: bool) -> list[str]:
    """Return what the folder cannot hold, and what stands there instead."""
    notices = []
    if any(column.key == ACTION for column in columns):
        notices.append("the last frame of each episode repeats the action before it: LeRobot has an action every frame")
    for column in columns:
        if len(column.features) > 1:
            notices.append(f"{column.key} holds {', '.join(f.name for f in column.features)}, in this order")
        elif column.features and column.features[0].name != column.key:
            notices.append(f"{column.features[0].name} is called {column.key}")
    if not whole:
        notices.append(f"{fps:.6g} frames a second are no whole number, as LeRobot's own are")
    if any(data.given) and not split:
        notices.append("the given splits are no ranges of episodes, and LeRobot has no others: all are in train")
    notices.append("LeRobot numbers its episodes: their names are not kept")
    return notices
