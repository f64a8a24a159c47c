"""Parquet files of a run, read whole and checked: what lacks a column or has another kind is named with its file."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from ensemble.errors import StorageError
from ensemble.schema import MEMBER_COLUMNS
from ensemble.store import read_table


def is_metric(column: str) -> bool:
    """Tell whether a column of `members.parquet` holds a metric: `split/name`, the slash before any dot."""
    return "/" in column.partition(".")[0] and column not in MEMBER_COLUMNS.names


def is_hyperparameter(column: str) -> bool:
    """Tell whether a column of `members.parquet` holds a hyperparameter: a dotted path of the experiment file."""
    return "." in column and not is_metric(column)


def checked_table(file: Path, required: pa.Schema) -> pa.Table:
    """Read a Parquet file and cast the `required` columns; StorageError names the file and what is wrong with it."""
    table = read_table(file)
    lacking = [name for name in required.names if name not in table.column_names]
    if lacking:
        raise StorageError(f"{file} lacks the column '{lacking[0]}' (it has {', '.join(table.column_names[:8])}, ..)")
    return pa.table({name: _cast(file, table, name, required) for name in table.column_names})


def _cast(file: Path, table: pa.Table, name: str, required: pa.Schema) -> pa.ChunkedArray:
    column = table[name]
    if name not in required.names and not is_metric(name):
        return column
    kind = required.field(name).type if name in required.names else pa.float64()
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise StorageError(f"{file}: column '{name}' is {column.type}, not {kind}: {error}") from error


def optional_table(file: Path, required: pa.Schema) -> pa.Table | None:
    """Read a file that a run may lack."""
    return checked_table(file, required) if file.exists() else None


def rows_of(table: pa.Table | None) -> list[dict[str, Any]]:
    """Return the rows of a table, none where there is none."""
    return [] if table is None else list(table.to_pylist())
