"""An analytic pendulum, written in every layout that the converter reads.

Small oscillations under a harmonic torque, in closed form. An episode has P points; layouts that store next
observations hold P - 1 rows and the rest in them, the others hold P rows, of which the last control is unused.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

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


def write_isaaclab_file(path: Path, episodes: list[Episode]) -> None:
    """robomimic's layout with the action of the point before among the observations, and nested simulator states."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number, e in enumerate(episodes):
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = e.controls
            demo["obs/actions"] = np.concatenate([np.zeros((1, 1), np.float32), e.controls[:-1]])
            demo["obs/state"] = e.states
            demo["states/articulation/robot/joint_position"] = e.states[:, :1]
            demo["initial_state/articulation/robot/joint_position"] = e.states[:1, :1]
            demo.attrs.update({"num_samples": len(e.states), "success": True})
        data.attrs["env_args"] = '{"env_name": "Isaac-Pendulum", "type": 2}'


def write_minari_file(path: Path, episodes: list[Episode], nested: bool = False) -> None:
    path.parent.mkdir(exist_ok=True)
    steps = sum(len(e.states) - 1 for e in episodes)
    with h5py.File(path, "w", track_order=True) as file:
        for number, e in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            count = len(e.states) - 1
            if nested:
                group["observations/observation/_index_0"], group["observations/goal"] = e.states, e.states[:, :1]
                group["observations/text"] = ["go"] * (count + 1)
            else:
                group["observations"] = e.states
            group["actions"], group["rewards"] = e.controls[:-1], np.zeros(count)
            group["terminations"], group["truncations"] = np.zeros(count, bool), np.arange(count) == count - 1
            group["infos/TimeLimit.truncated"] = np.zeros(count + 1, bool)
            group.attrs.update({"id": number, "seed": number, "total_steps": count})
    metadata = {"total_episodes": len(episodes), "total_steps": steps, "minari_version": "0.5.3", "dt": DT}
    (path.parent / "metadata.json").write_text(json.dumps(metadata))


def write_maniskill_file(path: Path, episodes: list[Episode], observed: bool = True) -> None:
    """Of observation mode `state`, or `none` with the simulator's states alone; with its JSON file."""
    entries = []
    with h5py.File(path, "w") as file:
        for number, e in enumerate(episodes):
            group = file.create_group(f"traj_{number}")
            count = len(e.states) - 1
            group["actions"] = e.controls[:-1]
            group["terminated"], group["truncated"] = np.zeros(count, bool), np.zeros(count, bool)
            group["obs" if observed else "env_states/articulations/pendulum"] = e.states
            entries.append({"episode_id": number, "elapsed_steps": count, "control_mode": "pd_joint_pos"})
    kwargs = {"sim_config": {"control_freq": 1 / DT}}
    described = {"env_info": {"env_id": "Pendulum-v1", "env_kwargs": kwargs}, "episodes": entries}
    path.with_suffix(".json").write_text(json.dumps(described))


def write_aloha_folder(path: Path, episodes: list[Episode], pictures: bool = True) -> None:
    """A file for each episode, without leading zeros in its name."""
    path.mkdir()
    for number, e in enumerate(episodes):
        with h5py.File(path / f"episode_{number}.hdf5", "w") as file:
            file.attrs["sim"] = True
            file["observations/qpos"], file["action"] = e.states, e.controls
            if pictures:
                file["observations/images/top"] = np.zeros((len(e.states), 4, 4, 3), np.uint8)


def write_mocapact_file(path: Path, episodes: list[Episode], indices: bool = False, starts: int = 2) -> None:
    """Two snippets; a snippet's first `starts` rollouts begin at its start."""
    half = (len(episodes) + 1) // 2
    with h5py.File(path, "w") as file:
        for number, e in enumerate(episodes):
            clip = "CMU_016_15-0-127" if number < half else "CMU_016_55-0-100"
            group = file.create_group(f"{clip}/{number % half}")
            group["observations/proprioceptive"], group["actions"] = e.states, e.controls[:-1]
            for key in ("rewards", "values", "advantages"):
                group[key] = np.zeros(len(e.states) - 1, np.float32)
            if indices:
                group["mean_actions"] = 2 * e.controls[:-1]
            file.require_dataset(f"{clip}/early_termination", (half,), bool)
        if indices:
            file["observable_indices/walker/velocity"], file["observable_indices/walker/angle"] = [1], [0]
            file["n_start_rollouts"], file["n_rsi_rollouts"] = starts, half - starts
        file["stats/proprio_mean"], file["ref_steps"] = np.zeros(2, np.float32), np.arange(1, 6)


