"""D4RL, read and written: all episodes concatenated in `observations` and `actions`, with flags at their last rows.

Source: d4rl/offline_env.py. An episode ends at a terminal or a timeout; very old files have no timeouts and are cut
after 1000 steps. The observation after a timeout is not the next row: the last point of an episode comes from
`next_observations`, or is missing.
"""

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import Container, require
from ensemble.data.layouts.flat import FlatColumn, flags, flat_recording
from ensemble.data.layouts.recording import Recording, raw_feature, same_rows
from ensemble.errors import DataError
from ensemble.schema import FeatureRole, Int64
from ensemble.store import atomic_file

TITLE = "D4RL"
_REQUIRED = ("observations", "actions", "terminals")
_EXTRA = ("infos/qpos", "infos/qvel", "infos/goal")
_ROLES: dict[str, FeatureRole] = {"observations": "state", "actions": "control"}
_NEXT = "next_observations"
_TIME_LIMIT = 1000  # steps of an episode in files without timeouts


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    return {key: container.has(key) for key in _REQUIRED}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent."""
    # Features
    require(container, _REQUIRED, "d4rl")
    infos = {key: container.array(key) for key in ("observations", "actions", *_EXTRA, _NEXT) if container.has(key)}
    rows = same_rows(container, {key: info.shape[0] for key, info in infos.items()})
    if not rows:
        raise DataError(f"{container.path}: holds 0 episodes: observations have 0 rows")
    has_next = infos.pop(_NEXT, None) is not None
    columns = []
    for key, info in infos.items():
        role = _ROLES.get(key, "auxiliary")
        next_key = _NEXT if has_next and key == "observations" else None
        feature = raw_feature(key, info.width(), info.dtype, role, successor=not has_next or bool(next_key))
        columns.append(FlatColumn(feature, key, next_key))

    # Episodes
    terminals = flags(container, "terminals", rows)
    notices = []
    if container.has("timeouts"):
        starts = _starts(terminals | flags(container, "timeouts", rows))
    else:
        starts = _cut_long(_starts(terminals), rows)
        notices.append(f"no timeouts in the file: episodes are cut after {_TIME_LIMIT} steps")
    return flat_recording(container, "d4rl", TITLE, columns, starts, rows, notices)


def _starts(ends: npt.NDArray[np.bool_]) -> Int64:
    """Return the first row of each episode from flags at the last rows."""
    after = np.flatnonzero(ends) + 1
    return np.concatenate([[0], after[after < len(ends)]]).astype(np.int64)


def _cut_long(starts: Int64, rows: int) -> Int64:
    """Cut episodes longer than the time limit."""
    stops = np.append(starts[1:], rows)
    return np.concatenate([np.arange(a, b, _TIME_LIMIT) for a, b in zip(starts, stops, strict=True)]).astype(np.int64)


def write_d4rl(
    path: Path,
    states: npt.NDArray[np.floating],
    actions: npt.NDArray[np.floating],
    lengths: Int64 | None = None,
    terminated: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Write `states` (B, T + 1, S) and `actions` (B, T, A) as float32, episodes concatenated.

    `lengths` (B,) are the steps of each episode, T by default; later steps and episodes of length 0 are left out. The
    last step is a terminal where `terminated` (B,), else a timeout. Raises StorageError when writing fails.
    """
    count, steps = actions.shape[:2]
    assert states.shape[:2] == (count, steps + 1), (states.shape, actions.shape)
    lengths = np.full(count, steps) if lengths is None else lengths
    terminated = np.zeros(count, bool) if terminated is None else terminated
    step = np.arange(steps)
    kept, last = step < lengths[:, None], step == lengths[:, None] - 1  # (B, T)
    arrays = {
        "observations": states[:, :-1][kept].astype(np.float32),
        "actions": actions[kept].astype(np.float32),
        "next_observations": states[:, 1:][kept].astype(np.float32),
        "terminals": (last & terminated[:, None])[kept],
        "timeouts": (last & ~terminated[:, None])[kept],
    }
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
