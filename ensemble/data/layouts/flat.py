"""Layouts that keep all episodes end to end in long arrays: what D4RL and npz rollouts share."""

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
class Column:
    """A feature, its array, and the array of next values beside it, if there is one."""

    feature: RawFeature
    key: str
    following: str | None = None


def flat_recording(
    container: Container,
    layout: str,
    title: str,
    columns: Sequence[Column],
    starts: Int64,
    rows: int,
    notices: Sequence[str],
) -> Recording:
    """Return a recording of episodes that begin at `starts` and end where the next begins, at `rows` at last.

    Where any column has next values, every episode has one point more than rows.
    """
    bounds = np.append(starts, rows).astype(np.int64)
    counts = np.diff(bounds)
    longer = any(column.following for column in columns)

    def read(first: int, last: int) -> dict[str, Values]:
        return {
            column.feature.name: _read(container, column, bounds[first : last + 1], first, longer) for column in columns
        }

    points = counts + longer
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


def _read(container: Container, column: Column, bounds: Int64, episode: int, longer: bool) -> Values:
    """Read the rows between the first and the last bound; append each episode's last point where there is one."""
    where = slice(int(bounds[0]), int(bounds[-1]))
    values = matrix(container.read(column.key, where))
    if not longer:
        return values
    if column.following is None:
        return append_last(values, np.diff(bounds))
    following = matrix(container.read(column.following, where))
    ends = bounds[1:] - bounds[0]
    inner = np.setdiff1d(np.arange(len(values)), ends - 1, assume_unique=True)
    where_wrong = difference_to_successor(following[inner], values[inner + 1])
    if where_wrong is not None:
        row, entry = int(inner[where_wrong[0]]), where_wrong[1]
        number = int(np.searchsorted(ends, row, side="right"))
        step = row + int(bounds[0] - bounds[number])
        raise DataError(
            f"{container.path}: episode {episode + number}: {column.following}[{step}] is {following[row, entry]:g} "
            f"and {column.key}[{step + 1}] is {values[row + 1, entry]:g} (column {entry}); they should be equal "
            "inside an episode"
        )
    return append_last(values, np.diff(bounds), following[ends - 1])
