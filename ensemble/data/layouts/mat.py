"""MATLAB files up to version 7.2, read through scipy. Those of version 7.3 are HDF5 (`hdf5.py`).

Structs become groups, arrays of structs one group each, numbered from 1 as in MATLAB. A row vector is a vector. Cells,
objects, sparse matrices and text are named and not read.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ensemble.data.layouts.container import Values, check_size
from ensemble.data.layouts.in_memory import Arrays
from ensemble.errors import DataError

SIGNATURE = b"MATLAB 5.0 MAT-file"
_HEADER, _COMPRESSED = 128, 15  # bytes before the first variable; the type of a compressed one
_PIECE = 1 << 20
_DEPTH = 16  # levels of structs in structs
_MOST_ARRAYS = 100_000


def open_mat(path: Path) -> Arrays:
    """Read a MATLAB file of version 5 to 7.2; DataError when it is damaged or larger in memory than the limit."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    # Before scipy reads it: a compressed variable of a few bytes can hold any size.
    try:
        _check_unpacked(path)
        variables = loadmat(path, struct_as_record=True, squeeze_me=False, chars_as_strings=True)
    except (
        *(MatReadError, OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
        *(NotImplementedError, MemoryError, zlib.error, struct.error, UnicodeDecodeError, RuntimeError),
    ) as error:
        raise DataError(f"{path}: cannot be read: the MATLAB file is damaged or truncated ({error})") from error
    arrays: dict[str, Values] = {}
    refused: dict[str, str] = {}
    for name, value in variables.items():
        if not name.startswith("__"):
            _add(name, value, arrays, refused)
    if len(arrays) > _MOST_ARRAYS:
        raise DataError(f"{path}: holds {len(arrays)} arrays; at most {_MOST_ARRAYS} are read")
    return Arrays(path, arrays, refused)


def as_vector(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a MATLAB array as numpy has it: 1 x N and N x 1 are both vectors of N."""
    return (max(shape),) if len(shape) == 2 and 1 in shape and 0 not in shape else shape


def _add(key: str, value: Any, arrays: dict[str, Values], refused: dict[str, str], depth: int = 0) -> None:
    """Add a variable, of a struct its fields, to the arrays or to those that are not read."""
    reason = _reason(value, depth)
    if reason:
        refused[key] = reason
        return
    if value.dtype.names is None:
        arrays[key] = value.reshape(as_vector(value.shape))
        return
    elements = value.reshape(-1)
    for number, element in enumerate(elements, start=1):
        inside = key if len(elements) == 1 else f"{key}/{number}"
        for name in value.dtype.names:
            _add(f"{inside}/{name}", element[name], arrays, refused, depth + 1)


def _reason(value: Any, depth: int) -> str:
    """Say why a variable is not read; "" for arrays of numbers and for structs."""
    if not isinstance(value, np.ndarray):
        return "a sparse matrix" if hasattr(value, "nnz") else f"of MATLAB's class {type(value).__name__}"
    if type(value) is not np.ndarray:
        return "an object or a function"
    if value.dtype.names is not None:
        return "" if depth < _DEPTH else "a struct of too many levels"
    kinds = {"O": "a cell array", "U": "text", "S": "text", "c": "complex"}
    return kinds.get(value.dtype.kind, "")


def _check_unpacked(path: Path) -> None:
    """Raise DataError when the variables are larger than the limit; nothing is kept."""
    unpacked = 0
    with path.open("rb") as file:
        for size in _sizes(file):
            unpacked += size
            check_size(path, "its variables together", unpacked)


def _sizes(file: BinaryIO) -> Iterator[int]:
    """Yield the bytes of the variables in memory, of compressed ones piece by piece."""
    header = file.read(_HEADER)
    order = "<" if header[-2:] == b"IM" else ">"
    while len(tag := file.read(8)) == 8:
        kind, size = struct.unpack(f"{order}II", tag)
        start = file.tell()
        if kind == _COMPRESSED:
            yield from _unpacked_sizes(file, size)
        else:
            yield size
        file.seek(start + size)


def _unpacked_sizes(file: BinaryIO, size: int) -> Iterator[int]:
    unpack = zlib.decompressobj()
    while size > 0:
        packed = file.read(min(size, _PIECE))
        if not packed:
            return
        size -= len(packed)
        while packed:
            yield len(unpack.decompress(packed, _PIECE))
            packed = unpack.unconsumed_tail
