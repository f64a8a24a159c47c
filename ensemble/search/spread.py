"""How the seeds of an ensemble are spread over trials, which changes nothing about the results."""

from collections.abc import Sequence
from math import ceil


def spread(seeds: Sequence[int], slots: int, pack: int | str) -> list[tuple[int, ...]]:
    """Split the seeds of an ensemble into trials: as many as run at once, each at least a pack.

    >>> spread(range(10), 4, "auto")
    [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    """
    size = max(pack if isinstance(pack, int) else 1, ceil(len(seeds) / slots))
    return [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
