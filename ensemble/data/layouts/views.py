"""A container seen another way: rows divided into episodes by a column, an axis or the numbers in names; time last.

Layouts read a view as they read a file, so that every layout with groups understands tables and transposed arrays.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ensemble.data.layouts.container import ArrayInfo, Container, Values, path_in, walk_arrays
from ensemble.data.layouts.recording import natural_order
from ensemble.errors import DataError
from ensemble.text import did_you_mean, plural

# Columns that number the episodes of a table, the usual first.
EPISODE_COLUMNS = (
    *("episode", "episode_index", "episode_id", "ep", "traj_id", "traj", "trajectory", "trajectory_id"),
    *("trial", "trial_id", "run", "run_id", "demo", "demo_id"),
)
_MOST_COLUMNS = 10_000


class _View:
    """The container itself; subclasses change what they show differently."""

    def __init__(self, container: Container):
        self._container = container
        self.path = container.path

    def names(self, group: str = "") -> list[str]:
        """Return the names inside a group; [] for anything else."""
        return self._container.names(group)

    def has(self, key: str) -> bool:
        """Return whether a group or an array has this name."""
        return self._container.has(key)

    def is_array(self, key: str) -> bool:
        """Return whether an array has this name."""
        return self._container.is_array(key)

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration of a numeric array; DataError when it must not or cannot be read."""
        return self._container.array(key)

    def read(self, key: str, *where: slice) -> Values:
        """Read an array or a part of it, one slice per axis; DataError when the file is damaged there."""
        return self._container.read(key, *where)

    def text(self, key: str) -> list[str]:
        """Read an array of names."""
        return self._container.text(key)

    def attribute(self, group: str, name: str) -> Any:
        """Return an attribute as a Python value, or None."""
        return self._container.attribute(group, name)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class TimeLast(_View):
    """A container in which chosen arrays are shown with their last axis first."""

    def __init__(self, container: Container, chosen: Callable[[str], bool]):
        super().__init__(container)
        self._chosen = chosen

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration, of a chosen array with its last axis first."""
        info = self._container.array(key)
        return replace(info, shape=(info.shape[-1], *info.shape[:-1])) if self._chosen(key) else info

    def read(self, key: str, *where: slice) -> Values:
        """Read an array or a part of it; slices count the axes as they are shown."""
        if not self._chosen(key):
            return self._container.read(key, *where)
        return np.ascontiguousarray(np.moveaxis(self._container.read(key), -1, 0)[where])


class EpisodesByAxis(_View):
    """A container in which arrays `keys` (episodes, time, ..) of a group are as many groups, numbered from 0."""

    def __init__(self, container: Container, keys: Sequence[str]):
        super().__init__(container)
        self._keys = sorted(keys, key=len, reverse=True)

    def names(self, group: str = "") -> list[str]:
        """Return the episodes in a group with all the arrays, the arrays in an episode, or the names in a group."""
        if all(self._container.is_array(path_in(group, key)) for key in self._keys):
            counts = {key: self._container.array(path_in(group, key)).shape[0] for key in self._keys}
            if len(set(counts.values())) > 1:
                listed = ", ".join(f"{key} has {count}" for key, count in counts.items())
                raise DataError(f"{self.path}: unequal numbers of episodes: {listed}")
            return [str(number) for number in range(min(counts.values()))]
        if any(self._part(path_in(group, key)) for key in self._keys):
            return list(self._keys)
        return self._container.names(group)

    def is_array(self, key: str) -> bool:
        """Return whether an array of an episode has this name, or one that is not divided."""
        name = next((each for each in self._keys if key == each or key.endswith(f"/{each}")), None)
        return self._part(key) is not None or (name is None and self._container.is_array(key))

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration of an array, of one episode without the axis of episodes."""
        part = self._part(key)
        if part is None:
            return self._container.array(key)
        info = self._container.array(part[0])
        if len(info.shape) < 2:
            raise DataError(f"{self.path}: {part[0]} has one axis, not one of episodes and one of time")
        return replace(info, key=key, shape=info.shape[1:])

    def read(self, key: str, *where: slice) -> Values:
        """Read an array of one episode, or one that is not divided."""
        part = self._part(key)
        if part is None:
            return self._container.read(key, *where)
        values: Values = self._container.read(part[0], slice(part[1], part[1] + 1), *where)[0]
        return values

    def attribute(self, group: str, name: str) -> Any:
        """Return an attribute of a group, for an episode of the group around it."""
        outer, _, number = group.rpartition("/")
        return self._container.attribute(outer if number.isdigit() else group, name)

    def _part(self, key: str) -> tuple[str, int] | None:
        """Return the array that `group/number/name` is a part of, and its number."""
        name = next((each for each in self._keys if key.endswith(f"/{each}")), None)
        if name is None:
            return None
        group, _, number = key.removesuffix(f"/{name}").rpartition("/")
        whole = path_in(group, name)
        return (whole, int(number)) if number.isdigit() and self._container.is_array(whole) else None


