"""Write trajectories in NeRD's own layout: what the simulator leaves, readable by NeRD's and axion's loaders.

Source of the layout: NVlabs/neural-robot-dynamics, generate/ and utils/datasets.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ensemble.schema import Float32, Int64
from ensemble.store import atomic_file

_GROUP = "data"
_DIMENSIONS = {"states": "state_dim", "next_states": "next_state_dim", "joint_acts": "joint_act_dim"}


def write_nerd(
    path: Path,
    states: npt.NDArray[np.floating],
    joint_acts: npt.NDArray[np.floating] | None = None,
    *,
    env: str,
    dt: float,
    extra: Mapping[str, npt.NDArray[np.floating]] | None = None,
    lengths: Int64 | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write `states` (B, T + 1, S), `joint_acts` (B, T, A) and `extra` arrays (B, T, ..) as float32.

    `dt` is in seconds. `lengths` (B,) are the steps of each trajectory where they differ; what follows is padding.
    Stored time-major: states, next_states (T, B, S). Raises StorageError where the disk refuses.
    """
    count, steps = states.shape[0], states.shape[1] - 1
    arrays = {"states": states[:, :-1], "next_states": states[:, 1:]}
    if joint_acts is not None:
        arrays["joint_acts"] = joint_acts
    arrays |= dict(extra or {})
    for name, values in arrays.items():
        assert values.shape[:2] == (count, steps), (name, values.shape)
    transitions = count * steps if lengths is None else int(lengths.sum())
    attrs = {"env": env, "mode": "trajectory", "dt": dt, "num_contacts_per_env": 0}
    attrs |= {"total_trajectories": count, "total_transitions": transitions}
    attrs |= {_DIMENSIONS[name]: values.shape[2] for name, values in arrays.items() if name in _DIMENSIONS}
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        group = file.create_group(_GROUP)
        for name, values in arrays.items():
            group.create_dataset(name, data=_time_major(values))
        if lengths is not None:
            group.create_dataset("traj_lengths", data=lengths)
        group.attrs.update(attrs | dict(attributes or {}))


def _time_major(values: npt.NDArray[np.floating]) -> Float32:
    return np.ascontiguousarray(values.swapaxes(0, 1), dtype=np.float32)
