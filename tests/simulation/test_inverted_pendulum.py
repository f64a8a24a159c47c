import copy
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import h5py
import mujoco
import numpy as np
import pytest
from click.testing import CliRunner
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.utils.env_checker import check_env

from ensemble.cli import cli
from ensemble.config.data import DataConfig, SimulateConfig
from ensemble.data.convert import convert
from ensemble.errors import UsageError
from ensemble.simulation import inverted_pendulum, simulate
from ensemble.simulation.inverted_pendulum import Draws, demonstrate, draw
from ensemble.simulation.pendulum_env import ENV_ID, THETA_LIMIT, PendulumEnv, pendulum_model
from ensemble.simulation.pendulum_expert import GAINS, PendulumExpert
from ensemble.simulation.pendulum_physics import Pendulums, first_fall, rollout

CONFIG = SimulateConfig(episodes=400, steps=100)
STARTS = [*range(9), *range(10, 25, 2), *range(27, 49, 3)]  # of the published training windows
EGL = {**os.environ, "MUJOCO_GL": "egl"}
RENDER = """
import gymnasium
from ensemble.simulation.pendulum_env import ENV_ID
env = gymnasium.make(ENV_ID, render_mode="rgb_array", width=64, height=48)
env.reset(seed=0)
picture = env.render()
assert picture.shape == (48, 64, 3) and picture.std() > 1, (picture.shape, picture.std())
"""


@pytest.fixture(scope="module")
def demonstrations() -> tuple[Draws, np.ndarray, np.ndarray]:
    draws = draw(CONFIG, 0, CONFIG.episodes)
    return draws, *demonstrate(draws)


def controls(count: int, steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-4, 4, (count, steps, 1))  # beyond the limit of the motor too


def starts(count: int, scale: float = 0.5) -> np.ndarray:
    return np.random.default_rng(1).uniform(-scale, scale, (count, 4))


def stepped(env: InvertedPendulumEnv, start: np.ndarray, actions: np.ndarray) -> np.ndarray:
    env.reset(seed=0)
    env.set_state(start[:2], start[2:])
    return np.array([start, *(env.step(action)[0] for action in actions)])


