"""MATLAB files of version 5 to 7.2 (`save` without -v7.3). Those of version 7.3 are HDF5 (`hdf5.py`).

Structs become groups, arrays of structs one group each, numbered from 1 as in MATLAB. A row vector is a vector. Cells,
objects, sparse and complex matrices and text are named and not read.

The format is read here: scipy's reader ends the process on a damaged file. It is that of MathWorks' "MAT-File Format":
elements of a tag (type, bytes) and their data; a variable is an element of elements (flags, dimensions, name, values).
"""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ensemble.data.layouts.container import Values, check_size
from ensemble.data.layouts.in_memory import Arrays
from ensemble.errors import DataError

SIGNATURE = b"MATLAB 5.0 MAT-file"
_HEADER = 128  # bytes before the first variable
_PIECE = 1 << 20
_DEPTH = 16  # levels of structs in structs
_MOST_ARRAYS = 100_000
_LONGEST_NAME = 1024

_MATRIX, _COMPRESSED = 14, 15
# Type of stored data, and class of a variable -> numpy's. MATLAB stores doubles that are whole in fewer bytes.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CELL, _STRUCT, _OPAQUE = 1, 2, 17
_UNREAD = {1: "a cell array", 3: "an object", 4: "text", 5: "a sparse matrix", 16: "a function", 17: "an object"}
_LOGICAL, _COMPLEX = 2, 8
_FROM_CELLS = " (in MATLAB: s = struct('x', CELLS), or s = [CELLS{:}] of cells with structs, is an array of structs)"


class _Element(NamedTuple):
    """The type and the data of an element."""

    kind: int
    data: memoryview


@dataclass
class _Variables:
    """What is found so far: arrays of numbers, and the reason for each of the others."""

    path: Path
    order: str  # of bytes: < or >
    arrays: dict[str, Values] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    bytes: int = 0

    def add(self, data: memoryview, key: str | None = None, depth: int = 0) -> None:
        """Add a variable, of a struct its fields; `key` replaces the name, which fields do not have."""
        # Flags, dimensions and name
        parts = _elements(data, self.order)
        flags = self._whole(next(parts))[0]
        kind, marks = flags & 0xFF, flags >> 8
        shape = () if kind == _OPAQUE else tuple(self._whole(next(parts)))
        name = bytes(next(parts).data)[:_LONGEST_NAME].decode("ascii", errors="replace").replace("/", "_")
        key = name if key is None else key
        # Functions keep their workspace in a variable without a name.
        if not key:
            return
        if kind in _UNREAD or marks & _COMPLEX:
            self.refused[key] = _UNREAD.get(kind, "complex") + (_FROM_CELLS if kind == _CELL else "")
        elif min(shape, default=-1) < 0 or kind not in (_STRUCT, *_CLASSES):
            raise ValueError(f"{key} is of the unknown class {kind}, or has the dimensions {shape}")
        elif kind == _STRUCT:
            self._add_struct(parts, key, math.prod(shape), depth)
        else:
            self._add_numbers(next(parts), key, shape, "?" if marks & _LOGICAL else _CLASSES[kind])

    def _add_struct(self, parts: Iterator[_Element], key: str, count: int, depth: int) -> None:
        """Add the fields of each element of an array of structs."""
        if depth >= _DEPTH:
            self.refused[key] = "a struct of too many levels"
            return
        length = self._whole(next(parts))[0]
        names = bytes(next(parts).data)
        if not 0 < length <= _LONGEST_NAME:
            raise ValueError(f"{key} has names of {length} bytes")
        fields = [
            names[i : i + length].split(b"\0")[0].decode("ascii", "replace") for i in range(0, len(names), length)
        ]
        if fields and count > _MOST_ARRAYS:
            raise ValueError(f"{key} has {count} elements")
        for number in range(1, count + 1 if fields else 0):
            inside = key if count == 1 else f"{key}/{number}"
            for name in fields:
                element = next(parts)
                if element.kind != _MATRIX:
                    raise ValueError(f"{inside}/{name} is no variable")
                if len(element.data):
                    self.add(element.data, f"{inside}/{name.replace('/', '_')}", depth + 1)

    def _add_numbers(self, element: _Element, key: str, shape: tuple[int, ...], dtype: str) -> None:
        stored = np.frombuffer(element.data, dtype=f"{self.order}{_STORED[element.kind]}")
        if len(stored) != math.prod(shape):
            raise ValueError(f"{key} has {len(stored)} entries and the dimensions {shape}")
        self.bytes += len(stored) * np.dtype(dtype).itemsize
        check_size(self.path, "its variables together", self.bytes)
        if len(self.arrays) >= _MOST_ARRAYS:
            raise ValueError(f"more than {_MOST_ARRAYS} arrays")
        self.arrays[key] = stored.astype(dtype).reshape(shape, order="F").reshape(as_vector(shape))

    def _whole(self, element: _Element) -> list[int]:
        """Return an element's whole numbers, at least one."""
        values: list[int] = np.frombuffer(element.data, dtype=f"{self.order}{_STORED[element.kind]}").tolist()
        if not values or not isinstance(values[0], int):
            raise ValueError("an element without numbers")
        return values


def open_mat(path: Path) -> Arrays:
    """Read a MATLAB file of version 5 to 7.2; DataError when it is damaged or larger in memory than the limit."""
    try:
        content = path.read_bytes()
        order = "<" if content[126:128] == b"IM" else ">"
        found = _Variables(path, order)
        for kind, data in _elements(memoryview(content)[_HEADER:], order, padded=False):
            part = _unpacked(path, data) if kind == _COMPRESSED else data
            for each in _elements(part, order) if kind == _COMPRESSED else [_Element(kind, part)]:
                if each.kind == _MATRIX:
                    found.add(each.data)
    # StopIteration: an element ends before its parts do; KeyError: a type of data that does not exist.
    except (OSError, ValueError, KeyError, StopIteration, OverflowError, MemoryError, zlib.error) as error:
        raise DataError(f"{path}: the MATLAB file is damaged or truncated ({error or 'an element is cut'})") from error
    return Arrays(path, found.arrays, found.refused)


def as_vector(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a MATLAB array as numpy has it: 1 x N and N x 1 are both vectors of N."""
    return (max(shape),) if len(shape) == 2 and 1 in shape and 0 not in shape else shape


def _elements(data: memoryview, order: str, padded: bool = True) -> Iterator[_Element]:
    """Yield the elements of data; ValueError where one is longer than the rest. Compressed ones are not padded."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                raise ValueError(f"{size} bytes where four fit")
        if start + size > len(data):
            raise ValueError(f"an element of {size} bytes where {len(data) - start} are left")
        yield _Element(kind, data[start : start + size])
        end = start + size
        at = max(at + 8, end + (-end % 8 if padded and kind != _COMPRESSED else 0))


def _unpacked(path: Path, data: memoryview) -> memoryview:
    """Decompress a variable piece by piece; DataError when it is larger than the limit."""
    unpack, pieces, size = zlib.decompressobj(), [], 0
    rest: bytes | memoryview = data
    while rest and not unpack.eof:
        pieces.append(unpack.decompress(rest, _PIECE))
        rest = unpack.unconsumed_tail
        size += len(pieces[-1])
        check_size(path, "its variables together", size)
    pieces.append(unpack.flush())
    if not unpack.eof:
        raise ValueError("a compressed variable is cut")
    return memoryview(b"".join(pieces))
