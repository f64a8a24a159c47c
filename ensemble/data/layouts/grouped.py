"""Layouts with one group per episode: the common part of robomimic, robosuite and mapped files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.data.layouts.container import ArrayInfo, Container, Values, missing_key, path_in
from ensemble.data.layouts.names import distinct_names
from ensemble.data.layouts.recording import RawFeature, Recording, natural_order, same_rows
from ensemble.errors import DataError
from ensemble.schema import Int64
from ensemble.text import plural


@dataclass(frozen=True, slots=True)
class Loader:
    """A feature and the function that reads it from an episode's group, (points, width)."""

    feature: RawFeature
    load: Callable[[str], Values]
    key: str = ""  # its path inside the group: the name of the feature where a shorter one is not free


def declared_arrays(
    container: Container, layout: str, groups: Sequence[str], keys: Sequence[str]
) -> dict[str, list[ArrayInfo]]:
    """Return the declarations of all episodes: key -> one ArrayInfo per episode.

    Raises DataError for an episode without a key, and for two episodes that differ in columns or dtype.
    """
    declared: dict[str, list[ArrayInfo]] = {key: [] for key in keys}
    for group in groups:
        for key in keys:
            path = path_in(group, key)
            if not container.is_array(path):
                raise missing_key(container, path, layout, group or None)
            declared[key].append(container.array(path))
        if any(_schema(infos[-1]) != _schema(infos[0]) for infos in declared.values()):
            raise DataError(_difference_text(container, groups[0], group, declared))
    return declared


def demonstrations(container: Container, group: str) -> list[str]:
    """Return the groups inside a group, demo_2 before demo_10."""
    names = natural_order(container.names(group))
    return [f"{group}/{name}" for name in names if not container.is_array(f"{group}/{name}")]


def common_rows(container: Container, groups: Sequence[str], infos: dict[str, list[ArrayInfo]]) -> Int64:
    """Return the number of rows of each group, common to all of its arrays; DataError where they differ."""
    rows = [
        same_rows(container, {key: each[i].shape[0] for key, each in infos.items()}, group)
        for i, group in enumerate(groups)
    ]
    return np.array(rows, dtype=np.int64)


def grouped_recording(
    container: Container,
    layout: str,
    summary: str,
    groups: Sequence[str],
    keys: Sequence[str],
    points: Int64,
    loaders: Sequence[Loader],
    given: Sequence[str | None],
    dt: float | None,
    notices: Sequence[str],
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
        layout, summary, tuple(features), tuple(keys), points, tuple(given), dt, (*notices, *renamed), read
    )


def matrix(values: Values) -> Values:
    """Return (N, ..) as (N, w)."""
    return values.reshape(len(values), -1)


def lengths_text(points: Int64) -> str:
    """Return the lengths of episodes as text: "837 to 1058 points" or "100 points"."""
    if not len(points):
        return "0 points"
    low, high = int(points.min()), int(points.max())
    return plural(low, "point") if low == high else f"{low} to {high} points"


def _schema(info: ArrayInfo) -> tuple[object, ...]:
    return info.shape[1:], info.dtype


def _difference_text(container: Container, first: str, other: str, declared: dict[str, list[ArrayInfo]]) -> str:
    def text(number: int) -> str:
        infos = [each[number] for each in declared.values()]
        shapes = [", ".join(["n", *map(str, info.shape[1:])]) for info in infos]
        return ", ".join(f"{k} ({shape}) {i.dtype}" for k, shape, i in zip(declared, shapes, infos, strict=True))

    return f"{container.path}: episodes differ\n  {first}: {text(0)}\n  {other}: {text(-1)}"