def test_the_environment_passes_gymnasiums_checks_and_is_reproducible_from_a_seed() -> None:
    env = gymnasium.make(ENV_ID)
    with warnings.catch_warnings():  # about spaces that are not within +-1, which are gymnasium's own here
        warnings.filterwarnings("ignore", category=UserWarning)
        check_env(env.unwrapped, skip_render_check=True)
    first, again, other = (env.reset(seed=seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_it_renders_where_there_is_opengl_without_a_screen() -> None:
    context = subprocess.run([sys.executable, "-c", "import mujoco; mujoco.GLContext(8, 8)"], env=EGL, check=False)
    if context.returncode:
        pytest.skip("no EGL here")
    subprocess.run([sys.executable, "-c", RENDER], env=EGL, check=True)


def test_an_episode_starts_within_a_half_unless_said_and_lasts_a_hundred_steps() -> None:
    env, near = gymnasium.make(ENV_ID), gymnasium.make(ENV_ID, reset_noise_scale=0.01)
    states = np.array([env.reset(seed=seed)[0] for seed in range(200)])
    assert 0.45 < np.abs(states).max() <= 0.5
    assert np.abs(near.reset(seed=0)[0]).max() <= 0.01
    expert, (observation, _) = PendulumExpert(), env.reset(seed=0)
    for step in range(1, 101):
        observation, reward, terminated, truncated, _ = env.step(expert.act(observation)[0])
        assert (reward, terminated, truncated) == (1, False, step == 100)


def test_the_environment_ends_where_first_fall_says_and_not_at_a_fifth_of_a_radian() -> None:
    env = PendulumEnv()
    for start in starts(10):
        env.reset(seed=0)
        env.set_state(start[:2], start[2:])
        fall = int(first_fall(rollout(start[None], np.zeros((1, 50, 1))))[0])
        results = [env.step(np.zeros(1)) for _ in range(fall)]
        assert [terminated for _, _, terminated, _, _ in results] == [False] * (fall - 1) + [True]
        assert [reward for _, reward, _, _, _ in results] == [1] * (fall - 1) + [0]
        assert abs(results[-1][0][1]) > THETA_LIMIT
        assert any(0.2 < abs(observation[1]) < THETA_LIMIT for observation, *_ in results[:-1])


def test_the_environment_survives_pickling_and_copying() -> None:
    env = PendulumEnv(reset_noise_scale=0.1, width=100)
    for twin in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        np.testing.assert_array_equal(twin.reset(seed=1)[0], env.reset(seed=1)[0])
        assert twin.width == 100


def test_a_rollout_is_the_stepped_environment_to_the_bit_even_at_the_stops_of_the_joints() -> None:
    start, actions = starts(6), controls(6, 120)
    actions[:2] = np.abs(actions[:2])  # pushed all the way to the end of the rail
    states = rollout(start, actions)
    env = PendulumEnv()
    np.testing.assert_array_equal(states, [stepped(env, *each) for each in zip(start, actions, strict=True)])
    assert np.abs(states[..., 1]).max() > np.pi / 2 - 0.1
    assert states[..., 0].max() > 9.9


def test_where_no_stop_is_reached_it_is_gymnasiums_own_pendulum_to_the_bit() -> None:
    start = starts(8, 0.2)
    actions = np.clip(controls(8, 15), -0.3, 0.3)
    env = InvertedPendulumEnv()
    stock = np.array([stepped(env, *each) for each in zip(start, actions, strict=True)])
    assert np.abs(stock[..., 0]).max() < 1
    assert np.abs(stock[..., 1]).max() < np.pi / 2
    np.testing.assert_array_equal(rollout(start, actions), stock)


def test_a_fleet_goes_on_to_the_bit_however_its_steps_are_cut_and_whoever_is_beside(monkeypatch) -> None:
    start, actions = starts(40), controls(40, 90)
    whole = rollout(start, actions)
    pendulums = Pendulums(start)
    pieces = [pendulums.advance(part) for part in np.split(actions, [1, 2, 11, 50], axis=1)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole[:, 1:])
    np.testing.assert_array_equal(pendulums.state, whole[:, -1])
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    np.testing.assert_array_equal(rollout(start[7:9], actions[7:9]), whole[7:9])


def test_the_pole_falls_as_a_rod_on_a_free_cart_does() -> None:
    model = pendulum_model()
    cart, pole = model.body("cart").mass[0], model.body("pole").mass[0]
    angle, centre = 0.3 + 0.001 / 0.6, np.hypot(0.0005, 0.3)  # of the pole's own line, m to its centre
    inertia = model.body("pole").inertia[0]
    mass = np.array([[cart + pole, pole * centre * np.cos(angle)], [pole * centre * np.cos(angle), 0]])
    mass[1, 1] = inertia + pole * centre**2
    expected = np.linalg.solve(mass, [100 * 0.5, pole * 9.81 * centre * np.sin(angle)])
    data = mujoco.MjData(model)
    data.qpos[1], data.ctrl[0] = 0.3, 0.5
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.qacc, expected, rtol=1e-5)


@pytest.mark.parametrize("start", [np.zeros(4), np.zeros((2, 3)), [[0, np.nan, 0, 0]]])
def test_a_start_that_is_no_state_is_refused(start: object) -> None:
    with pytest.raises(ValueError, match="start"):
        Pendulums(start)


@pytest.mark.parametrize("actions", [np.zeros((2, 3, 1)), np.zeros((1, 3)), np.full((1, 3, 1), np.nan)])
def test_controls_of_another_shape_or_not_finite_are_refused(actions: np.ndarray) -> None:
    with pytest.raises(ValueError, match="controls"):
        Pendulums(np.zeros((1, 4))).advance(actions)


def test_the_first_fall_is_a_point_and_one_past_the_end_where_there_is_none() -> None:
    states = np.zeros((3, 5, 4))
    states[0, [2, 4], 1] = [-0.8, 0.9]
    states[1, 3, 2] = np.inf
    np.testing.assert_array_equal(first_fall(states), [2, 3, 5])


def test_the_expert_keeps_every_pole_up_and_stills_it_as_published(demonstrations) -> None:
    _, states, _ = demonstrations
    assert (first_fall(states) == 101).all()
    calm = np.lib.stride_tricks.sliding_window_view(np.abs(states[:, :-1, 1]) < 0.02, 10, axis=1).all(axis=-1)
    assert calm.any(axis=1).all()
    assert calm.argmax(axis=1).mean() == pytest.approx(29.4, abs=1)  # 10 / sqrt(400) is a standard error


def test_the_experts_actions_vary_as_published(demonstrations) -> None:
    _, _, actions = demonstrations
    chunks = np.concatenate([actions[:, i : i + 50] for i in STARTS])
    assert len(STARTS) == 25
    assert chunks.var() == pytest.approx(0.041, abs=0.003)
    assert actions.var() == pytest.approx(0.125, abs=0.012)


def test_without_control_no_pole_stays_up(demonstrations) -> None:
    draws, _, _ = demonstrations
    falls = first_fall(rollout(draws.start, np.zeros((400, 100, 1))))
    assert (falls < 100).all()
    assert falls.mean() == pytest.approx(11.4, abs=0.8)


def test_the_expert_is_the_published_loop_of_two_pids() -> None:
    gains, observations = GAINS * [1.1, 0.9, 1, 0.95, 1.05, 1], starts(30, 0.4)
    expert, errors = PendulumExpert(gains), {"angle": (0.0, 0.0), "velocity": (0.0, 0.0)}

    def pid(name: str, error: float, kp: float, ki: float, kd: float) -> float:
        integral, previous = errors[name]
        errors[name] = (integral + error * 0.02, error)
        return kp * error + ki * (integral + error * 0.02) + kd * (error - previous) / 0.02

    for _, theta, velocity, _ in observations:
        lean = np.clip(pid("velocity", -velocity, *gains[3:]), -np.pi / 12, np.pi / 12)
        control = np.clip(pid("angle", lean - 0.00166666 - theta, *gains[:3]), -3, 3)
        np.testing.assert_allclose(expert.act(np.array([0, theta, velocity, 0])), [[control]], rtol=1e-12)


def test_experts_side_by_side_are_experts_alone_and_a_reset_forgets() -> None:
    observations = starts(5 * 6).reshape(5, 2, 3, 4)
    together = PendulumExpert()
    actions = [together.act(each) for each in observations]
    assert actions[0].shape == (2, 3, 1, 1)
    alone = PendulumExpert()
    np.testing.assert_array_equal([alone.act(each[1, 2]) for each in observations], [each[1, 2] for each in actions])
    together.reset()
    np.testing.assert_array_equal(together.act(observations[0]), actions[0])


def test_draws_fill_their_ranges(demonstrations) -> None:
    draws, _, _ = demonstrations
    for values, limit in ((draws.start, 0.5), (draws.gains / GAINS - 1, 0.1), (draws.noise, 0.05)):
        assert 0.98 * limit < np.abs(values).max() <= limit * (1 + 1e-9)
        np.testing.assert_allclose(values.std(axis=0), limit / np.sqrt(3), rtol=0.15)
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.15 * limit)


