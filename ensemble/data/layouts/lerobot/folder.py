"""A LeRobot data set as a Container: the columns of its Parquet files as arrays of one row a frame, in the root group.

Source: huggingface/lerobot, src/lerobot/datasets/{utils,io_utils,dataset_metadata}.py. `meta/info.json` names features,
files and counts. Version 2 has a Parquet file for each episode and `meta/episodes.jsonl`; version 3 has many episodes
in a file and `meta/episodes/`. Files are opened for each read, so that threads share none.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.data.layouts.container import ArrayInfo, Values, check_dtype, check_size
from ensemble.data.layouts.file_kinds import POINTER, WHY_POINTER
from ensemble.data.layouts.folder import LEROBOT_INFO
from ensemble.errors import DataError
from ensemble.text import parse_json

EPISODE = "episode_index"
_VERSIONS = ("v2.", "v3.")


@dataclass(frozen=True, slots=True)
class EpisodeEntry:
    """An episode as `meta/` describes it."""

    index: int
    length: int | None
    file: Path  # with its frames, relative to the folder
    tasks: tuple[str, ...]


class LeRobotFolder:
    """A folder with `meta/info.json` as a Container."""

    def __init__(self, path: Path):
        self.path = path
        self.info = _json_object(path / LEROBOT_INFO)
        self.version = str(self.info.get("codebase_version", ""))
        if not self.version.startswith(_VERSIONS):
            raise DataError(f"{path / LEROBOT_INFO}: codebase_version '{self.version}'; versions 2 and 3 are read")
        self.features = _checked_features(path / LEROBOT_INFO, self.info.get("features"))
        self.entries = self._episode_entries()
        self.files = tuple(dict.fromkeys(entry.file for entry in self.entries))
        self.missing = tuple(file for file in self.files if not (path / file).is_file())
        present = [file for file in self.files if file not in self.missing]
        self._rows = {file: self._metadata(file).num_rows for file in present}
        self._schema = self._metadata(present[0]).schema.to_arrow_schema() if present else pa.schema([])

    def names(self, group: str = "") -> list[str]:
        """Return the columns of the tables; [] for any group but the root."""
        return list(self._schema.names) if not group else []

    def has(self, key: str) -> bool:
        """Return whether a column has this name, or the description of the folder."""
        return key == LEROBOT_INFO or self.is_array(key)

    def is_array(self, key: str) -> bool:
        """Return whether a column has this name."""
        return key in self._schema.names

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration of a column: its shape is that of `info.json`; DataError when it must not be read."""
        if not self.is_array(key):
            raise DataError(f"{self.path}: no column '{key}' in {self.files[0] if self.files else 'its tables'}")
        shape = self.features.get(key, {}).get("shape") or [1]
        kind = self._schema.field(key).type
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        dtype = np.dtype(kind.to_pandas_dtype()) if pa.types.is_primitive(kind) else np.dtype(object)
        info = ArrayInfo(key, (sum(self._rows.values()), math.prod(shape)), dtype)
        check_dtype(self.path, info)
        check_size(self.path, key, info.bytes)
        return info

    def read(self, key: str, *where: slice) -> Values:
        """Read a column or some of its rows, (frames, width); DataError when a file is damaged."""
        info = self.array(key)
        start, stop, _ = (where[0] if where else slice(None)).indices(info.shape[0])
        parts, first = [np.empty((0, info.shape[1]), info.dtype)], 0
        for file, rows in self._rows.items():
            low, high = max(start - first, 0), min(stop - first, rows)
            if low < high:
                parts.append(self._part(file, info, low, high))
            first += rows
        return np.concatenate(parts)

    def text(self, key: str) -> list[str]:
        """Raise DataError: texts of a LeRobot folder are tasks, which are not read."""
        raise DataError(f"{self.path}: no array of names '{key}'")

    def attribute(self, group: str, name: str) -> Any:
        """Return None: a LeRobot folder has no attributes but those of `info.json`."""
        return None

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def _part(self, file: Path, info: ArrayInfo, low: int, high: int) -> Values:
        """Read the frames `low` to `high` - 1 of a file, from the row groups that hold them."""
        with self._as_data_error(file), pq.ParquetFile(self.path / file, page_checksum_verification=True) as table:
            sizes = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
            ends = np.cumsum(sizes)
            groups = [i for i, end in enumerate(ends) if end > low and end - sizes[i] < high]
            before = int(ends[groups[0]] - sizes[groups[0]])
            column = table.read_row_groups(groups, columns=[info.key], use_threads=False)[info.key].combine_chunks()
        values = _flat(column)
        if len(values) != sum(sizes[i] for i in groups) * info.shape[1]:
            raise DataError(
                f"{self.path / file}: {info.key} has rows of other lengths than the {info.shape[1]} of {LEROBOT_INFO}"
            )
        return values.reshape(-1, info.shape[1])[low - before : high - before]

    def _metadata(self, file: Path) -> pq.FileMetaData:
        with self._as_data_error(file):
            return pq.read_metadata(self.path / file)

    def _episode_entries(self) -> tuple[EpisodeEntry, ...]:
        """Return the episodes in order, as `meta/` lists them; DataError where it does not."""
        rows = self._episodes_v3() if self.version.startswith("v3.") else self._episodes_v2()
        try:
            entries = sorted(rows, key=lambda entry: entry.index)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise DataError(f"{self.path}/meta: does not say where its episodes are: {error!r}") from error
        # The identity of the source is that of the files in `meta` and `data`.
        outside = next(
            (each.file for each in entries if each.file.parts[:1] != ("data",) or ".." in each.file.parts), None
        )
        if outside is not None:
            raise DataError(
                f"{self.path / LEROBOT_INFO}: data_path leads to {outside}; frames are read from data/ alone"
            )
        return tuple(entries)

    def _episodes_v2(self) -> Iterator[EpisodeEntry]:
        path = self.path / "meta" / "episodes.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        listed = {}
        for number, line in enumerate(lines, 1):
            if line.strip():
                entry = _parsed(line, f"{path}:{number}")
                listed[int(entry["episode_index"])] = entry
        size = int(self.info.get("chunks_size", 1000))
        for index in listed or range(int(self.info["total_episodes"])):
            entry = listed.get(index, {})
            file = str(self.info["data_path"]).format(episode_chunk=index // size, episode_index=index)
            yield EpisodeEntry(index, entry.get("length"), Path(file), _texts(entry.get("tasks")))

    def _episodes_v3(self) -> Iterator[EpisodeEntry]:
        paths = sorted((self.path / "meta" / "episodes").glob("*/*.parquet"))
        if not paths:
            raise DataError(f"{self.path}: no table of episodes meta/episodes/chunk-000/file-000.parquet")
        wanted = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
        for path in paths:
            with self._as_data_error(path.relative_to(self.path)):
                rows = pq.read_table(path, columns=wanted, partitioning=None).to_pylist()
            for row in rows:
                chunk, file = int(row["data/chunk_index"]), int(row["data/file_index"])
                name = str(self.info["data_path"]).format(chunk_index=chunk, file_index=file)
                yield EpisodeEntry(int(row["episode_index"]), row["length"], Path(name), _texts(row["tasks"]))

    @contextmanager
    def _as_data_error(self, file: Path) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            path = self.path / file
            pointer = path.is_file() and path.read_bytes()[: len(POINTER)] == POINTER
            raise DataError(f"{path}: {WHY_POINTER if pointer else f'missing or damaged: {error}'}") from error


def _checked_features(path: Path, features: Any) -> dict[str, dict[str, Any]]:
    """Return the features of `info.json` by name; DataError where one is no mapping, or its shape no list of sizes."""
    found = features if isinstance(features, dict) else {}
    for name, feature in found.items():
        shape = (feature.get("shape") or []) if isinstance(feature, dict) else None
        if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise DataError(f"{path}: damaged: the feature '{name}' is no mapping with a shape")
    return found


def _texts(values: Any) -> tuple[str, ...]:
    """Return the texts in a list of JSON; none where it is something else."""
    return tuple(each for each in values if isinstance(each, str)) if isinstance(values, list) else ()


def _flat(column: pa.Array) -> Values:
    """Return the numbers of a column of scalars or of (nested) lists, in order."""
    while isinstance(column.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        column = column.flatten()
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _json_object(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError as error:
        why = WHY_POINTER if text.startswith(POINTER.decode()) else f"damaged: {error}"
        raise DataError(f"{where}: {why}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: not an object of JSON")
    return value
