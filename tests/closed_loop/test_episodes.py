from pathlib import Path

import h5py
import numpy as np
import pytest

from ensemble.closed_loop.episodes import (
    Episodes,
    Outcome,
    draw_episodes,
    first_calm,
    record_episodes,
    run_episodes,
    summarize,
)
from ensemble.simulation.controllers import Controller, ZeroControl
from ensemble.simulation.pendulum_env import PendulumEnv
from ensemble.simulation.pendulum_expert import PendulumExpert

EPISODES = draw_episodes(30)


class Chunks:
    """A linear policy that says H steps of a fading control, each member with a gain of its own."""

    def __init__(self, gains: np.ndarray, horizon: int = 5) -> None:
        self.gains, self.horizon, self.calls = gains, horizon, 0

    def reset(self) -> None:
        self.calls = 0

    def act(self, observation: np.ndarray) -> np.ndarray:
        self.calls += 1
        x, theta, x_dot, theta_dot = np.moveaxis(observation, -1, 0)
        lean = 0.05 * x + theta + 0.1 * x_dot + 0.15 * theta_dot  # (.., N)
        gains = self.gains[:, None] if observation.ndim == 3 else self.gains
        return (gains * lean)[..., None, None] * 0.5 ** np.arange(self.horizon)[:, None]


class Broken:
    """Zero control whose fifth action is no number, in episode 1 only."""

    def reset(self) -> None: ...

    def act(self, observation: np.ndarray) -> np.ndarray:
        chunk = np.zeros((*observation.shape[:-1], 100, 1))
        chunk[..., 1, 4, 0] = np.nan
        return chunk


def one_by_one(controller: Controller, episodes: Episodes, replan: int, noise: float) -> list[dict[str, object]]:
    """Drive one gymnasium environment at a time, as the original's script does."""
    env, rows = PendulumEnv(), []
    for start, disturbance in zip(*episodes, strict=True):
        env.reset(seed=0)
        env.set_state(start[:2], start[2:])
        controller.reset()
        observation, after, terminated = start, [], False
        while not terminated and len(after) < 100:
            for action in controller.act(observation)[:replan]:
                applied = np.clip(action + noise * disturbance[len(after)], -3, 3)
                observation, _, terminated, _, _ = env.step(applied)
                after.append(observation)
                if terminated or len(after) == 100:
                    break
        theta, calm = np.array(after)[:, 1], np.nan
        for i in range(len(theta) - 9):
            if (np.abs(theta[i : i + 10]) < 0.02).all():
                calm = i
                break
        rows.append({"states": np.array([start, *after]), "fell": terminated, "converged": calm})
    return rows


@pytest.mark.parametrize("replan", [2, 3, 13])
def test_episodes_side_by_side_are_those_of_one_environment_at_a_time_to_the_bit(replan: int) -> None:
    gains = np.array([2.0, 4.0, 6.0])
    outcome = run_episodes(Chunks(gains), EPISODES, members=3, replan=replan, noise=0.03)
    for member, gain in enumerate(gains):
        for episode, row in enumerate(one_by_one(Chunks(gain), EPISODES, replan, 0.03)):
            taken = len(row["states"]) - 1
            at = member, episode
            assert (outcome.steps[at], outcome.fell[at]) == (taken, row["fell"])
            np.testing.assert_array_equal(outcome.states[at][: taken + 1], row["states"])
            np.testing.assert_equal(outcome.converged[at], row["converged"])
            assert outcome.velocity[at] == pytest.approx(row["states"][1:, 2].sum())
    assert 0 < outcome.fell.sum() < outcome.fell.size


def test_the_cart_velocity_is_measured_over_all_steps_that_were_taken() -> None:
    gains = np.array([2.0, 6.0])
    outcome = run_episodes(Chunks(gains), EPISODES, members=2)
    for member, gain in enumerate(gains):
        rows = one_by_one(Chunks(gain), EPISODES, 10, 0.05)
        velocities = np.concatenate([row["states"][1:, 2] for row in rows])
        assert summarize(outcome)["cart_velocity_std"][member] == pytest.approx(velocities.std())


def test_members_alone_are_members_together_and_meet_the_same_episodes() -> None:
    together = run_episodes(Chunks(np.array([1.0, 2.0])), EPISODES, members=2)
    alone = run_episodes(Chunks(np.array([2.0])), EPISODES)
    np.testing.assert_array_equal(together.states[1], alone.states[0])
    np.testing.assert_array_equal(together.states[:, :, 0], np.broadcast_to(EPISODES.start, (2, 30, 4)))


def test_the_expert_is_asked_at_every_step_and_succeeds_always() -> None:
    outcome = run_episodes(PendulumExpert(), EPISODES, replan=10, noise=0.05)
    rows = summarize(outcome)
    assert (rows["success"][0], rows["converge_rate"][0], rows["episode_length"][0]) == (1, 1, 100)
    assert rows["success_se"][0] == 0
    assert 24 < rows["converge_step"][0] < 33
    stepped = one_by_one(PendulumExpert(), EPISODES, 1, 0.05)
    np.testing.assert_array_equal(outcome.states[0], [row["states"] for row in stepped])


def test_zero_control_never_succeeds() -> None:
    rows = summarize(run_episodes(ZeroControl(), draw_episodes(400), noise=0.0))
    assert (rows["success"][0], rows["converge_rate"][0]) == (0, 0)
    assert np.isnan(rows["converge_step"][0])
    assert rows["episode_length"][0] == pytest.approx(11.4, abs=0.9)