def test_the_noise_acts_but_is_not_recorded(demonstrations) -> None:
    draws, states, actions = demonstrations
    again = rollout(draws.start, np.clip(actions + draws.noise[..., None], -3, 3))
    np.testing.assert_array_equal(again, states)
    expert = PendulumExpert(draws.gains)
    np.testing.assert_array_equal(actions[:, 0], expert.act(states[:, 0])[:, 0])


def test_a_trajectory_does_not_depend_on_how_many_there_are_nor_how_long_they_are(tmp_path, monkeypatch) -> None:
    few, many = SimulateConfig(episodes=5, steps=8, seed=2), SimulateConfig(episodes=23, steps=11, seed=2)
    short = read(simulate("inverted_pendulum", few, tmp_path / "few.h5"))
    monkeypatch.setattr(inverted_pendulum, "BATCH", 7)
    seen: list[tuple[int, int]] = []
    long = read(simulate("inverted_pendulum", many, tmp_path / "many.h5", lambda *at: seen.append(at)))
    for name in ("observations", "actions", "next_observations"):
        values = long[name].reshape(23, 11, -1)[:5, :8]
        np.testing.assert_array_equal(values.reshape(40, -1), short[name])
    assert len(np.unique(long["observations"][::11, 0])) == 23
    assert seen == [(7, 23), (14, 23), (21, 23), (23, 23)]
    other = read(simulate("inverted_pendulum", few.model_copy(update={"seed": 3}), tmp_path / "other.h5"))
    assert (other["observations"] != short["observations"]).all()


def test_the_file_has_d4rls_layout_and_converts_without_a_map(tmp_path: Path) -> None:
    path = simulate("inverted_pendulum", SimulateConfig(episodes=12, steps=20), tmp_path / "ip.h5")
    arrays = read(path)
    shapes = {name: (values.shape, values.dtype) for name, values in arrays.items()}
    assert shapes == {
        "observations": ((240, 4), np.float32),
        "actions": ((240, 1), np.float32),
        "next_observations": ((240, 4), np.float32),
        "terminals": ((240,), bool),
        "timeouts": ((240,), bool),
    }
    assert not arrays["terminals"].any()
    np.testing.assert_array_equal(np.flatnonzero(arrays["timeouts"]), np.arange(19, 240, 20))
    manifest = convert([path], tmp_path / "shards", DataConfig(path=str(path)))
    assert (manifest.episodes, manifest.points) == (12, 12 * 21)


def test_the_command_simulates_it(tmp_path: Path) -> None:
    path = str(tmp_path / "ip.h5")
    made = CliRunner().invoke(cli, ["simulate", "inverted_pendulum", "--episodes", "7", "--steps", "5", "--out", path])
    assert (made.exit_code, made.stdout.splitlines()) == (
        0,
        [f"{path}: 7 episodes of 5 transitions, by the expert", f"next: ensemble inspect {path}"],
    )
    assert len(read(Path(path))["actions"]) == 35


def test_random_torques_are_refused_since_the_expert_drives(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expert drives"):
        simulate("inverted_pendulum", SimulateConfig(passive=False), tmp_path / "no.h5")
    with pytest.raises(ValueError, match="driven by its expert"):
        DataConfig(source="inverted_pendulum", simulate=SimulateConfig(passive=False))


def read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}
