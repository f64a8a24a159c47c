"""Layouts with one group per episode: the common part of robomimic, robosuite and mapped files.

A group that is not like the others is no reason to refuse the file: it is reported with its reason, and the rest of the
file is read.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.data.layouts.container import ArrayInfo, Container, Values, arrays_inside, path_in
from ensemble.data.layouts.names import distinct_names
from ensemble.data.layouts.recording import RawFeature, Recording, natural_order
from ensemble.data.layouts.refused import (
    EMPTY,
    INCOMPLETE,
    MISCOUNTED,
    NO_ROWS,
    OTHER_SCHEMA,
    UNEQUAL,
    UNREADABLE,
    Refused,
    refusal,
)
from ensemble.errors import DataError
from ensemble.schema import Int64
from ensemble.text import nearest, plural

_SAMPLED = 25  # groups whose arrays say what a file's groups hold

Rows = Callable[[Mapping[str, int]], int | None]  # rows of each array -> rows of the episode, None where they differ


@dataclass(frozen=True, slots=True)
class Loader:
    """A feature and the function that reads it from an episode's group, (points, width)."""

    feature: RawFeature
    load: Callable[[str], Values]
    key: str = ""  # its path inside the group: the name of the feature where a shorter one is not free


@dataclass(frozen=True, slots=True)
class Groups:
    """The usable groups of a file with the declarations of their arrays, and the other groups with reasons."""

    names: tuple[str, ...]
    arrays: dict[str, list[ArrayInfo]]  # key -> one per usable group
    rows: Int64  # (groups,), common to the arrays of each
    refused: tuple[Refused, ...]


def equal_rows(rows: Mapping[str, int]) -> int | None:
    """Return the number of rows of all arrays, or None where they differ."""
    numbers = set(rows.values())
    return numbers.pop() if len(numbers) == 1 else None


def usable_groups(
    container: Container,
    groups: Sequence[str],
    keys: Sequence[str],
    rows_of: Rows = equal_rows,
    declared: str | None = None,
) -> Groups:
    """Return the groups that hold all arrays `keys`, with rows, in the columns and types of most groups.

    `declared` names the attribute of a group with its number of rows, which must agree where it is there. Raises
    DataError with all reasons when no group is usable.
    """
    # Declarations, group by group
    found: dict[str, dict[str, ArrayInfo]] = {}
    refused: list[Refused] = []
    rows: dict[str, int] = {}
    for group in groups:
        try:
            found[group] = {key: container.array(path_in(group, key)) for key in _present(container, group, keys)}
        except DataError as error:
            refused.append(Refused(group, UNREADABLE, str(error)))
            continue
        problem = _problem(container, group, keys, found[group], rows_of, declared)
        if isinstance(problem, Refused):
            refused.append(problem)
        else:
            rows[group] = problem

    # Columns and types, compared with those of most groups
    schemas = {group: tuple((i.shape[1:], i.dtype) for i in found[group].values()) for group in rows}
    model = _model(schemas) if schemas else ""
    usable = [group for group, schema in schemas.items() if schema == schemas[model]]
    for group in (group for group, schema in schemas.items() if schema != schemas[model]):
        detail = f"{_schema_text(found[group])}; in {model}: {_schema_text(found[model])}"
        refused.append(Refused(group, OTHER_SCHEMA, detail))
    if not usable:
        raise refusal(container.path, refused, len(groups))
    number = {group: i for i, group in enumerate(groups)}
    return Groups(
        names=tuple(usable),
        arrays={key: [found[group][key] for group in usable] for key in keys},
        rows=np.array([rows[group] for group in usable], dtype=np.int64),
        refused=tuple(sorted(refused, key=lambda each: number[each.episode])),
    )


def without(usable: Groups, refused: Sequence[Refused]) -> Groups:
    """Return the groups without those that were refused later on; at least one must stay."""
    names = {each.episode for each in refused}
    kept = [i for i, name in enumerate(usable.names) if name not in names]
    return Groups(
        names=tuple(usable.names[i] for i in kept),
        arrays={key: [infos[i] for i in kept] for key, infos in usable.arrays.items()},
        rows=usable.rows[kept],
        refused=(*usable.refused, *refused),
    )


def typical_group(container: Container, groups: Sequence[str]) -> str:
    """Return the first group with the names of arrays that most groups have, of at most 25 evenly spread."""
    return _model({group: tuple(sorted(arrays_inside(container, group))) for group in sample(groups)})


