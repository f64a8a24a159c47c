"""Which arrays of an episode's group are vectors, one a point: the features of layouts that name their observations.

Pictures, texts and arrays without columns are left out, and said once. A picture is an array of more than one axis a
point, or bytes in rows that are too long for a vector, as encoded pictures of one length are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.data.layouts.container import Container, NotNumericError, arrays_inside, path_in

_PICTURE_RANK = 3  # (N, H, W) and more
_LONGEST_BYTES = 512  # columns of a uint8 vector


@dataclass(frozen=True, slots=True)
class Vectors:
    """The keys of a group's vectors, relative to the episode, and what was left out, by its reason."""

    keys: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def notices(self) -> list[str]:
        """One line for each reason, with the keys left out for it."""
        return [f"{reason} left out: {', '.join(keys)}" for reason, keys in self.left_out.items()]

    @property
    def reasons(self) -> str:
        """What was left out, in a few words."""
        return "; ".join(f"{reason} ({', '.join(keys)})" for reason, keys in self.left_out.items()) or "it is empty"


def vectors_in(container: Container, episode: str, groups: Sequence[str]) -> Vectors:
    """Return the vectors in some groups of an episode, groups inside them included; a group may be an array itself."""
    found = Vectors()
    for group in groups:
        path = path_in(episode, group)
        inner = [group] if container.is_array(path) else [f"{group}/{key}" for key in arrays_inside(container, path)]
        for key in inner:
            reason = _why_no_vector(container, path_in(episode, key))
            if reason is None:
                found.keys.append(key)
            else:
                found.left_out.setdefault(reason, []).append(key)
    return found


def _why_no_vector(container: Container, path: str) -> str | None:
    """Return what an array is instead of a vector, as the plural of a notice; None for a vector."""
    try:
        info = container.array(path)
    except NotNumericError:
        return "texts and rows of variable length"
    wide_bytes = info.dtype == np.uint8 and info.width() > _LONGEST_BYTES
    if len(info.shape) >= _PICTURE_RANK or wide_bytes:
        return "images"
    return None if info.width() else "arrays without columns"
