"""Tables, as Parquet or CSV: every column is an array in the root, a column of lists a matrix.

Missing values are NaN. Dates and times are seconds since the first row. Columns of text are named and not read, but may
number the episodes (`data.episode_column`). `csv_file.py` turns text into an Arrow table.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.data.layouts.container import ArrayInfo, Values, check_dtype, check_size
from ensemble.errors import DataError
from ensemble.text import first_line

PARQUET_SIGNATURE = b"PAR1"


class Table:
    """Named columns of equal length as a Container; a column is read when it is needed, and kept."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int, load: Callable[[str], pa.ChunkedArray]):
        self.path = path
        self.rows = rows
        self._types = {field.name: field.type for field in schema}
        self._load = load
        self._kept: dict[str, Values] = {}

    @property
    def text_columns(self) -> list[str]:
        """Columns that hold no numbers."""
        return [name for name, kind in self._types.items() if not _is_numeric(kind)]

    def names(self, group: str = "") -> list[str]:
        """Return the names of the columns; [] for any group but the root."""
        return list(self._types) if not group else []

    def has(self, key: str) -> bool:
        """Return whether a column has this name."""
        return key in self._types

    def is_array(self, key: str) -> bool:
        """Return whether a column has this name."""
        return key in self._types

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration of a numeric column; DataError when it must not or cannot be read."""
        values = self._values(key)
        info = ArrayInfo(key, values.shape, values.dtype)
        check_dtype(self.path, info)
        return info

    def read(self, key: str, *where: slice) -> Values:
        """Return a read-only column or a part of it."""
        return self._values(key)[where]

    def text(self, key: str) -> list[str]:
        """Read a column as text."""
        self._require(key)
        return [str(value) for value in self._column(key).to_pylist()]

    def attribute(self, group: str, name: str) -> Any:
        """Return None: tables have no attributes."""
        return None

    def close(self) -> None:
        """Do nothing: the file is closed already."""

    def _require(self, key: str) -> None:
        if key not in self._types:
            raise DataError(f"{self.path}: '{key}' is not a column")

    def _values(self, key: str) -> Values:
        self._require(key)
        kind = self._types[key]
        if not _is_numeric(kind):
            raise DataError(f"{self.path}: the column {key} is of type {kind}; only numbers and lists of them are read")
        if key not in self._kept:
            values = _as_numpy(self._column(key), f"{self.path}: {key}")
            values.setflags(write=False)
            self._kept[key] = values
        return self._kept[key]

    def _column(self, key: str) -> pa.ChunkedArray:
        try:
            return self._load(key)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{self.path}: cannot read {key}: the file is damaged ({first_line(error)})") from error


def open_parquet(path: Path) -> Table:
    """Open a Parquet file; DataError when it is damaged or larger in memory than the limit."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        metadata, schema = file.metadata, file.schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable Parquet file: damaged or truncated ({first_line(error)})") from error
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    # Encodings such as run lengths hide rows, so that the numbers of both are compared.
    check_size(path, "the table", max(sum(g.total_byte_size for g in groups), 8 * metadata.num_rows * len(schema)))
    if not metadata.num_rows:
        raise DataError(f"{path}: holds 0 rows")
    flat = _flat_schema(schema)
    if len(set(flat.names)) < len(flat.names):
        twice = next(name for name in flat.names if flat.names.count(name) > 1)
        raise DataError(f"{path}: two columns are called '{twice}'")

    def load(key: str) -> pa.ChunkedArray:
        table = file.read([key], use_threads=False)
        while any(pa.types.is_struct(field.type) for field in table.schema):
            table = table.flatten()
        return table[key]

    return Table(path, flat, metadata.num_rows, load)


def _flat_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the fields of structs as columns `struct.field`."""
    table = schema.empty_table()
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table.schema


def _is_numeric(kind: pa.DataType) -> bool:
    if _is_list(kind):
        return _is_numeric(kind.value_type)
    if pa.types.is_dictionary(kind):
        return _is_numeric(kind.value_type)
    types = pa.types
    plain = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    return bool(plain or types.is_temporal(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _as_numpy(column: pa.ChunkedArray, what: str) -> Values:
    """Return a column (rows,), of lists (rows, length); DataError for lists of several lengths."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return _lists(array, what) if _is_list(array.type) else _numbers(array)


def _lists(array: pa.Array, what: str) -> Values:
    """Return lists of equal length (n, length, ..)."""
    if array.null_count:
        missing = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
        raise DataError(f"{what} has no value at row {missing[0]}")
    if pa.types.is_fixed_size_list(array.type):
        length = array.type.list_size
    else:
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        length = int(lengths[0]) if len(lengths) else 0
        other = np.flatnonzero(lengths != length)
        if len(other):
            raise DataError(f"{what} has {length} values at row 0 and {lengths[other[0]]} at row {other[0]}")
    inner = array.flatten()
    values = _lists(inner, what) if _is_list(inner.type) else _numbers(inner)
    return values.reshape(len(array), length, *values.shape[1:])


def _numbers(array: pa.Array) -> Values:
    kind = array.type
    if pa.types.is_temporal(kind):
        return _seconds(array)
    if pa.types.is_decimal(kind) or (array.null_count and not pa.types.is_floating(kind)):
        array = array.cast(pa.float64(), safe=False)
    return np.array(array.to_numpy(zero_copy_only=False))


def _seconds(array: pa.Array) -> Values:
    """Return dates, times and durations in seconds since the first of them."""
    kind = array.type
    units = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
    unit = 86400.0 if pa.types.is_date32(kind) else units[getattr(kind, "unit", "ms")]
    whole = array.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    valid = whole.drop_null()
    # The difference before the cast: nanoseconds since 1970 do not fit float64.
    since = valid[0].as_py() if len(valid) else 0
    ticks = np.array(whole.fill_null(since).to_numpy(), dtype=np.int64) - since
    seconds: Values = ticks.astype(np.float64) * unit
    seconds[whole.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return seconds