class EpisodesByNumber(_View):
    """A container of numbered arrays as one group per number; # in `keys` stands for it: states_# is states_0, .."""

    def __init__(self, container: Container, keys: Sequence[str]):
        super().__init__(container)
        self._keys = list(keys)
        found = [number for key in keys for number in numbers_of(walk_arrays(container, _MOST_COLUMNS), key)]
        self._numbers = natural_order(list(dict.fromkeys(found)))

    def names(self, group: str = "") -> list[str]:
        """Return the numbers in the root, and the arrays of a number."""
        if not group:
            return list(self._numbers)
        return [key for key in self._keys if self.is_array(path_in(group, key))] if group in self._numbers else []

    def is_array(self, key: str) -> bool:
        """Return whether an array of a number has this name."""
        return key.partition("/")[0] in self._numbers and self._container.is_array(self._numbered(key))

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration of an array of a number."""
        return replace(self._container.array(self._numbered(key)), key=key)

    def read(self, key: str, *where: slice) -> Values:
        """Read an array of a number or a part of it."""
        return self._container.read(self._numbered(key), *where)

    def attribute(self, group: str, name: str) -> Any:
        """Return an attribute of the root, which every number shares."""
        return self._container.attribute("", name)

    def _numbered(self, key: str) -> str:
        number, _, name = key.partition("/")
        return name.replace("#", number)


def numbers_of(names: Sequence[str], key: str) -> list[str]:
    """Return what # in `key` stands for among some names, in their order."""
    pattern = re.compile(re.escape(key).replace(re.escape("#"), r"(\d+)", 1).replace(re.escape("#"), r"\1"))
    return [found[1] for name in names if (found := pattern.fullmatch(name))]


def time_is_last(infos: Sequence[ArrayInfo]) -> bool:
    """Return whether time runs along the last axis of the matrices, by their shapes: all are of one width.

    That width is the length of vectors or larger than all else, or matrices of several lengths share it.
    """
    matrices = [info.shape for info in infos if len(info.shape) == 2 and info.shape[1] > 1]
    lengths = {shape[1] for shape in matrices}
    if len(lengths) != 1:
        return False
    length, firsts = lengths.pop(), {shape[0] for shape in matrices}
    # Arrays with time first are of one length in most files; the shortest would be shorter than it is wide.
    if len(firsts) > 2 and min(firsts) < length:
        return True
    vectors = {info.shape[0] for info in infos if len(info.shape) == 1 or info.shape[1:] == (1,)}
    agree = len(matrices) > 1 or length in vectors or length > 8 * matrices[0][0]
    return agree and length > max(firsts)


class EpisodesByColumn(_View):
    """A container of equally long root arrays as one group per episode, `<column>_<value>`.

    Raises DataError where the column is missing, or the rows of an episode are not together.
    """

    def __init__(self, container: Container, column: str):
        super().__init__(container)
        self.column = column
        self._columns = [key for key in walk_arrays(container, _MOST_COLUMNS) if key != column]
        self._known = set(self._columns)
        values = _labels(container, column)
        starts = np.flatnonzero(np.append(True, values[1:] != values[:-1])) if len(values) else np.empty(0, np.int64)
        bounds = np.append(starts, len(values))
        self._rows = len(values)
        self._slices: dict[str, slice] = {}
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            name = f"{column}_{values[first]}".replace("/", ".")
            if name in self._slices:
                raise DataError(
                    f"{self.path}: the rows of {column} {values[first]} are not together: row {first} is of it again; "
                    f"sort the table by {column}, or number the episodes apart"
                )
            self._slices[name] = slice(first, last)

    def names(self, group: str = "") -> list[str]:
        """Return the episodes in the root, the columns inside an episode."""
        if not group:
            return list(self._slices)
        return self._columns if group in self._slices else []

    def has(self, key: str) -> bool:
        """Return whether an episode or a column of one has this name."""
        return not key or key in self._slices or self.is_array(key)

    def is_array(self, key: str) -> bool:
        """Return whether a column of an episode has this name."""
        episode, _, column = key.partition("/")
        return episode in self._slices and column in self._known

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration of a column's rows of one episode."""
        part, column = self._part(key)
        info = self._container.array(column)
        if info.shape[0] != self._rows:
            raise DataError(
                f"{self.path}: unequal numbers of rows: {column} has {info.shape[0]}, {self.column} has {self._rows}"
            )
        return replace(info, key=key, shape=(part.stop - part.start, *info.shape[1:]))

    def read(self, key: str, *where: slice) -> Values:
        """Read a column's rows of one episode."""
        part, column = self._part(key)
        values = self._container.read(column, part)
        return values[where] if where else values

    def attribute(self, group: str, name: str) -> Any:
        """Return an attribute of the root, which every episode shares."""
        return self._container.attribute("", name)

    def _part(self, key: str) -> tuple[slice, str]:
        episode, _, column = key.partition("/")
        if not self.is_array(key):
            raise DataError(f"{self.path}: '{key}' is not an array")
        return self._slices[episode], column


def episode_column(names: Sequence[str], used: Sequence[str]) -> str | None:
    """Return the first of `names` that numbers episodes by its name; none that is used as a feature."""
    known = {name.lower(): name for name in reversed(names) if name not in used}
    return next((known[name] for name in EPISODE_COLUMNS if name in known), None)


def _labels(container: Container, column: str) -> Values:
    """Return the value of each row's episode: whole numbers or text."""
    if not container.is_array(column):
        known = [key for key in walk_arrays(container, _MOST_COLUMNS) if "/" not in key]
        raise DataError(f"{container.path}: no column '{column}' for the episodes{did_you_mean(column, known)}")
    try:
        info = container.array(column)
    except DataError:
        return np.array(container.text(column), dtype=object)
    values = container.read(column).reshape(-1)
    if len(values) != info.shape[0]:
        raise DataError(f"{container.path}: {column} has {plural(info.width(), 'column')}; episodes need a single one")
    if values.dtype.kind != "f":
        return values
    wrong = np.flatnonzero(~np.isfinite(values) | (values != np.round(values)))
    if len(wrong):
        raise DataError(
            f"{container.path}: {column} is {values[wrong[0]]:g} at row {wrong[0]}, no number of an episode"
        )
    return values.astype(np.int64)