def test_an_episode_depends_on_its_seed_and_number_alone_whoever_drives() -> None:
    few, many, other = draw_episodes(5, 30, seed=1), draw_episodes(50, 100, seed=1), draw_episodes(5, 30, seed=2)
    np.testing.assert_array_equal(few.start, many.start[:5])
    np.testing.assert_array_equal(few.noise, many.noise[:5, :30])
    assert (few.start != other.start).all()
    assert len(np.unique(many.start)) == 200
    assert np.abs(many.start).max() <= 0.5
    assert np.abs(many.noise).max() <= 1


@pytest.mark.parametrize(("replan", "horizon", "calls"), [(10, 20, 10), (13, 20, 8), (50, 20, 5), (200, 100, 1)])
def test_a_new_chunk_is_asked_for_every_replan_steps_or_when_it_is_used_up(replan, horizon, calls) -> None:
    controller = Chunks(np.array([2.0]), horizon)
    assert run_episodes(controller, EPISODES, replan=replan).states.shape == (1, 30, 101, 4)
    assert controller.calls == calls


def test_a_fall_exactly_at_the_last_step_is_a_success_as_in_the_original() -> None:
    whole = run_episodes(ZeroControl(), EPISODES, noise=0.0)
    fall = int(whole.steps[0, 0])
    for steps, fell in ((fall, True), (fall - 1, False)):
        cut = run_episodes(ZeroControl(), Episodes(EPISODES.start[:1], EPISODES.noise[:1, :steps]), noise=0.0)
        assert (cut.steps[0, 0], cut.success[0, 0], cut.fell[0, 0]) == (steps, True, fell)
    assert not whole.success[0, 0]


def test_calm_is_ten_steps_in_a_row() -> None:
    calm = np.zeros((4, 25), bool)
    calm[0, 3:13] = calm[1, 3:12] = calm[1, 13:25] = calm[2, 15:24] = calm[3] = True
    np.testing.assert_array_equal(first_calm(calm), [3, 13, np.nan, 0])
    assert np.isnan(first_calm(calm[:, :9])).all()


def test_an_action_that_is_no_number_ends_its_episode_and_no_other() -> None:
    start = np.zeros((3, 4))
    outcome = run_episodes(Broken(), Episodes(start, np.zeros((3, 100))), replan=100)
    assert outcome.steps[0, 1] == 4
    assert outcome.fell[0, 1]
    assert not outcome.success[0, 1]
    np.testing.assert_array_equal(outcome.steps[0, [0, 2]], outcome.steps[0, 0])
    assert outcome.steps[0, 0] > 10


def test_a_chunk_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 30, H, 1\), not \(2, 30, 1, 3\)"):
        run_episodes(ZeroControl(actions=3), EPISODES, members=2)


def test_the_summary_is_that_of_counting_by_hand() -> None:
    outcome = run_episodes(Chunks(np.array([2.0, 4.0])), EPISODES, members=2, replan=3)
    rows = summarize(outcome)
    assert 0 < rows["success"][1] < 1
    for member in range(2):
        success = outcome.steps[member] == 100
        assert rows["success"][member] == success.mean()
        assert rows["success_se"][member] == pytest.approx(np.sqrt(success.mean() * (1 - success.mean()) / 30))
        assert rows["episode_length"][member] == pytest.approx(outcome.steps[member].mean())
        converged = outcome.converged[member][np.isfinite(outcome.converged[member])]
        assert rows["converge_rate"][member] == len(converged) / 30
        if len(converged):
            assert rows["converge_step"][member] == pytest.approx(converged.mean())
            assert rows["converge_step_se"][member] == pytest.approx(converged.std() / np.sqrt(len(converged)))


def test_all_members_pooled_are_one_member_of_all_their_episodes() -> None:
    outcome = run_episodes(Chunks(np.array([2.0, 6.0])), EPISODES, members=2)
    pooled, each = summarize(outcome.pooled()), summarize(outcome)
    for name in ("success", "converge_rate", "episode_length"):
        assert pooled[name].shape == (1,)
        assert pooled[name][0] == pytest.approx(each[name].mean())
    assert outcome.pooled().states.shape == (1, 60, 101, 4)


def test_recorded_episodes_end_where_they_ended_and_falls_are_terminals(tmp_path: Path) -> None:
    outcome = run_episodes(Chunks(np.array([2.0, 6.0])), EPISODES, members=2)
    record_episodes(outcome, tmp_path / "loop.h5")
    with h5py.File(tmp_path / "loop.h5") as file:
        arrays = {name: file[name][()] for name in file}
    ends = np.flatnonzero(arrays["terminals"] | arrays["timeouts"])
    np.testing.assert_array_equal(np.diff(ends, prepend=-1), outcome.steps.ravel())
    np.testing.assert_array_equal(arrays["terminals"][ends], outcome.fell.ravel())
    np.testing.assert_array_equal(arrays["next_observations"][ends], last_states(outcome))
    begins = np.append(0, ends[:-1] + 1)
    np.testing.assert_array_equal(arrays["actions"][begins], outcome.actions[:, :, 0].reshape(60, 1).astype("f4"))


def last_states(outcome: Outcome) -> np.ndarray:
    rows = np.take_along_axis(outcome.states, outcome.steps[..., None, None], axis=2)
    return rows.reshape(60, 4).astype(np.float32)
