"""Names of features: each once, none that the shards use themselves, and chosen by name or pattern.

A feature is called by the last part of its path in the file (`obs/object` is `object`). Where that name is not free,
its whole path is used (`obs.object`), and a notice says so.
"""

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ensemble.data.layouts.recording import RawFeature, Recording, raw_feature, safe_name
from ensemble.errors import UsageError
from ensemble.text import did_you_mean

SHARD_COLUMNS = ("episode", "step")  # columns of every shard beside the features
_GROUPS = ("obs/", "observations/", "data/")  # groups that a user may name or leave out in front of a feature


def distinct_names(features: Sequence[RawFeature], keys: Sequence[str]) -> tuple[list[RawFeature], list[str]]:
    """Return the features under distinct names that no shard uses itself, and a notice for each other name.

    `keys` are their paths in the file. Features that share a name, and those called as a column of the shards, get
    their whole path as name, and a number where that is taken, too.
    """
    counts = Counter(feature.name for feature in features)
    taken = {feature.name for feature in features if counts[feature.name] == 1} - set(SHARD_COLUMNS)
    renamed, notices = [], []
    for feature, key in zip(features, keys, strict=True):
        if feature.name in taken and counts[feature.name] == 1:
            renamed.append(feature)
            continue
        name = _free(safe_name(key), taken)
        taken.add(name)
        renamed.append(with_name(feature, name))
        if name != feature.name:
            why = "a column of the shards" if feature.name in SHARD_COLUMNS else "the name of another array, too"
            notices.append(f"{key} is called {name}: {feature.name} is {why}")
    return renamed, notices


def with_name(feature: RawFeature, name: str) -> RawFeature:
    """Return the feature under another name, in its labels as well where they are made from the name."""
    made = raw_feature(feature.name, feature.width, feature.dtype, feature.role).labels
    labels = raw_feature(name, feature.width, feature.dtype, feature.role).labels
    return replace(feature, name=name, labels=labels if feature.labels == made else feature.labels)


def matching(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that a name or a shell pattern means; `obs/object` means `object`, or `obs.object`."""
    bare = next((pattern.removeprefix(group) for group in _GROUPS if pattern.startswith(group)), pattern)
    for form in (pattern, pattern.replace("/", "."), bare.replace("/", ".")):
        found = [name for name in names if name == form] or [n for n in names if fnmatch.fnmatchcase(n, form)]
        if found:
            return found
    return []


def chosen_features(recording: Recording, patterns: Sequence[str], where: str) -> Recording:
    """Return the recording with the features that the patterns name, and all controls.

    Raises UsageError for a pattern that names no feature.
    """
    names = [feature.name for feature in recording.features]
    kept = {feature.name for feature in recording.features if feature.role == "control"}
    for pattern in patterns:
        found = matching(pattern, names)
        if not found:
            listed = did_you_mean(pattern, names) or f"; there are {', '.join(names)}"
            raise UsageError(f"data.features: no feature '{pattern}' in {where}{listed}")
        kept |= set(found)
    if len(kept) == len(names):
        return recording
    left = [name for name in names if name not in kept]
    features = tuple(feature for feature in recording.features if feature.name in kept)
    notices = (*recording.notices, f"left out, as data.features says: {', '.join(left)}")
    read = recording.read
    return replace(
        recording,
        features=features,
        notices=notices,
        read=lambda first, last: {name: values for name, values in read(first, last).items() if name in kept},
    )


def _free(name: str, taken: set[str]) -> str:
    """Return the name, changed where it is a column of the shards, and numbered where it is taken."""
    base = f"{name}_" if name in SHARD_COLUMNS else name
    free, number = base, 2
    while free in taken:
        free, number = f"{base}-{number}", number + 1
    return free