def sample(groups: Sequence[str]) -> Sequence[str]:
    """Return at most 25 groups, evenly spread."""
    step = -(-len(groups) // _SAMPLED)
    # The phase turns, so that a fault in every second group is not all that is seen.
    starts = range(0, len(groups), step)
    return [groups[min(start + number % step, len(groups) - 1)] for number, start in enumerate(starts)]


def demonstrations(container: Container, group: str) -> list[str]:
    """Return the groups inside a group, demo_2 before demo_10."""
    names = natural_order(container.names(group))
    return [f"{group}/{name}" for name in names if not container.is_array(f"{group}/{name}")]


def grouped_recording(
    layout: str,
    summary: str,
    groups: Sequence[str],
    keys: Sequence[str],
    points: Int64,
    loaders: Sequence[Loader],
    given: Sequence[str | None],
    dt: float | None,
    notices: Sequence[str],
    refused: Sequence[Refused] = (),
    masks: Sequence[tuple[str, ...]] = (),
) -> Recording:
    """Return a recording that reads its episodes group by group."""
    plain = [loader.feature for loader in loaders]
    features, renamed = distinct_names(plain, [loader.key or loader.feature.name for loader in loaders])

    def read(first: int, last: int) -> dict[str, Values]:
        return {
            feature.name: np.concatenate([loader.load(group) for group in groups[first:last]])
            for feature, loader in zip(features, loaders, strict=True)
        }

    return Recording(
        layout=layout,
        summary=summary,
        features=tuple(features),
        keys=tuple(keys),
        points=points,
        given=tuple(given),
        dt=dt,
        notices=(*notices, *renamed),
        read=read,
        refused=tuple(refused),
        masks=tuple(masks),
    )


def matrix(values: Values) -> Values:
    """Return (N, ..) as (N, w)."""
    # Not -1: of no rows numpy cannot tell the width.
    return values.reshape(len(values), math.prod(values.shape[1:]))


def lengths_text(points: Int64) -> str:
    """Return the lengths of episodes as text: "837 to 1058 points" or "100 points"."""
    if not len(points):
        return "0 points"
    low, high = int(points.min()), int(points.max())
    return plural(low, "point") if low == high else f"{low} to {high} points"


def _present(container: Container, group: str, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if container.is_array(path_in(group, key))]


def _problem(
    container: Container,
    group: str,
    keys: Sequence[str],
    infos: dict[str, ArrayInfo],
    rows_of: Rows,
    declared: str | None,
) -> int | Refused:
    """Return the rows of a group, or why it cannot be used."""
    # Arrays
    if not infos and not arrays_inside(container, group):
        return Refused(group, EMPTY, "holds no arrays")
    if len(infos) < len(keys):
        return Refused(
            group, INCOMPLETE, _missing_text(container, group, next(key for key in keys if key not in infos))
        )

    # Rows
    each = {key: info.shape[0] for key, info in infos.items()}
    rows = rows_of(each)
    if rows is None:
        listed = ", ".join(f"{key} has {count}" for key, count in each.items())
        return Refused(group, UNEQUAL, f"unequal numbers of rows: {listed}")
    if not rows:
        return Refused(group, NO_ROWS, "its arrays have 0 rows")
    said = container.attribute(group, declared) if declared else None
    if isinstance(said, int) and said != rows:
        return Refused(group, MISCOUNTED, f"declared total {said} samples in {group}, found {rows}")
    return rows


def _missing_text(container: Container, group: str, key: str) -> str:
    path = path_in(group, key)
    folder, _, name = path.rpartition("/")
    near = nearest(name, container.names(folder))
    return f"no '{path}'" + (f"; did you mean '{path_in(folder, near[0])}'?" if near else "")


def _model(signatures: Mapping[str, Hashable]) -> str:
    """Return the first group with the signature of most groups, the first of equally frequent ones."""
    common = Counter(signatures.values()).most_common(1)[0][0]
    return next(group for group, signature in signatures.items() if signature == common)


def _schema_text(infos: Mapping[str, ArrayInfo]) -> str:
    shapes = [", ".join(["n", *map(str, info.shape[1:])]) for info in infos.values()]
    return ", ".join(f"{k} ({shape}) {i.dtype}" for (k, i), shape in zip(infos.items(), shapes, strict=True))
