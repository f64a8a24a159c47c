"""Layouts: the same motion in every one of them gives the same bytes, and each is detected by its names."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layout_files import CASES, DT, config, pendulum, write_grouped_file, write_nerd_file, write_npz_file

from ensemble.config.data import FeatureMap
from ensemble.data.convert import convert
from ensemble.data.inspect import inspect_file
from ensemble.data.layouts.detect import LAYOUTS, open_container, open_recording
from ensemble.data.layouts.nerd import write_nerd
from ensemble.data.trajectories import read_trajectories
from ensemble.errors import DataError, UsageError

DATA = Path(__file__).parents[3] / "shared" / "data"
measured = pytest.mark.skipif(not DATA.is_dir(), reason="measured data is not here")


def shard_bytes(directory: Path) -> list[bytes]:
    """Every column of all shards, without its name."""
    tables = [pq.read_table(path) for path in sorted(directory.glob("shard-*.parquet"))]
    names = [f"{number}" for number in range(tables[0].num_columns)]
    columns = pa.concat_tables([table.rename_columns(names) for table in tables]).combine_chunks().columns
    columns = [column.combine_chunks() for column in columns]
    flat = [column.flatten() if hasattr(column, "flatten") else column for column in columns]
    return [values.to_numpy().tobytes() for values in flat]


@pytest.mark.parametrize("name", CASES)
def test_an_analytic_pendulum_converts_to_the_same_bytes_from_every_layout(tmp_path: Path, name: str) -> None:
    episodes = pendulum(13)
    assert len({len(e.states) for e in episodes}) > 1
    case = CASES[name]
    source = tmp_path / f"pendulum{case.suffix}"
    case.write(source, episodes)
    manifest = convert([source], tmp_path / "out", config(**case.options))
    data = read_trajectories(tmp_path / "out")

    assert manifest.layout == case.layout
    assert [feature.role for feature in data.features[:2]] == ["state", "control"]
    truth = []
    for e in episodes:
        controls = e.controls.copy()
        controls[-1] = 0  # nothing follows it
        truth.append(np.concatenate([e.states, controls], axis=1))
    np.testing.assert_array_equal(data.episodes.points, [len(e.states) for e in episodes])
    assert data.rows.tobytes() == np.concatenate(truth).tobytes()

    reference = tmp_path / "reference.npz"
    write_npz_file(reference, episodes)
    convert([reference], tmp_path / "reference", config())
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "reference")
    np.testing.assert_array_equal(data.episodes.hashes, read_trajectories(tmp_path / "reference").episodes.hashes)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.layout != "map"])
def test_the_detector_names_the_layout_and_counts_the_episodes(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    source = tmp_path / f"some{case.suffix}"
    case.write(source, pendulum(12))
    head, line = inspect_file(source).lines()[:2]
    title = next(layout.title for layout in LAYOUTS if layout.name == case.layout)
    assert line.startswith(f"looks like {title}")
    assert " 12 " in (head if name == "aloha" else line)  # a file for each episode


def test_nerd_says_trajectories_times_steps(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(20, 8, 4))
    write_nerd(tmp_path / "n.h5", states, env="Pendulum", dt=1 / 60)
    assert "looks like NeRD trajectory: 20 trajectories x 7 steps" in inspect_file(tmp_path / "n.h5").lines()


def test_what_the_nerd_writer_writes_comes_back_as_it_was(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    states = random.normal(size=(5, 8, 4)).astype(np.float32)
    torques = random.normal(size=(5, 7, 2)).astype(np.float32)
    gravity = np.tile(np.float32([0, 0, -1]), (5, 7, 1))
    contacts = random.normal(size=(5, 7, 2, 3)).astype(np.float32)
    extra = {"gravity_dir": gravity, "contact_normals": contacts}
    write_nerd(tmp_path / "n.h5", states, torques, env="DoublePendulum", dt=1 / 60, extra=extra)
    with h5py.File(tmp_path / "n.h5") as file:
        assert file["data/states"].shape == (7, 5, 4)  # time-major, as NeRD's loader wants it
        assert dict(file["data"].attrs)["total_transitions"] == 35
    manifest = convert([tmp_path / "n.h5"], tmp_path / "out", config())
    data = read_trajectories(tmp_path / "out")
    np.testing.assert_array_equal(data.rows[:, data.columns("states")].reshape(5, 8, 4), states)
    np.testing.assert_array_equal(data.rows[:, data.columns("joint_acts")].reshape(5, 8, 2)[:, :-1], torques)
    np.testing.assert_array_equal(data.rows[:, data.columns("gravity_dir")].reshape(5, 8, 3)[:, -1], 0)
    normals = data.rows[:, data.columns("contact_normals")].reshape(5, 8, 6)
    np.testing.assert_array_equal(normals[:, :-1], contacts.reshape(5, 7, 6))
    np.testing.assert_array_equal(normals[:, -1], normals[:, -2])  # an unknown last value repeats the one before
    roles = {feature.name: feature.role for feature in data.features}
    assert roles == {
        "states": "state",
        "joint_acts": "control",
        "gravity_dir": "control",
        "contact_normals": "auxiliary",
    }
    states_feature = data.feature("states")
    assert states_feature.labels == ("q0", "q1", "qd0", "qd1")
    assert states_feature.angles == (True, True, False, False)
    assert manifest.dt == pytest.approx(1 / 60)


def test_nerd_transitions_are_episodes_of_two_points(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["data/states"], file["data/next_states"] = states, states + 1
        file["data/joint_acts"] = np.ones((10, 1), np.float32)
        file["data"].attrs.update({"mode": "transition", "env": "Cartpole", "total_transitions": 10})
    convert([tmp_path / "t.h5"], tmp_path / "out", config())
    data = read_trajectories(tmp_path / "out")
    assert data.episodes.points.tolist() == [2] * 10
    np.testing.assert_array_equal(data.rows[0::2, :4], states)
    np.testing.assert_array_equal(data.rows[1::2, :4], states + 1)


def test_nerd_states_that_do_not_follow_each_other_name_trajectory_and_index(tmp_path: Path) -> None:
    write_nerd_file(tmp_path / "n.h5", pendulum(12))
    with h5py.File(tmp_path / "n.h5", "r+") as file:
        file["data/next_states"][3, 7, 1] += 0.5
    with pytest.raises(DataError, match=r"trajectory 7: data/next_states\[3\].*data/states\[4\].*column 1"):
        convert([tmp_path / "n.h5"], tmp_path / "out", config())


def test_d4rl_without_timeouts_is_cut_after_a_thousand_steps(tmp_path: Path) -> None:
    rows = 2500
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["observations"] = np.arange(rows, dtype=np.float32)[:, None]
        file["actions"] = np.ones((rows, 1), np.float32)
        file["terminals"] = np.arange(rows) == 299
    manifest = convert([tmp_path / "d.h5"], tmp_path / "out", config())
    assert read_trajectories(tmp_path / "out").episodes.points.tolist() == [300, 1000, 1000, 200]
    assert any("no timeouts" in notice for notice in manifest.notices)


def test_robomimic_masks_become_given_splits_and_images_are_left_out(tmp_path: Path) -> None:
    case = CASES["robomimic"]
    case.write(tmp_path / "r.h5", pendulum(12))
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        for demo in file["data"].values():
            demo["obs/camera"] = np.zeros((len(demo["actions"]), 4, 4, 3), np.uint8)
        file["mask/train"] = np.array([b"demo_0", b"demo_10", b"demo_2"])
        file["mask/valid"] = np.array([b"demo_1"])
        file["data"].attrs["env_args"] = '{"env_kwargs": {"control_freq": 20}}'
    manifest = convert([tmp_path / "r.h5"], tmp_path / "out", config())
    data = read_trajectories(tmp_path / "out")
    assert data.keys[1:3] == ("demo_1", "demo_2")  # demo_10 comes after demo_9
    assert data.given == ("train", "validation", "train", *[None] * 7, "train", None)
    assert [feature.name for feature in data.features] == ["state", "actions"]
    assert "images left out: obs/camera" in manifest.notices
    assert manifest.dt == pytest.approx(0.05)


def test_robosuite_time_is_left_out_and_gives_the_time_step(tmp_path: Path) -> None:
    CASES["robosuite"].write(tmp_path / "r.h5", pendulum(12))
    manifest = convert([tmp_path / "r.h5"], tmp_path / "out", config())
    assert manifest.dt == DT
    assert any("column 0 is simulation time" in notice for notice in manifest.notices)
    assert any("left_dpos" in notice for notice in manifest.notices)


def test_a_mapped_derivative_is_the_central_difference_taken_in_float64(tmp_path: Path) -> None:
    time = np.arange(200) * 0.01
    position = 1e4 + np.sin(3 * time)  # in float32 the offset would drown the difference
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["x"], file["u"], file["time"] = position, np.zeros(200), time
    mapping = {"x": "x", "v": FeatureMap(derivative_of="x", scale=2.0), "u": "u"}
    roles = {"x": "state", "v": "state", "u": "control"}
    manifest = convert([tmp_path / "m.h5"], tmp_path / "out", config(map=mapping, roles=roles))
    data = read_trajectories(tmp_path / "out")
    expected = 2 * (position[2:] - position[:-2]) / 0.02
    np.testing.assert_allclose(data.rows[1:-1, 1], expected, rtol=1e-6, atol=1e-6)
    assert manifest.dt == 0.01
    assert data.keys == ("m",)  # a flat file is one episode
    assert any("x: rounding to float32" in notice for notice in manifest.notices)


def test_a_derivative_of_an_angle_does_not_jump_where_the_angle_does(tmp_path: Path) -> None:
    angle = np.mod(np.arange(100) * 0.3 + np.pi, 2 * np.pi) - np.pi
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["q"] = angle
    mapping = {"q": "q", "qd": FeatureMap(derivative_of="q")}
    options = config(map=mapping, roles={"q": "state", "qd": "state"}, angles=["q"], dt=0.1)
    convert([tmp_path / "m.h5"], tmp_path / "out", options)
    np.testing.assert_allclose(read_trajectories(tmp_path / "out").rows[:, 1], 3.0, rtol=1e-4)


def test_map_keeps_the_named_columns_in_order(tmp_path: Path) -> None:
    write_grouped_file(tmp_path / "m.h5", pendulum(12))
    mapping = {"omega": FeatureMap(key="robot/q", columns=[1]), "swapped": FeatureMap(key="robot/q", columns=[1, 0])}
    convert([tmp_path / "m.h5"], tmp_path / "out", config(map=mapping, roles={"omega": "state", "swapped": "output"}))
    data = read_trajectories(tmp_path / "out")
    np.testing.assert_array_equal(data.rows[:, 0], data.rows[:, 1])
    assert data.feature("swapped").labels == ("swapped[0]", "swapped[1]")
    options = config(map={"x": FeatureMap(key="robot/q", columns=[2])}, roles={"x": "state"})
    with pytest.raises(DataError, match=r"columns \[2\] of an array with 2 columns"):
        convert([tmp_path / "m.h5"], tmp_path / "other", options)


def test_map_needs_a_role_for_each_feature_unless_its_name_is_one(tmp_path: Path) -> None:
    write_grouped_file(tmp_path / "m.h5", pendulum(12))
    with pytest.raises(UsageError, match=r"data\.roles is missing for: angle, torque"):
        convert([tmp_path / "m.h5"], tmp_path / "out", config(map={"angle": "robot/q", "torque": "u"}))
    convert([tmp_path / "m.h5"], tmp_path / "out", config(map={"state": "robot/q", "control": "u"}))
    roles = [feature.role for feature in read_trajectories(tmp_path / "out").features]
    assert roles == ["state", "control"]


def test_roles_and_angles_of_the_file_can_be_overridden(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    options = config(roles={"obs": "output", "actions": "auxiliary"}, angles=["obs[0]"], dt=0.05)
    convert([tmp_path / "p.npz"], tmp_path / "out", options)
    obs, actions = read_trajectories(tmp_path / "out").features
    assert (obs.role, obs.angles, actions.role) == ("output", (True, False), "auxiliary")
    with pytest.raises(UsageError, match=r"no feature 'ob' .*did you mean 'obs'"):
        convert([tmp_path / "p.npz"], tmp_path / "a", config(roles={"ob": "state"}))
    with pytest.raises(UsageError, match=r"no entry 'obs\[2\]'"):
        convert([tmp_path / "p.npz"], tmp_path / "b", config(angles=["obs[2]"]))


def test_an_input_without_a_last_value_cannot_be_a_state(tmp_path: Path) -> None:
    write_nerd_file(tmp_path / "n.h5", pendulum(12))
    with pytest.raises(DataError, match="joint_acts cannot have the role state"):
        convert([tmp_path / "n.h5"], tmp_path / "out", config(roles={"joint_acts": "state"}))


def test_a_named_layout_that_is_not_there_says_what_is_missing(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    container = open_container(tmp_path / "p.npz")
    with pytest.raises(DataError, match=r"no 'observations', which the layout d4rl"):
        open_recording(container, config(layout="d4rl"))
    container.close()


@measured
def test_emps_gives_a_derived_velocity_and_its_two_splits(tmp_path: Path) -> None:
    mapping = {"position": "position", "velocity": FeatureMap(derivative_of="position"), "voltage": "voltage"}
    roles = {"position": "state", "velocity": "state", "voltage": "control"}
    manifest = convert([DATA / "emps.h5"], tmp_path / "out", config(map=mapping, roles=roles, decimate=5))
    data = read_trajectories(tmp_path / "out")
    assert data.keys == ("estimation", "test")
    assert data.given == ("train", "test")
    assert manifest.dt == pytest.approx(0.005)
    assert data.episodes.points.tolist() == [4969, 4969]
    position, velocity = data.rows[:4969, 0], data.rows[:4969, 1]
    assert np.corrcoef(np.gradient(position, 0.005), velocity)[0, 1] > 0.99


@measured
def test_measured_files_convert_with_their_episodes(tmp_path: Path) -> None:
    pendulum_file = convert([DATA / "expert_pendulum.npz"], tmp_path / "a", config())
    assert (pendulum_file.episodes, pendulum_file.points) == (100, 20000)
    cartpole = convert([DATA / "expert_cartpole.npz"], tmp_path / "b", config())
    assert (cartpole.episodes, cartpole.points) == (100, 49527)
    assert "cast to float32: actions (int64)" in cartpole.notices
    sawyer = convert([DATA / "sawyer_lift_demo.hdf5"], tmp_path / "c", config())
    assert [(f.name, f.width) for f in sawyer.features][:3] == [
        ("states", 33),
        ("joint_velocities", 7),
        ("gripper_actuations", 1),
    ]
    assert sawyer.episodes == 2
    tanks = config(map={"level": "level_voltage", "pump": "pump_voltage"}, roles={"level": "state", "pump": "control"})
    assert convert([DATA / "cascaded_tanks.h5"], tmp_path / "d", tanks).dt == 4.0


@measured
def test_expert_pendulum_obeys_its_physics_after_conversion(tmp_path: Path) -> None:
    convert([DATA / "expert_pendulum.npz"], tmp_path / "out", config())
    rows = read_trajectories(tmp_path / "out").rows.reshape(100, 200, 4).astype(np.float64)
    theta, omega = np.arctan2(rows[..., 1], rows[..., 0]), rows[..., 2]
    torque = np.clip(rows[..., 3], -2, 2)
    faster = omega + (15 * np.sin(theta) + 3 * torque) * 0.05
    np.testing.assert_allclose(np.clip(faster, -8, 8)[:, :-1], omega[:, 1:], atol=5e-6)
