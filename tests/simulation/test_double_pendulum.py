import subprocess
import sys
from pathlib import Path

import h5py
import mujoco
import numpy as np
import pytest

from ensemble.config.data import SimulateConfig
from ensemble.errors import UsageError
from ensemble.simulation import double_pendulum, simulate
from ensemble.simulation.double_pendulum import MODEL, TORQUE_LIMIT, rollout, root_pose

SMALL = SimulateConfig(episodes=5, steps=7, seed=3, passive=False)
NO_TORQUE = np.zeros((1, 300, 2), np.float32)


def read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file["data"][name][()] for name in file["data"]}


def energy(states: np.ndarray) -> np.ndarray:
    """Kinetic and potential energy in J of states (.., 4), from the textbook and the shape of a capsule alone."""
    radius, half, density, gravity = 0.1, 0.75, 500, 9.81
    tube, ball = density * np.pi * radius**2 * 2 * half, density * 4 / 3 * np.pi * radius**3
    mass = tube + ball
    about_centre = tube * ((2 * half) ** 2 / 12 + radius**2 / 4)
    about_centre += ball * (2 / 5 * radius**2 + half**2 + 3 / 4 * half * radius)
    first, second = states[..., 0], states[..., 0] + states[..., 1]
    rate_1, rate_2 = states[..., 2], states[..., 2] + states[..., 3]
    speed_1 = (half * rate_1) ** 2
    speed_2 = (2 * half * rate_1) ** 2 + (half * rate_2) ** 2
    speed_2 = speed_2 + 4 * half**2 * rate_1 * rate_2 * np.cos(second - first)
    kinetic = 0.5 * mass * (speed_1 + speed_2) + 0.5 * about_centre * (rate_1**2 + rate_2**2)
    height = -half * np.sin(first) - 2 * half * np.sin(first) - half * np.sin(second)
    return kinetic + mass * gravity * height


def test_hanging_down_it_stays_at_rest() -> None:
    states = rollout(np.array([[np.pi / 2, 0, 0, 0]]), NO_TORQUE)
    np.testing.assert_allclose(states[0], np.broadcast_to([np.pi / 2, 0, 0, 0], (301, 4)), atol=1e-9)


def test_without_torques_energy_is_conserved() -> None:
    start = np.array([[0, 0, 0, 0], [1, -2, 5, -9], [-3, 3, -6.2, 12.5], [np.pi / 2, 0.1, 0, 0]])
    total = energy(rollout(start, np.repeat(NO_TORQUE, 4, axis=0)))
    np.testing.assert_allclose(total, np.broadcast_to(total[:, :1], total.shape), atol=0.05)


def test_released_from_the_horizontal_it_falls_as_a_rigid_body_does() -> None:
    states = rollout(np.zeros((1, 4)), NO_TORQUE[:, :1])
    expected = _acceleration_at_the_horizontal() / 60
    np.testing.assert_allclose(states[0, 1, 2:], expected, rtol=2e-3)


def _acceleration_at_the_horizontal() -> np.ndarray:
    """Solve M(q) qdd = gravity at q = 0, qd = 0, with M and gravity from the derivatives of the energy."""
    kinetic = lambda rates: energy(np.array([0, 0, *rates])) - energy(np.zeros(4))  # noqa: E731
    one, two, both = kinetic([1, 0]), kinetic([0, 1]), kinetic([1, 1])
    mass = np.array([[2 * one, both - one - two], [both - one - two, 2 * two]])
    step = 1e-6
    slope = [(energy(step * np.eye(4)[i]) - energy(-step * np.eye(4)[i])) / (2 * step) for i in range(2)]
    return np.linalg.solve(mass, -np.array(slope))


def test_a_torque_at_the_elbow_turns_the_links_against_each_other() -> None:
    torque = np.broadcast_to(np.array([0, 100], np.float32), (1, 5, 2))
    last = rollout(np.array([[np.pi / 2, 0, 0, 0]]), torque)[0, -1]
    assert last[3] > 0 > last[2]


