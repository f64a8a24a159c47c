"""Parquet files of a run, read whole and checked: what lacks a column or has another kind is named with its file."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from ensemble.errors import StorageError
from ensemble.run_directory import cast_columns
from ensemble.schema import MEMBER_COLUMNS
from ensemble.store import read_table


def is_metric(column: str) -> bool:
    """Tell whether a column of `members.parquet` holds a metric: `split/name`, the slash before any dot."""
    return "/" in column.partition(".")[0] and column not in MEMBER_COLUMNS.names


def is_hyperparameter(column: str) -> bool:
    """Tell whether a column of `members.parquet` holds a hyperparameter: a dotted path of the experiment file."""
    return "." in column and not is_metric(column)


def checked_table(file: Path, required: pa.Schema, optional: tuple[str, ...] = ()) -> pa.Table:
    """Read a Parquet file and cast the `required` columns; StorageError names the file and what is wrong with it.

    Columns that are not `optional` have a value in each row.
    """
    return check_columns(file, read_table(file), required, optional)


def check_columns(file: Path, table: pa.Table, required: pa.Schema, optional: tuple[str, ...] = ()) -> pa.Table:
    """Do what `checked_table` does with a table that was read from `file`."""
    lacking = [name for name in required.names if name not in table.column_names]
    if lacking:
        raise StorageError(f"{file} lacks the column '{lacking[0]}' (it has {', '.join(table.column_names[:8])}, ..)")
    repeated = [name for name in table.column_names if table.column_names.count(name) > 1]
    if repeated:
        raise StorageError(f"{file} has two columns '{repeated[0]}'")
    empty = [name for name in required.names if name not in optional and table[name].null_count]
    if empty:
        raise StorageError(f"{file}: column '{empty[0]}' has rows without a value")
    metrics = [pa.field(name, pa.float64()) for name in table.column_names if is_metric(name)]
    kinds = {field.name: field for field in (*metrics, *required)}
    return cast_columns(file, table, pa.schema(list(kinds.values())))


def optional_table(file: Path, required: pa.Schema, optional: tuple[str, ...] = ()) -> pa.Table | None:
    """Read a file that a run may lack."""
    return checked_table(file, required, optional) if file.exists() else None


def rows_of(table: pa.Table | None) -> list[dict[str, Any]]:
    """Return the rows of a table, none where there is none."""
    return [] if table is None else list(table.to_pylist())