def lerobot_columns(episodes: list[Episode], first: int) -> dict[str, object]:
    """The columns of some episodes, the first of which has the number `first`."""
    counts = [len(e.states) for e in episodes]
    steps = np.concatenate([np.arange(n) for n in counts])
    states, controls = np.concatenate([e.states for e in episodes]), np.concatenate([e.controls for e in episodes])
    return {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(states.reshape(-1)), 2),
        "action": pa.array(controls[:, 0]),
        "next.reward": pa.array(np.zeros(len(steps), np.float32)),
        "timestamp": pa.array((steps * DT).astype(np.float32)),
        "frame_index": pa.array(steps),
        "episode_index": pa.array(np.repeat(np.arange(first, first + len(episodes)), counts)),
        "index": pa.array(np.arange(len(steps))),
        "task_index": pa.array(np.zeros(len(steps), np.int64)),
    }


def write_lerobot_folder(path: Path, episodes: list[Episode], version: str = "v3.0") -> None:
    """Version 2 with a file for each episode, version 3 with two files, and videos that are not there."""
    old = version.startswith("v2")
    names = {"observation.state": ["angle", "velocity"], "action": ["torque"]}
    features = {
        key: {"dtype": "float32" if width else "int64", "shape": [width or 1], "names": names.get(key)}
        for key, width in {"observation.state": 2, "action": 1, "next.reward": 1, "timestamp": 1}.items()
    } | {
        key: {"dtype": "int64", "shape": [1], "names": None}
        for key in ("frame_index", "episode_index", "index", "task_index")
    }
    features["observation.images.top"] = {"dtype": "video", "shape": [480, 640, 3], "names": None}
    half = len(episodes) // 2
    folder, table = path / "data" / "chunk-000", "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    folder.mkdir(parents=True)
    (path / "meta").mkdir()
    lengths = [len(e.states) for e in episodes]
    if old:
        table = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        for number, e in enumerate(episodes):
            pq.write_table(pa.table(lerobot_columns([e], number)), folder / f"episode_{number:06d}.parquet")
        lines = [{"episode_index": i, "tasks": ["swing"], "length": n} for i, n in enumerate(lengths)]
        (path / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    else:
        for number, (first, part) in enumerate([(0, episodes[:half]), (half, episodes[half:])]):
            columns = pa.table(lerobot_columns(part, first))
            pq.write_table(columns, folder / f"file-{number:03d}.parquet", row_group_size=50)
        listed = {"episode_index": range(len(episodes)), "tasks": [["swing"]] * len(episodes), "length": lengths}
        places = {
            "data/chunk_index": [0] * len(episodes),
            "data/file_index": [int(i >= half) for i in range(len(episodes))],
        }
        (path / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        pq.write_table(pa.table(listed | places), path / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    info = {
        "codebase_version": version,
        "fps": round(1 / DT),
        "total_episodes": len(episodes),
        "total_frames": sum(lengths),
        "chunks_size": 1000,
        "splits": {"train": f"0:{half}", "val": f"{half}:{len(episodes)}"},
        "data_path": table,
        "features": features,
    }
    (path / "meta" / "info.json").write_text(json.dumps(info))


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
    "isaaclab": LayoutCase(".hdf5", write_isaaclab_file, "robomimic", {"features": ["state"]}),
    "minari": LayoutCase("/main_data.hdf5", write_minari_file, "minari", {}),
    "maniskill": LayoutCase(".h5", write_maniskill_file, "maniskill", {}),
    "maniskill without observations": LayoutCase(
        ".h5", lambda path, e: write_maniskill_file(path, e, observed=False), "maniskill", {}
    ),
    "aloha": LayoutCase("", write_aloha_folder, "aloha", {}),
    "mocapact": LayoutCase(".hdf5", write_mocapact_file, "mocapact", {}),
    "lerobot v2": LayoutCase("", lambda path, e: write_lerobot_folder(path, e, "v2.1"), "lerobot", {}),
    "lerobot v3": LayoutCase("", write_lerobot_folder, "lerobot", {}),
    "npz": LayoutCase(".npz", write_npz_file, "npz", {}),
    "map": LayoutCase(".h5", write_grouped_file, "map", {"map": MAP, "roles": ROLES}),
    "map with shorter controls": LayoutCase(
        ".h5", lambda path, e: write_grouped_file(path, e, shorter=True), "map", {"map": MAP, "roles": ROLES}
    ),
}


def config(**options: object) -> DataConfig:
    """Options of a conversion; the path is given to `convert` itself."""
    return DataConfig.model_validate({"path": "unused", **options})
