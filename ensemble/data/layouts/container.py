"""The interface between layouts and file formats: named arrays in groups, with every access checked.

`hdf5.py` and `npz.py` implement `Container`. Layouts never read through h5py, so the rules of trust (no links out of
the file, no objects, no arrays beyond the limit) are in one place per format.
"""

import math
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ensemble.errors import DataError, UsageError
from ensemble.machine import free_memory
from ensemble.text import byte_size, nearest

Values = npt.NDArray[Any]

LIMIT_VARIABLE = "ENSEMBLE_MAX_BYTES"
_FALLBACK_LIMIT = 8 << 30  # bytes, where the system does not say what is free
_DEPTH = 6  # levels of groups inside an episode: links may make a group a part of itself
_ALWAYS_ALLOWED = 1 << 20  # bytes
_SEARCHED_KEYS = 2000  # of a file, for the nearest name in a message


class NotNumericError(DataError):
    """An array holds something else than real numbers: texts, objects, or rows of variable length."""


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """A file's declaration of one array, known without reading it."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def width(self, lead: int = 1) -> int:
        """Return the number of columns after the first `lead` axes, with all further axes flattened."""
        return math.prod(self.shape[lead:])

    @property
    def bytes(self) -> int:
        """Declared size in memory, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Container(Protocol):
    """A file of named arrays. Keys are paths with "/"; the root group is ""."""

    path: Path

    def names(self, group: str = "") -> list[str]:
        """Return the names inside a group; [] for anything else."""
        ...

    def has(self, key: str) -> bool:
        """Return whether a group or an array has this name."""
        ...

    def is_array(self, key: str) -> bool:
        """Return whether an array has this name."""
        ...

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration of a numeric array; DataError when it must not or cannot be read."""
        ...

    def read(self, key: str, *where: slice) -> Values:
        """Read an array or a part of it, one slice per axis; DataError when the file is damaged there."""
        ...

    def text(self, key: str) -> list[str]:
        """Read an array of names."""
        ...

    def attribute(self, group: str, name: str) -> Any:
        """Return an attribute as a Python value, or None."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def byte_limit() -> int:
    """Return the limit of declared bytes of a file: `ENSEMBLE_MAX_BYTES`, or half of the available memory.

    A file of a few bytes can declare any size, so the size is compared before anything is read.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if text is None:
        free = free_memory()
        return _FALLBACK_LIMIT if free is None else free // 2
    try:
        return int(float(text))
    except ValueError as error:
        raise UsageError(f"{LIMIT_VARIABLE}={text} is not a number of bytes") from error


def check_size(path: Path, what: str, declared: int) -> None:
    """Raise DataError when a declared size is above the limit."""
    # The available memory is not asked for each of ten thousand small arrays.
    if declared <= _ALWAYS_ALLOWED and LIMIT_VARIABLE not in os.environ:
        return
    limit = byte_limit()
    if declared > limit:
        size = f" in a file of {byte_size(path.stat().st_size)}" if path.is_file() else ""
        raise DataError(
            f"{path}: {what} declares {byte_size(declared)}{size}; "
            f"the limit is {byte_size(limit)} (half of the available memory unless {LIMIT_VARIABLE} says otherwise)"
        )


def check_dtype(path: Path, info: ArrayInfo) -> None:
    """Raise NotNumericError unless the array holds real numbers."""
    kind = info.dtype.kind
    if not info.shape:
        raise NotNumericError(f"{path}: {info.key} is a single value, not an array")
    if kind == "O":
        raise NotNumericError(
            f"{path}: {info.key} holds objects or rows of variable length; pickled data is not read, "
            "write it as a plain numeric array"
        )
    if kind == "V":
        raise NotNumericError(
            f"{path}: {info.key} is an opaque blob; pickled data is not read, write it as a numeric array"
        )
    if kind not in "fiub":
        raise NotNumericError(f"{path}: {info.key} has dtype {info.dtype}; only real numbers are read")


def missing_key(container: Container, key: str, layout: str, episode: str | None = None) -> DataError:
    """Return the error for a missing name that a layout needs, with the nearest existing name."""
    present = list(_walk(container, _SEARCHED_KEYS))
    # The same group first: in files of many episodes the nearest name is otherwise that of another episode.
    folder = [name for name in present if name.rpartition("/")[0] == key.rpartition("/")[0]]
    near = nearest(key, folder) or nearest(key, present)
    hint = f" (did you mean '{near[0]}'?)" if near else f" (present: {', '.join(present[:8]) or 'nothing'})"
    where = f" episode {episode}:" if episode else ""
    return DataError(f"{container.path}:{where} no '{key}', which the layout {layout} needs{hint}")


def require(container: Container, keys: Iterable[str], layout: str) -> None:
    """Raise DataError for the first missing name that a layout needs."""
    for key in keys:
        if not container.has(key):
            raise missing_key(container, key, layout)


def path_in(group: str, name: str) -> str:
    """Return the key of a name inside a group; the root group is ""."""
    return f"{group}/{name}" if group else name


def arrays_inside(container: Container, group: str, depth: int = _DEPTH) -> list[str]:
    """Return the arrays in a group and the groups inside it, as paths relative to it, in the order of the file."""
    keys = []
    for name in container.names(group):
        path = path_in(group, name)
        if container.is_array(path):
            keys.append(name)
        elif depth > 1:
            keys += [f"{name}/{inner}" for inner in arrays_inside(container, path, depth - 1)]
    return keys


def walk_arrays(container: Container, limit: int) -> list[str]:
    """Return the keys of the first `limit` arrays of a file, parents first."""
    found: list[str] = []
    pending = deque([""])
    # Bounded by groups, not by names: a hundred groups side by side hide none of the arrays in them.
    for _ in range(max(limit, _SEARCHED_KEYS)):
        if not pending or len(found) >= limit:
            break
        group = pending.popleft()
        for name in container.names(group):
            key = path_in(group, name)
            (found if container.is_array(key) else pending).append(key)
    return found[:limit]


def _walk(container: Container, limit: int) -> Iterable[str]:
    """Yield at most about `limit` names of a file, parents first."""
    pending, seen = [""], 0
    while pending and seen < limit:
        group = pending.pop(0)
        for name in container.names(group):
            key = path_in(group, name)
            seen += 1
            yield key
            if not container.is_array(key):
                pending.append(key)
