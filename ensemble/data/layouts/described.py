"""What our writers say of features that a foreign format cannot hold: names, roles, labels and angles.

A format with one vector of states holds several features as its columns; this says which columns are which feature, so
that what is written and read again has its features back. Readers of others ignore it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from ensemble.data.layouts.container import Values
from ensemble.data.layouts.recording import RawFeature, Recording
from ensemble.schema import FEATURE_ROLES, Feature, FeatureRole

KEY = "ensemble"  # the name under which a file holds it


@dataclass(frozen=True, slots=True)
class Described:
    """One feature, and the columns of a stored array that hold it."""

    stored: str  # name of the feature that a reader makes of the stored array
    first: int  # column in it
    number: int  # of the feature, in the order of the data set
    name: str
    role: FeatureRole
    labels: tuple[str, ...]
    angles: tuple[bool, ...]

    @classmethod
    def of(cls, feature: Feature, number: int, stored: str, first: int) -> Self:
        """Return the description of feature `number`, stored in the columns from `first` on."""
        return cls(stored, first, number, feature.name, feature.role, feature.labels, feature.angles)

    @classmethod
    def read(cls, entries: Any) -> list[Self]:
        """Return the descriptions in parsed JSON; [] where it is not of this form."""
        try:
            found = [cls(**{**e, "labels": tuple(e["labels"]), "angles": tuple(e["angles"])}) for e in entries]
        except (KeyError, TypeError):
            return []
        numbers = [number for each in found for number in (each.first, each.number)]
        whole = all(each.role in FEATURE_ROLES for each in found) and all(isinstance(n, int) for n in numbers)
        return sorted(found, key=lambda each: each.number) if whole else []

    def to_json(self) -> dict[str, Any]:
        """Return the description for JSON."""
        return asdict(self)


def redescribed(recording: Recording, description: Sequence[Described]) -> Recording:
    """Return the recording with the features as described; unchanged where the description does not fit it."""
    stored = {feature.name: feature for feature in recording.features}
    if not description or not _fits(stored, description):
        return recording
    features = tuple(_feature(stored[each.stored], each) for each in description)
    read = recording.read

    def read_described(first: int, last: int) -> dict[str, Values]:
        values = read(first, last)
        return {each.name: values[each.stored][:, each.first : each.first + len(each.labels)] for each in description}

    return replace(recording, features=features, read=read_described)


def _fits(stored: Mapping[str, RawFeature], description: Sequence[Described]) -> bool:
    """Return whether the described columns are exactly those of the stored arrays, under distinct names."""
    claimed = sorted((each.stored, column) for each in description
                     for column in range(each.first, each.first + len(each.labels)))  # fmt: skip
    held = sorted((name, column) for name, feature in stored.items() for column in range(feature.width))
    distinct = len({each.name for each in description}) == len(description)
    return claimed == held and distinct and all(len(each.angles) == len(each.labels) for each in description)


def _feature(stored: RawFeature, each: Described) -> RawFeature:
    return replace(
        stored, name=each.name, width=len(each.labels), role=each.role, labels=each.labels, angles=each.angles
    )
