"""Arrays by name that a reader holds in memory, as a Container: what MATLAB's files of version 5 to 7.2 become.

A name that stands for no array of numbers keeps the reason, for the message when somebody asks for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble.data.layouts.container import ArrayInfo, Values, check_dtype, check_size
from ensemble.errors import DataError


class Arrays:
    """A tree of arrays as a Container; keys are paths with "/"."""

    def __init__(self, path: Path, arrays: Mapping[str, Values], refused: Mapping[str, str]):
        self.path = path
        self._arrays = arrays
        self._refused = refused
        self._groups: dict[str, list[str]] = {"": []}
        for key in [*arrays, *refused]:
            self._add(key)

    @property
    def left_out(self) -> list[str]:
        """Names that stand for no array of numbers."""
        return list(self._refused)

    def names(self, group: str = "") -> list[str]:
        """Return the names inside a group; [] for anything else."""
        return list(self._groups.get(group, []))

    def has(self, key: str) -> bool:
        """Return whether a group or an array has this name."""
        return key in self._groups or self.is_array(key)

    def is_array(self, key: str) -> bool:
        """Return whether an array has this name, one that is not read included."""
        return key in self._arrays or key in self._refused

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration of a numeric array; DataError when it must not or cannot be read."""
        values = self._values(key)
        info = ArrayInfo(key, values.shape, values.dtype)
        check_dtype(self.path, info)
        check_size(self.path, key, info.bytes)
        return info

    def read(self, key: str, *where: slice) -> Values:
        """Return a read-only array or a part of it."""
        values = self._values(key)[where]
        values.setflags(write=False)
        return values

    def text(self, key: str) -> list[str]:
        """Raise DataError: there are no arrays of names."""
        raise DataError(f"{self.path}: no array of names '{key}'")

    def attribute(self, group: str, name: str) -> Any:
        """Return None: there are no attributes."""
        return None

    def close(self) -> None:
        """Do nothing: the file is closed already."""

    def _values(self, key: str) -> Values:
        if key in self._refused:
            raise DataError(f"{self.path}: {key} is {self._refused[key]}; only arrays of real numbers are read")
        if key not in self._arrays:
            raise DataError(f"{self.path}: '{key}' is not an array")
        return self._arrays[key]

    def _add(self, key: str) -> None:
        """Put a key and its groups into the tree."""
        while key:
            group, _, name = key.rpartition("/")
            known = group in self._groups
            self._groups.setdefault(group, []).append(name)
            # A group that is known is listed in its own group already.
            key = "" if known else group
