"""D4RL: all episodes end to end in `observations`, `actions`, with flags where they end.

Source: d4rl/offline_env.py. An episode ends at a terminal or at a timeout; very old files have no timeouts and cut
after 1000 steps. The observation after a timeout is not the next row, so the last point comes from
`next_observations`, or there is none.
"""

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import Container, require
from ensemble.data.layouts.flat import Column, flags, flat_recording
from ensemble.data.layouts.recording import Recording, raw_feature, same_rows
from ensemble.errors import DataError
from ensemble.schema import FeatureRole, Int64
from ensemble.store import atomic_file

TITLE = "D4RL"
_WANTED = ("observations", "actions", "terminals")
_EXTRA = ("infos/qpos", "infos/qvel", "infos/goal")
_ROLES: dict[str, FeatureRole] = {"observations": "state", "actions": "control"}
_NEXT = "next_observations"
_TIME_LIMIT = 1000  # steps of an episode where timeouts are not recorded


def wanted(container: Container) -> dict[str, bool]:
    """Return what this layout needs and whether it is there."""
    return {key: container.has(key) for key in _WANTED}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Understand a file of this layout; DataError where it contradicts itself."""
    require(container, _WANTED, "d4rl")
    infos = {key: container.array(key) for key in ("observations", "actions", *_EXTRA, _NEXT) if container.has(key)}
    rows = same_rows(container, {key: info.shape[0] for key, info in infos.items()})
    if not rows:
        raise DataError(f"{container.path}: holds 0 episodes: observations have 0 rows")
    followed = infos.pop(_NEXT, None) is not None
    columns = []
    for key, info in infos.items():
        role = _ROLES.get(key, "auxiliary")
        following = _NEXT if followed and key == "observations" else None
        feature = raw_feature(key, info.width(), info.dtype, role, successor=not followed or bool(following))
        columns.append(Column(feature, key, following))
    terminals = flags(container, "terminals", rows)
    notices = []
    if container.has("timeouts"):
        starts = _starts(terminals | flags(container, "timeouts", rows))
    else:
        starts = _cut_long(_starts(terminals), rows)
        notices.append(f"no timeouts in the file: episodes are cut after {_TIME_LIMIT} steps")
    return flat_recording(container, "d4rl", TITLE, columns, starts, rows, notices)


def _starts(ends: npt.NDArray[np.bool_]) -> Int64:
    """Return the first row of each episode, given a flag at each last row."""
    after = np.flatnonzero(ends) + 1
    return np.concatenate([[0], after[after < len(ends)]]).astype(np.int64)


def _cut_long(starts: Int64, rows: int) -> Int64:
    """Cut episodes that are longer than the time limit."""
    stops = np.append(starts[1:], rows)
    return np.concatenate([np.arange(a, b, _TIME_LIMIT) for a, b in zip(starts, stops, strict=True)]).astype(np.int64)


def write_d4rl(
    path: Path,
    states: npt.NDArray[np.floating],
    actions: npt.NDArray[np.floating],
    lengths: Int64 | None = None,
    terminated: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Write `states` (B, T + 1, S) and `actions` (B, T, A) as float32, episodes end to end.

    `lengths` (B,) are the steps of each episode where they differ; what follows is left out, an episode of no step
    altogether. Its last step is a timeout, or a terminal where `terminated` (B,) says so. Raises StorageError where the
    disk refuses.
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
