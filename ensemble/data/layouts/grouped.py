"""Layouts that keep each episode in a group of its own: what robomimic, robosuite and mapped files share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.data.layouts.container import ArrayInfo, Container, Values, missing_key
from ensemble.data.layouts.recording import RawFeature, Recording
from ensemble.errors import DataError
from ensemble.schema import Int64
from ensemble.text import plural


@dataclass(frozen=True, slots=True)
class Loader:
    """A feature and how to read it from an episode's group, (points, width)."""

    feature: RawFeature
    load: Callable[[str], Values]


def survey(container: Container, layout: str, groups: Sequence[str], keys: Sequence[str]) -> dict[str, list[ArrayInfo]]:
    """Return what every episode declares of every key: key -> one ArrayInfo an episode.

    Raises DataError for an episode that lacks a key, and where columns or dtype differ between episodes, with both.
    """
    found: dict[str, list[ArrayInfo]] = {key: [] for key in keys}
    for group in groups:
        for key in keys:
            path = f"{group}/{key}" if group else key
            if not container.is_array(path):
                raise missing_key(container, path, layout, group or None)
            found[key].append(container.array(path))
        if any(_schema(infos[-1]) != _schema(infos[0]) for infos in found.values()):
            raise DataError(_differ(container, groups[0], group, found))
    return found


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
    """Return a recording whose episodes are read one group after another."""

    def read(first: int, last: int) -> dict[str, Values]:
        return {
            loader.feature.name: np.concatenate([loader.load(group) for group in groups[first:last]])
            for loader in loaders
        }

    features = tuple(loader.feature for loader in loaders)
    return Recording(layout, summary, features, tuple(keys), points, tuple(given), dt, tuple(notices), read)


def matrix(values: Values) -> Values:
    """Return (N, ..) as (N, w)."""
    return values.reshape(len(values), -1)


def lengths_text(points: Int64) -> str:
    """Say how long episodes are: "837 to 1058 points" or "100 points"."""
    if not len(points):
        return "0 points"
    low, high = int(points.min()), int(points.max())
    return plural(low, "point") if low == high else f"{low} to {high} points"


def _schema(info: ArrayInfo) -> tuple[object, ...]:
    return info.shape[1:], info.dtype


def _differ(container: Container, first: str, other: str, found: dict[str, list[ArrayInfo]]) -> str:
    def text(number: int) -> str:
        declared = [infos[number] for infos in found.values()]
        shapes = [", ".join(["n", *map(str, info.shape[1:])]) for info in declared]
        return ", ".join(f"{k} ({shape}) {i.dtype}" for k, shape, i in zip(found, shapes, declared, strict=True))

    return f"{container.path}: episodes differ\n  {first}: {text(0)}\n  {other}: {text(-1)}"
