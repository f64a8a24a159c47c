"""Layouts with all episodes concatenated in long arrays: the common part of D4RL and npz rollouts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble.data.layouts.container import Container, Values
from ensemble.data.layouts.grouped import lengths_text, matrix
from ensemble.data.layouts.recording import RawFeature, Recording, append_last, difference_to_successor
from ensemble.errors import DataError
from ensemble.schema import Int64
from ensemble.text import plural


@dataclass(frozen=True, slots=True)
class FlatColumn:
    """A feature, the key of its array, and the key of the array of next values, if there is one."""

    feature: RawFeature
    key: str
    next_key: str | None = None


def flat_recording(
    container: Container,
    layout: str,
    title: str,
    columns: Sequence[FlatColumn],
    starts: Int64,
    rows: int,
    notices: Sequence[str],
) -> Recording:
    """Return a recording of episodes that begin at `starts`, each up to the next start, the last up to `rows`.

    Where any column has next values, every episode has one point more than rows.
    """
    bounds = np.append(starts, rows).astype(np.int64)
    counts = np.diff(bounds)
    has_last_point = any(column.next_key for column in columns)

    def read(first: int, last: int) -> dict[str, Values]:
        return {
            column.feature.name: _read(container, column, bounds[first : last + 1], first, has_last_point)
            for column in columns
        }

    points = counts + has_last_point
    return Recording(
        layout=layout,
        summary=f"{title}: {plural(rows, 'row')}, {plural(len(starts), 'episode')} of {lengths_text(points)}",
        features=tuple(column.feature for column in columns),
        keys=tuple(f"episode-{i}" for i in range(len(starts))),
        points=points,
        given=(None,) * len(starts),
        dt=None,
        notices=tuple(notices),
        read=read,
    )


def flags(container: Container, key: str, rows: int) -> npt.NDArray[np.bool_]:
    """Read an array of flags (N,) or (N, 1)."""
    values = container.read(key).reshape(-1)
    if len(values) != rows:
        raise DataError(f"{container.path}: unequal numbers of rows: {key} has {len(values)}, the others have {rows}")
    return values.astype(bool)


def _read(container: Container, column: FlatColumn, bounds: Int64, episode: int, has_last_point: bool) -> Values:
    """Read the rows between the first and the last bound; append the last point of each episode where there is one."""
    where = slice(int(bounds[0]), int(bounds[-1]))
    values = matrix(container.read(column.key, where))
    if not has_last_point:
        return values
    if column.next_key is None:
        return append_last(values, np.diff(bounds))
    following = matrix(container.read(column.next_key, where))
    ends = bounds[1:] - bounds[0]
    # Inside an episode the next value is stored twice; a difference means that the cuts are at wrong rows.
    inner = np.setdiff1d(np.arange(len(values)), ends - 1, assume_unique=True)
    difference = difference_to_successor(following[inner], values[inner + 1])
    if difference is not None:
        row, entry = int(inner[difference[0]]), difference[1]
        number = int(np.searchsorted(ends, row, side="right"))
        step = row + int(bounds[0] - bounds[number])
        raise DataError(
            f"{container.path}: {column.next_key}[{step}] is {following[row, entry]:g} "
            f"and {column.key}[{step + 1}] is {values[row + 1, entry]:g} (column {entry}); they should be equal "
            "inside an episode"
        )
    return append_last(values, np.diff(bounds), following[ends - 1])
