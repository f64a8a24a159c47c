"""Write episodes in D4RL's layout: what the simulator of policies' data and recorded closed loops leave."""

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from ensemble.schema import Int64
from ensemble.store import atomic_file


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
