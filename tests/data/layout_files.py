"""An analytic pendulum, written in every layout that the converter reads.

Small oscillations under a harmonic torque, in closed form. An episode has P points; layouts that store next
observations hold P - 1 rows and the rest in them, the others hold P rows, of which the last control is unused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from ensemble.config.data import DataConfig, FeatureMap

DT = 0.05


@dataclass(frozen=True)
class Episode:
    states: npt.NDArray[np.float32]  # (P, 2) angle, angular velocity
    controls: npt.NDArray[np.float32]  # (P, 1), what is applied from each point to the next; the last one is unused


def pendulum(episodes: int = 13, seed: int = 0, longest: int = 40) -> list[Episode]:
    """theta'' = -w0^2 theta + b sin(w t): theta = A cos(w0 t + p) + b / (w0^2 - w^2) sin(w t)."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(episodes):
        points = 5 + (number * 7) % (longest - 5)
        t = np.arange(points) * DT
        amplitude, phase, b, w = random.uniform([0.1, 0, 0.1, 1.0], [0.3, 6.0, 1.0, 2.0])
        w0 = 3.1
        forced = b / (w0**2 - w**2)
        theta = amplitude * np.cos(w0 * t + phase) + forced * np.sin(w * t)
        omega = -amplitude * w0 * np.sin(w0 * t + phase) + forced * w * np.cos(w * t)
        states = np.stack([theta, omega], axis=1).astype(np.float32)
        made.append(Episode(states, (b * np.sin(w * t))[:, None].astype(np.float32)))
    return made


def write_nerd_file(path: Path, episodes: list[Episode]) -> None:
    steps = np.array([len(e.states) - 1 for e in episodes])
    shape = (steps.max(), len(episodes))
    arrays = {name: np.full((*shape, w), np.nan, np.float32) for name, w in (("states", 2), ("next_states", 2))}
    arrays["joint_acts"] = np.full((*shape, 1), np.nan, np.float32)
    for b, e in enumerate(episodes):
        arrays["states"][: steps[b], b] = e.states[:-1]
        arrays["next_states"][: steps[b], b] = e.states[1:]
        arrays["joint_acts"][: steps[b], b] = e.controls[:-1]
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        for name, values in arrays.items():
            group[name] = values
        group["traj_lengths"] = steps
        group.attrs.update(
            {"mode": "trajectory", "env": "Cartpole", "total_trajectories": len(episodes), "dt": DT}
            | {"total_transitions": int(steps.sum())}
        )


def write_robomimic_file(path: Path, episodes: list[Episode], followed: bool = True) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number, e in enumerate(episodes):
            rows = len(e.states) - followed
            demo = data.create_group(f"demo_{number}")
            demo["obs/state"] = e.states[:rows]
            demo["actions"] = e.controls[:rows]
            if followed:
                demo["next_obs/state"] = e.states[1:]
            demo.attrs["num_samples"] = rows
        data.attrs["total"] = sum(len(e.states) - followed for e in episodes)


def write_robosuite_file(path: Path, episodes: list[Episode]) -> None:
    with h5py.File(path, "w") as file:
        for number, e in enumerate(episodes):
            time = DT * np.arange(1, len(e.states) + 1)[:, None]
            demo = file.create_group(f"data/demo_{number + 1}")
            demo["states"] = np.concatenate([time, e.states.astype(np.float64)], axis=1)
            demo["joint_velocities"] = e.controls.astype(np.float64)
            demo["left_dpos"] = np.empty((len(e.states), 0))


def write_d4rl_file(path: Path, episodes: list[Episode], followed: bool = True) -> None:
    rows = [len(e.states) - followed for e in episodes]
    ends = np.zeros(sum(rows), bool)
    ends[np.cumsum(rows) - 1] = True
    terminals = ends & (np.arange(len(ends)) % 3 == 0)  # some end by failing, the others by a timeout
    with h5py.File(path, "w") as file:
        file["observations"] = np.concatenate([e.states[:n] for e, n in zip(episodes, rows, strict=True)])
        file["actions"] = np.concatenate([e.controls[:n] for e, n in zip(episodes, rows, strict=True)])
        if followed:
            file["next_observations"] = np.concatenate([e.states[1:] for e in episodes])
        file["rewards"] = np.zeros(len(ends), np.float32)
        file["terminals"] = terminals
        file["timeouts"] = (ends & ~terminals)[:, None]


def write_npz_file(path: Path, episodes: list[Episode]) -> None:
    starts = np.concatenate([np.arange(len(e.states)) == 0 for e in episodes])
    observations = np.concatenate([e.states for e in episodes])
    np.savez(path, obs=observations, actions=np.concatenate([e.controls for e in episodes]), episode_starts=starts)


def write_grouped_file(path: Path, episodes: list[Episode], shorter: bool = False) -> None:
    """A foreign layout: `run<i>/robot/q` and `run<i>/u`; `shorter` leaves out the unused last control."""
    with h5py.File(path, "w") as file:
        for number, e in enumerate(episodes):
            file[f"run{number}/robot/q"] = e.states
            file[f"run{number}/u"] = e.controls[: len(e.controls) - shorter]
            file[f"run{number}/time"] = DT * np.arange(len(e.states))


MAP = {"angles": FeatureMap(key="robot/q"), "torque": FeatureMap(key="u")}
ROLES = {"angles": "state", "torque": "action"}


@dataclass(frozen=True)
class LayoutCase:
    suffix: str
    write: Callable[[Path, list[Episode]], None]
    layout: str
    options: dict[str, object]


CASES = {
    "nerd": LayoutCase(".h5", write_nerd_file, "nerd", {}),
    "robomimic": LayoutCase(".hdf5", write_robomimic_file, "robomimic", {}),
    "robomimic without next_obs": LayoutCase(
        ".hdf5", lambda path, e: write_robomimic_file(path, e, followed=False), "robomimic", {}
    ),
    "robosuite": LayoutCase(".hdf5", write_robosuite_file, "robosuite", {}),
    "d4rl": LayoutCase(".hdf5", write_d4rl_file, "d4rl", {}),
    "d4rl without next_observations": LayoutCase(
        ".hdf5", lambda path, e: write_d4rl_file(path, e, followed=False), "d4rl", {}
    ),
    "npz": LayoutCase(".npz", write_npz_file, "npz", {}),
    "map": LayoutCase(".h5", write_grouped_file, "map", {"map": MAP, "roles": ROLES}),
    "map with shorter controls": LayoutCase(
        ".h5", lambda path, e: write_grouped_file(path, e, shorter=True), "map", {"map": MAP, "roles": ROLES}
    ),
}


def config(**options: object) -> DataConfig:
    """Options of a conversion; the path is given to `convert` itself."""
    return DataConfig.model_validate({"path": "unused", **options})