def test_the_pose_of_the_first_link_is_that_of_mujoco() -> None:
    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    for angle in (0.0, 0.4, np.pi / 2, -5.0):
        data.qpos[:] = [angle, 0.3]
        mujoco.mj_forward(model, data)
        pose = root_pose(np.array(angle))
        np.testing.assert_allclose(pose[:3], data.body("upper").xipos, atol=1e-12)
        np.testing.assert_allclose(np.abs(pose[[6, 3, 4, 5]]), np.abs(data.body("upper").xquat), atol=1e-12)


def test_the_same_seed_gives_the_same_file_to_the_bit(tmp_path: Path) -> None:
    first, second = (read(simulate("double_pendulum", SMALL, tmp_path / name)) for name in ("a.hdf5", "b.hdf5"))
    other = read(simulate("double_pendulum", SMALL.model_copy(update={"seed": 4}), tmp_path / "c.hdf5"))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    assert not np.isclose(first["states"], other["states"]).any()


def test_a_trajectory_does_not_depend_on_how_many_there_are(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(double_pendulum, "BATCH_FRAMES", 7 * 90)
    many = SMALL.model_copy(update={"episodes": 300})
    few, more = (read(simulate("double_pendulum", each, tmp_path / f"{each.episodes}.hdf5")) for each in (SMALL, many))
    for name, values in few.items():
        np.testing.assert_array_equal(values, more[name][:, :5])
    assert len(np.unique(more["states"][0, :, 0])) == 300


def test_the_file_has_the_layout_of_nerd(tmp_path: Path) -> None:
    path = simulate("double_pendulum", SMALL, tmp_path / "pendulum.hdf5")
    arrays = read(path)
    shapes = {name: values.shape for name, values in arrays.items()}
    assert shapes == {
        "states": (7, 5, 4),
        "next_states": (7, 5, 4),
        "joint_acts": (7, 5, 2),
        "gravity_dir": (7, 5, 3),
        "root_body_q": (7, 5, 7),
    }
    assert {values.dtype for values in arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(arrays["next_states"][:-1], arrays["states"][1:])
    assert (arrays["gravity_dir"] == [0, 0, -1]).all()
    with h5py.File(path) as file:
        attributes = dict(file["data"].attrs)
    assert attributes["mode"] == "trajectory"
    assert (attributes["total_trajectories"], attributes["total_transitions"]) == (5, 35)


def test_a_passive_data_set_has_no_torques(tmp_path: Path) -> None:
    passive = SMALL.model_copy(update={"passive": True})
    assert "joint_acts" not in read(simulate("double_pendulum", passive, tmp_path / "passive.hdf5"))


def test_stored_torques_and_states_reproduce_the_trajectory(tmp_path: Path) -> None:
    arrays = read(simulate("double_pendulum", SMALL, tmp_path / "a.hdf5"))
    again = rollout(arrays["states"][0].astype(np.float64), arrays["joint_acts"].swapaxes(0, 1))
    np.testing.assert_allclose(again[:, 1:].swapaxes(0, 1), arrays["next_states"], rtol=1e-4, atol=1e-4)


def test_initial_states_and_torques_fill_their_ranges(tmp_path: Path) -> None:
    config = SimulateConfig(episodes=2000, steps=1, passive=False)
    seen: list[tuple[int, int]] = []
    arrays = read(simulate("double_pendulum", config, tmp_path / "a.hdf5", lambda *at: seen.append(at)))
    limits = np.array([np.pi, np.pi, 2 * np.pi, 4 * np.pi])
    for values, limit in ((arrays["states"][0], limits), (arrays["joint_acts"][0], TORQUE_LIMIT)):
        scaled = values / limit
        assert (np.abs(scaled) <= 1 + 1e-6).all()
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=0.06)
        np.testing.assert_allclose(scaled.std(axis=0), 1 / np.sqrt(3), atol=0.03)
        correlation = np.corrcoef(scaled.T) - np.eye(scaled.shape[1])
        assert np.abs(correlation).max() < 0.1
    assert seen[-1] == (2000, 2000)


def test_an_unknown_environment_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown environment 'ant'; there is double_pendulum"):
        simulate("ant", SMALL, tmp_path / "a.hdf5")


def test_naming_environments_does_not_import_mujoco() -> None:
    code = "import sys, ensemble.simulation; assert 'mujoco' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
