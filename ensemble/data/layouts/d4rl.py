"""D4RL, read and written: all episodes concatenated in `observations` and `actions`, with flags at their last rows.

Source: d4rl/offline_env.py. An episode ends at a terminal or a timeout. The observation after a timeout is not the next
row: the last point of an episode comes from `next_observations`, or is missing. Files without timeouts are cut where
`next_observations` is not the next row, and without those after 1000 steps, as the oldest files of D4RL need it.
"""

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import Container, require
from ensemble.data.layouts.flat import FlatColumn, flags, flat_recording
from ensemble.data.layouts.grouped import matrix
from ensemble.data.layouts.recording import Recording, differs, raw_feature, same_rows
from ensemble.errors import DataError
from ensemble.schema import FeatureRole, Int64
from ensemble.store import atomic_file
from ensemble.text import plural

TITLE = "D4RL"
_REQUIRED = ("observations", "actions", "terminals")
_EXTRA = ("infos/qpos", "infos/qvel", "infos/goal")
_ROLES: dict[str, FeatureRole] = {"observations": "state", "actions": "control"}
_NEXT = "next_observations"
_TIME_LIMIT = 1000  # steps of an episode in files without timeouts and next_observations
_ROWS_AT_ONCE = 1 << 18
Bools = npt.NDArray[np.bool_]


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
        following = info if next_key is None else container.array(next_key)
        if following.width() != info.width():
            raise DataError(f"{container.path}: {_NEXT} has shape {following.shape}, {key} has {info.shape}")
        feature = raw_feature(key, info.width(), info.dtype, role, successor=not has_next or bool(next_key))
        columns.append(FlatColumn(feature, key, next_key))

    # Episodes
    terminals = flags(container, "terminals", rows)
    timeouts = flags(container, "timeouts", rows) if container.has("timeouts") else np.zeros(rows, bool)
    ends = terminals | timeouts
    if has_next and (data.cut_at_jumps or not timeouts.any()):
        starts, notices = _cut_at_breaks(container, ends, bool(timeouts.any()))
    elif container.has("timeouts"):
        starts, notices = _starts(ends), []
    else:
        starts, notices = _cut_long(_starts(ends), rows)
    return flat_recording(container, "d4rl", TITLE, columns, starts, rows, notices)


def _starts(ends: Bools) -> Int64:
    """Return the first row of each episode from flags at the last rows."""
    after = np.flatnonzero(ends) + 1
    return np.concatenate([[0], after[after < len(ends)]]).astype(np.int64)


def _cut_at_breaks(container: Container, ends: Bools, timed: bool) -> tuple[Int64, list[str]]:
    """Return the starts where episodes also end before a row that is not the next observation, and a notice."""
    breaks = _breaks(container, len(ends)) & ~ends
    starts = _starts(ends | breaks)
    reason = "cut at jumps" if timed else "no timeouts in the file"
    if not breaks.any():
        return starts, [f"{reason}: next_observations shows no other ends than the marked ones"]
    count, total = int(breaks.sum()), plural(len(starts), "episode")
    return starts, [f"{reason}: {count} of {total} end where next_observations is not the next row"]


def _breaks(container: Container, rows: int) -> Bools:
    """Return the rows (N,) whose next observation is not the next row; the last row is none."""
    breaks = np.zeros(rows, bool)
    for start in range(0, rows - 1, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, rows - 1)
        following = matrix(container.read("observations", slice(start + 1, stop + 1)))
        stored = matrix(container.read(_NEXT, slice(start, stop)))
        if not np.array_equal(stored, following):
            breaks[start:stop] = differs(stored, following).any(axis=1)
    return breaks


def _cut_long(starts: Int64, rows: int) -> tuple[Int64, list[str]]:
    """Cut episodes longer than the time limit; the second result says how many."""
    stops = np.append(starts[1:], rows)
    long = int((stops - starts > _TIME_LIMIT).sum())
    if not long:
        return starts, ["no timeouts in the file: episodes end at terminals alone"]
    cut = np.concatenate([np.arange(a, b, _TIME_LIMIT) for a, b in zip(starts, stops, strict=True)]).astype(np.int64)
    return cut, [
        f"no timeouts and no next_observations in the file: {long} of {plural(len(starts), 'episode')} are longer "
        f"than {_TIME_LIMIT} steps and cut after each {_TIME_LIMIT}, which gives {len(cut)}"
    ]


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
