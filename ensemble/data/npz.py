"""Flat rollouts as Stable-Baselines writes them: `obs`, `actions`, and `episode_starts` to cut them by.

The last observation of an episode has no successor. The file is an npz archive, or HDF5 with the same names.
"""

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.container import Container, require
from ensemble.data.flat import Column, flags, flat_recording
from ensemble.data.recording import Recording, raw_feature, same_rows
from ensemble.errors import DataError

TITLE = "flat rollouts"
_STARTS = "episode_starts"
_WANTED = ("obs", "actions", _STARTS)


def wanted(container: Container) -> dict[str, bool]:
    """Return what this layout needs and whether it is there."""
    return {key: container.has(key) for key in _WANTED}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Understand a file of this layout; DataError where it contradicts itself."""
    require(container, _WANTED, "npz")
    infos = {key: container.array(key) for key in ("obs", "actions")}
    rows = same_rows(container, {key: info.shape[0] for key, info in infos.items()})
    if not rows:
        raise DataError(f"{container.path}: holds 0 episodes: obs has 0 rows")
    columns = [
        Column(raw_feature(key, info.width(), info.dtype, "state" if key == "obs" else "control"), key)
        for key, info in infos.items()
    ]
    begins = np.flatnonzero(flags(container, _STARTS, rows)).astype(np.int64)
    starts = np.unique(np.append(0, begins))
    return flat_recording(container, "npz", TITLE, columns, starts, rows, ())
