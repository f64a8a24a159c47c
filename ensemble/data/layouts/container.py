"""What the layouts read from, whatever the file format: named arrays in groups, with every access checked.

`hdf5.py` and `npz.py` implement `Container`. A layout never sees h5py, so the rules of trust (no links out of the
file, no objects, no arrays beyond the limit) are kept in one place for each format.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ensemble.errors import DataError, UsageError
from ensemble.text import byte_size, nearest

Values = npt.NDArray[Any]

LIMIT_VARIABLE = "ENSEMBLE_MAX_BYTES"
_MEMORY_INFO = Path("/proc/meminfo")
_FALLBACK_LIMIT = 8 << 30
_SEARCHED_KEYS = 2000  # of a file, when looking for the nearest name


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """What a file declares of one array; nothing of it has been read."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def width(self, lead: int = 1) -> int:
        """Return the number of columns when the first `lead` axes count rows and the others are flattened."""
        return math.prod(self.shape[lead:])

    @property
    def bytes(self) -> int:
        """Declared size in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


class Container(Protocol):
    """A file of named arrays. Keys are paths with "/"; the root group is ""."""

    path: Path

    def names(self, group: str = "") -> list[str]:
        """Return the names inside a group; [] when it is none."""
        ...

    def has(self, key: str) -> bool:
        """Say whether there is a group or an array of this name."""
        ...

    def is_array(self, key: str) -> bool:
        """Say whether the name is that of an array."""
        ...

    def array(self, key: str) -> ArrayInfo:
        """Return what the file declares of a numeric array; DataError when it may not or cannot be read."""
        ...

    def read(self, key: str, *where: slice) -> Values:
        """Read an array or a part of it, one slice an axis; DataError when the file is damaged there."""
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
    """Return how many bytes a file may declare: `ENSEMBLE_MAX_BYTES`, or half of the memory that is available.

    A file of a few bytes can declare any size, so the size is compared before anything is read.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if text is None:
        return _available_memory() // 2
    try:
        return int(float(text))
    except ValueError as error:
        raise UsageError(f"{LIMIT_VARIABLE}={text} is not a number of bytes") from error


def check_size(path: Path, what: str, declared: int) -> None:
    """Raise DataError when a declared size is above the limit."""
    limit = byte_limit()
    if declared > limit:
        raise DataError(
            f"{path}: {what} declares {byte_size(declared)} in a file of {byte_size(path.stat().st_size)}; "
            f"the limit is {byte_size(limit)} (half of the available memory unless {LIMIT_VARIABLE} says otherwise)"
        )


def check_dtype(path: Path, info: ArrayInfo) -> None:
    """Raise DataError unless the array holds plain numbers."""
    kind = info.dtype.kind
    if not info.shape:
        raise DataError(f"{path}: {info.key} is a single value, not an array")
    if kind == "O":
        raise DataError(
            f"{path}: {info.key} holds objects or rows of variable length; pickled data is not read, "
            "write it as a plain numeric array"
        )
    if kind == "V":
        raise DataError(f"{path}: {info.key} is an opaque blob; pickled data is not read, write it as a numeric array")
    if kind not in "fiub":
        raise DataError(f"{path}: {info.key} has dtype {info.dtype}; only real numbers are read")


def missing_key(container: Container, key: str, layout: str, episode: str | None = None) -> DataError:
    """Return the error for a name that a layout wants and the file lacks, with the nearest name that is there."""
    present = list(_walk(container, _SEARCHED_KEYS))
    folder = [name for name in present if name.rpartition("/")[0] == key.rpartition("/")[0]]
    near = nearest(key, folder) or nearest(key, present)
    hint = f" (did you mean '{near[0]}'?)" if near else f" (present: {', '.join(present[:8]) or 'nothing'})"
    where = f" episode {episode}:" if episode else ""
    return DataError(f"{container.path}:{where} no '{key}', which the layout {layout} needs{hint}")


def require(container: Container, keys: Iterable[str], layout: str) -> None:
    """Raise DataError for the first of the names that a layout wants and the file lacks."""
    for key in keys:
        if not container.has(key):
            raise missing_key(container, key, layout)


def walk_arrays(container: Container, limit: int) -> list[str]:
    """Return the keys of the first `limit` arrays of a file."""
    return [key for key in _walk(container, limit * 2) if container.is_array(key)][:limit]


def _walk(container: Container, limit: int) -> Iterable[str]:
    """Yield the names of a file, parents first, at most `limit` of them."""
    pending, seen = [""], 0
    while pending and seen < limit:
        group = pending.pop(0)
        for name in container.names(group):
            key = f"{group}/{name}" if group else name
            seen += 1
            yield key
            if not container.is_array(key):
                pending.append(key)


def _available_memory() -> int:
    if not _MEMORY_INFO.is_file():
        return 2 * _FALLBACK_LIMIT
    for line in _MEMORY_INFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2 * _FALLBACK_LIMIT
