"""Ends of episodes that a file does not mark: found where the state jumps, said, and cut when asked to."""

from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from layout_files import config, pendulum, write_npz_file

from ensemble.data.convert import convert
from ensemble.data.inspect import inspect_file
from ensemble.data.jumps import jump_rows
from ensemble.data.manifest import Manifest, options_hash
from ensemble.data.trajectories import read_trajectories
from ensemble.errors import DataError


def paths(episodes: int, points: int, seed: int = 0, width: int = 4) -> list[npt.NDArray[np.float32]]:
    """Smooth driven paths (points, width) from random starts."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(episodes):
        drive = np.cumsum(random.uniform(-0.03, 0.03, (points, width)), axis=0)
        made.append((random.normal(size=width) + drive).astype(np.float32))
    return made


def write_d4rl(
    path: Path,
    episodes: Sequence[npt.NDArray[np.float32]],
    terminals: Sequence[int] = (),
    timeouts: Sequence[int] | None = None,
    following: bool = True,
) -> None:
    """Write episodes end to end; `terminals` and `timeouts` are the numbers of episodes that a flag ends."""
    counts = [len(each) - following for each in episodes]
    last = np.cumsum(counts) - 1
    arrays = {"observations": np.concatenate([e[:n] for e, n in zip(episodes, counts, strict=True)])}
    arrays["actions"] = np.zeros((sum(counts), 1), np.float32)
    if following:
        arrays["next_observations"] = np.concatenate([e[1:] for e in episodes])
    for name, marked in (("terminals", terminals), ("timeouts", timeouts)):
        if marked is not None:
            arrays[name] = np.isin(np.arange(sum(counts)), last[list(marked)])
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def converted(path: Path, **options: object) -> Manifest:
    return convert([path], path.with_suffix(".shards"), config(**options))


def notice(manifest: Manifest, words: str) -> str:
    return next(each for each in manifest.notices if words in each)


def test_long_episodes_without_timeouts_stay_whole_where_next_observations_shows_their_ends(tmp_path: Path) -> None:
    episodes = paths(5, 2001)
    write_d4rl(tmp_path / "d.h5", episodes, terminals=range(5))
    manifest = converted(tmp_path / "d.h5")
    assert manifest.episodes == 5
    np.testing.assert_array_equal(read_trajectories(tmp_path / "d.shards").rows[:, :4], np.concatenate(episodes))
    assert "next_observations shows no other ends than the marked ones" in notice(manifest, "no timeouts")


@pytest.mark.parametrize("timeouts", [None, ()], ids=["without timeouts", "with timeouts that are all false"])
def test_episodes_end_where_next_observations_is_not_the_next_row(
    tmp_path: Path, timeouts: Sequence[int] | None
) -> None:
    episodes = paths(12, 41)
    write_d4rl(tmp_path / "d.h5", episodes, terminals=[1, 5, 6], timeouts=timeouts)
    manifest = converted(tmp_path / "d.h5")
    assert manifest.episodes == 12
    np.testing.assert_array_equal(read_trajectories(tmp_path / "d.shards").rows[:, :4], np.concatenate(episodes))
    assert "8 of 12 episodes end where next_observations is not the next row" in notice(manifest, "no timeouts")


def test_only_without_next_observations_long_episodes_are_cut_after_a_thousand_steps(tmp_path: Path) -> None:
    write_d4rl(tmp_path / "d.h5", [*paths(2, 2500), *paths(1, 900)], terminals=range(3), following=False)
    manifest = converted(tmp_path / "d.h5")
    assert manifest.episodes == 7
    said = notice(manifest, "no timeouts and no next_observations")
    assert "2 of 3 episodes are longer than 1000 steps and cut after each 1000, which gives 7" in said


def test_timeouts_that_contradict_next_observations_are_an_error_until_cuts_are_asked_for(tmp_path: Path) -> None:
    episodes = paths(12, 41)
    write_d4rl(tmp_path / "d.h5", episodes, terminals=[1], timeouts=[0, 2, 3, 4, 5, 7, 8, 9, 11])
    with pytest.raises(DataError, match=r"2 of 10 episodes cannot be used"):
        converted(tmp_path / "d.h5")
    manifest = converted(tmp_path / "d.h5", cut_at_jumps=True)
    assert manifest.episodes == 12
    assert "2 of 12 episodes end where next_observations is not the next row" in notice(manifest, "cut at jumps:")


def test_unmarked_ends_are_named_with_episode_and_step_and_cut_when_asked_to(tmp_path: Path) -> None:
    episodes = paths(12, 40)
    write_d4rl(tmp_path / "d.h5", episodes, terminals=range(0, 12, 2), timeouts=(), following=False)
    manifest = converted(tmp_path / "d.h5")
    assert manifest.episodes == 7
    said = notice(manifest, "far more than all others")
    assert said.startswith("5 steps change")
    assert "episode-1 from step 39 to 40" in said
    assert "--cut-at-jumps" in said
    assert any("episode-1 from step 39 to 40" in line for line in inspect_file(tmp_path / "d.h5").lines())

    cut = convert([tmp_path / "d.h5"], tmp_path / "cut", config(cut_at_jumps=True))
    assert cut.episodes == 12
    assert "7 episodes became 12: 5 cuts" in notice(cut, "cut at jumps")
    data = read_trajectories(tmp_path / "cut")
    assert data.keys[:4] == ("episode-0", "episode-1-part-1", "episode-1-part-2", "episode-2-part-1")
    assert data.episodes.points.tolist() == [40] * 12
    np.testing.assert_array_equal(data.rows[:, :4], np.concatenate(episodes))
    assert cut.fingerprint != manifest.fingerprint  # a control's last row is zero at the new ends


def test_every_layout_reports_jumps(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for number, pair in enumerate(zip(paths(3, 50, seed=1), paths(3, 50, seed=2), strict=True)):
            file[f"run{number}/q"] = np.concatenate(pair)
    options = {"map": {"state": "q"}}
    assert "run1 from step 49 to 50" in notice(converted(tmp_path / "m.h5", **options), "far more")
    assert converted(tmp_path / "m.h5", **options).episodes == 3
    assert convert([tmp_path / "m.h5"], tmp_path / "cut", config(cut_at_jumps=True, **options)).episodes == 6


def test_without_jumps_asking_for_cuts_changes_nothing(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    plain = converted(tmp_path / "p.npz")
    asked = convert([tmp_path / "p.npz"], tmp_path / "cut", config(cut_at_jumps=True))
    assert asked.fingerprint == plain.fingerprint
    assert "cut at jumps: there are none" in asked.notices
    assert not [each for each in plain.notices if "jump" in each]


def test_the_option_is_part_of_the_hash_of_options_only_when_it_is_set() -> None:
    plain = config()
    assert "cut_at_jumps" not in plain.model_dump(mode="json")
    assert options_hash(plain) != options_hash(config(cut_at_jumps=True))


def spinning(points: int) -> npt.NDArray[np.float64]:
    """An angle in radians that wraps, one in degrees that wraps, and their rates, (points, 4)."""
    random = np.random.default_rng(3)
    rate = 0.2 + 0.02 * np.sin(np.arange(points) / 30)
    angle = np.cumsum(rate) + 0.01 * random.normal(size=points)
    return np.stack([(angle + np.pi) % (2 * np.pi) - np.pi, np.degrees(angle) % 360, rate, 2 * rate], axis=1)


def turning_camera(points: int) -> npt.NDArray[np.float64]:
    """A position and a quaternion whose sign flips now and then, (points, 7)."""
    half = np.arange(points) / 80
    quaternion = np.stack([np.cos(half), np.sin(half), 0.0 * half, 0.0 * half], axis=1)
    quaternion = np.concatenate([quaternion[:, :2] * 0.6, quaternion[:, :2] * 0.8], axis=1)
    quaternion[points // 2 : points // 2 + 40] *= -1
    return np.concatenate([np.stack([np.sin(half), half / 5, np.cos(2 * half)], axis=1), quaternion], axis=1)


def bouncing(points: int) -> npt.NDArray[np.float64]:
    """Height and velocity of a ball whose velocity turns at each impact, with a quiet joint beside it, (points, 4)."""
    height, velocity, rows = 1.0, 0.0, []
    for step in range(points):
        velocity -= 9.81 * 0.02
        height += velocity * 0.02
        if height < 0:
            height, velocity = -height, -0.8 * velocity
        rows.append([height, velocity, np.sin(step / 40), np.cos(step / 40)])
    return np.array(rows)


def switching(points: int) -> npt.NDArray[np.float64]:
    """A setpoint that switches once, and a slow response, (points, 2)."""
    setpoint = (np.arange(points) > points // 2).astype(float)
    return np.stack([setpoint, 1 - np.exp(-np.maximum(np.arange(points) - points // 2, 0) / 60)], axis=1)


@pytest.mark.parametrize("make", [spinning, turning_camera, bouncing, switching])
def test_wrapped_angles_flipped_quaternions_impacts_and_setpoints_are_no_jumps(
    make: Callable[[int], npt.NDArray[np.float64]],
) -> None:
    rows = make(400)
    assert jump_rows([(rows, [False] * rows.shape[1])], np.array([400])).tolist() == []
    joined = np.concatenate([rows[:150], rows[310:]])  # the rule still sees a jump beside them
    assert jump_rows([(joined, [False] * rows.shape[1])], np.array([240])).tolist() == [149]


def test_noise_has_no_jumps() -> None:
    rows = np.random.default_rng(0).normal(size=(600, 5))
    assert jump_rows([(rows, [False] * 5)], np.full(10, 60)).tolist() == []


def test_jumps_are_looked_for_inside_episodes_alone() -> None:
    episodes = paths(10, 40)
    rows = np.concatenate(episodes)
    assert jump_rows([(rows, [False] * 4)], np.full(10, 40)).tolist() == []
    assert jump_rows([(rows, [False] * 4)], np.array([80, *[40] * 8])).tolist() == [39]
