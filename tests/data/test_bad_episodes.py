"""Episodes that cannot be used: all named at once with reasons, or left out and counted when asked to."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from layout_files import (
    CASES,
    Episode,
    config,
    pendulum,
    write_d4rl_file,
    write_grouped_file,
    write_robomimic_file,
    write_robosuite_file,
)

from ensemble.cli import cli
from ensemble.data.convert import convert
from ensemble.data.inspect import inspect_file
from ensemble.data.trajectories import read_trajectories
from ensemble.errors import DataError


def refusal(path: Path, **options: object) -> str:
    """The message that a conversion is refused with; it leaves no shard."""
    out = path.parent / "refused"
    with pytest.raises(DataError) as raised:
        convert([path], out, config(**options))
    assert not list(out.glob("*.parquet"))
    return str(raised.value)


def spoil(path: Path) -> None:
    """Empty demo_2, take an array from demo_4, the rows from demo_5, and a row of one array from demo_7."""
    with h5py.File(path, "r+") as file:
        data = file["data"]
        for key in list(data["demo_2"]):
            del data["demo_2"][key]
        del data["demo_4/obs/state"]
        for demo, rows in (("demo_5", 0), ("demo_7", -1)):
            keys = ("actions", "obs/state", "next_obs/state") if rows == 0 else ("actions",)
            for key in keys:
                values = data[demo][key][:rows]
                del data[demo][key]
                data[demo][key] = values
        data["demo_8"].attrs["num_samples"] = 3
        rows = len(data["demo_9/actions"])
        del data["demo_9/actions"]
        data["demo_9/actions"] = np.zeros((rows, 2), np.float32)


def test_all_bad_demonstrations_are_named_at_once_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(14))
    spoil(path)
    message = refusal(path)
    assert "6 of 14 episodes cannot be used" in message
    assert "episode data/demo_2: holds no arrays" in message
    assert "episode data/demo_4: no 'data/demo_4/obs/state'" in message
    assert "episode data/demo_5: its arrays have 0 rows" in message
    assert "episode data/demo_7: unequal numbers of rows: obs/state has 18, actions has 17" in message
    assert "episode data/demo_8: declared total 3 samples in data/demo_8, found 25" in message
    assert "episode data/demo_9: obs/state (n, 2) float32, actions (n, 2) float32" in message
    assert "--drop-bad-episodes" in message


def test_bad_demonstrations_are_left_out_and_counted_by_reason_when_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    episodes = pendulum(14)
    write_robomimic_file(path, episodes)
    spoil(path)
    manifest = convert([path], tmp_path / "out", config(drop_bad_episodes=True))
    for reason in ("without arrays", "that lack an array", "of 0 rows", "with unequal numbers of rows"):
        assert f"1 episode {reason} left out" in manifest.notices
    assert "1 episode of another number of rows than they declare left out" in manifest.notices
    assert "1 episode of other columns or types left out" in manifest.notices
    data = read_trajectories(tmp_path / "out")
    good = [e for i, e in enumerate(episodes) if i not in (2, 4, 5, 7, 8, 9)]
    np.testing.assert_array_equal(data.rows[:, data.columns("state")], np.concatenate([e.states for e in good]))
    assert data.keys[2:4] == ("demo_3", "demo_6")


def test_the_first_demonstration_may_be_the_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(12))
    with h5py.File(path, "r+") as file:
        for key in list(file["data/demo_0"]):
            del file["data/demo_0"][key]
    assert "1 of 12 episodes cannot be used\n  episode data/demo_0: holds no arrays" in refusal(path)
    assert convert([path], tmp_path / "out", config(drop_bad_episodes=True)).episodes == 11


def test_inspect_lists_the_episodes_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(14))
    spoil(path)
    lines = inspect_file(path).lines()
    assert "6 of 14 episodes cannot be used; drop_bad_episodes leaves them out:" in lines
    assert "  episode data/demo_5: its arrays have 0 rows" in lines


def test_of_many_bad_episodes_ten_are_named_and_the_others_counted_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(40))
    with h5py.File(path, "r+") as file:
        for number in range(0, 30, 2):
            del file[f"data/demo_{number}/actions"]
        for number in range(31, 35):
            for key in list(file[f"data/demo_{number}"]):
                del file[f"data/demo_{number}"][key]
    lines = refusal(path).splitlines()
    assert "19 of 40 episodes cannot be used" in lines[0]
    assert len([line for line in lines if line.startswith("  episode")]) == 10
    assert "  and 9 more: 5 episodes that lack an array, 4 episodes without arrays" in lines


def test_nothing_usable_is_an_error_whatever_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(12))
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo.attrs["num_samples"] = 1
    message = refusal(path, drop_bad_episodes=True)
    assert "0 of 12 episodes are usable" in message
    assert "--drop-bad-episodes" not in message


@pytest.mark.parametrize(
    ("write", "key", "options"),
    [
        (write_robosuite_file, "data/demo_3/joint_velocities", {}),
        (write_grouped_file, "run3/u", {"map": {"state": "robot/q", "control": "u"}}),
    ],
    ids=["robosuite", "map"],
)
def test_every_layout_of_groups_refuses_episodes_with_the_same_override(
    tmp_path: Path, write: Callable, key: str, options: dict
) -> None:
    path = tmp_path / "g.h5"
    write(path, pendulum(12))
    group = key.rpartition("/")[0]
    with h5py.File(path, "r+") as file:
        del file[key]
        for name in list(file[f"{group[:-1]}5"]):
            del file[f"{group[:-1]}5"][name]
    message = refusal(path, **options)
    assert f"episode {group}: no '{key}'" in message
    assert f"episode {group[:-1]}5: holds no arrays" in message
    assert convert([path], tmp_path / "out", config(drop_bad_episodes=True, **options)).episodes == 10


def test_every_episode_with_a_bad_number_is_named_at_once(tmp_path: Path) -> None:
    case = CASES["d4rl"]
    episodes = pendulum(13)
    for number, column in ((2, 0), (5, 1), (12, 0)):
        episodes[number].states[3, column] = np.nan
    path = tmp_path / "d.hdf5"
    case.write(path, episodes)
    message = refusal(path)
    assert "3 of 13 episodes cannot be used" in message
    for number, column in ((2, 0), (5, 1), (12, 0)):
        assert f"episode {number} (episode-{number}): observations[{column}] at step 3 is NaN" in message


def test_d4_a_flipped_bit_under_a_checksum_costs_only_the_episodes_in_it(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    observations = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", data=observations, chunks=(100, 3), fletcher32=True)
        file["actions"], file["terminals"] = np.zeros((500, 1), np.float32), np.arange(500) % 50 == 49
        offset = file["observations"].id.get_chunk_info(2).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 17] ^= 4
    path.write_bytes(content)
    message = refusal(path)
    assert "2 of 10 episodes cannot be used" in message
    assert "episode 4 (episode-4): cannot read observations: a chunk fails its checksum" in message
    manifest = convert([path], tmp_path / "out", config(drop_bad_episodes=True))
    assert "2 episodes that cannot be read left out" in manifest.notices
    np.testing.assert_array_equal(read_trajectories(tmp_path / "out").rows[200:, :3], observations[300:])


def test_a_stale_total_is_noted_when_every_demonstration_counts_right(tmp_path: Path) -> None:
    path = tmp_path / "isaac.hdf5"
    write_robomimic_file(path, pendulum(14))
    with h5py.File(path, "r+") as file:
        total = file["data"].attrs["total"]
        for number in (3, 8):
            del file[f"data/demo_{number}"]
    manifest = convert([path], tmp_path / "out", config())
    assert manifest.episodes == 12
    assert any(f"declares {total} samples in all" in notice for notice in manifest.notices)


def test_d4rl_episodes_that_contradict_their_next_observations_are_named_and_can_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "d.hdf5"
    episodes = pendulum(13)
    write_d4rl_file(path, episodes)
    first = np.cumsum([0, *(len(e.states) - 1 for e in episodes)])
    with h5py.File(path, "r+") as file:
        for number in (4, 9):
            file["next_observations"][first[number] + 2, 1] += 5
    message = refusal(path)
    assert "2 of 13 episodes cannot be used" in message
    assert "episode 4 (episode-4): next_observations[2] is" in message
    assert convert([path], tmp_path / "out", config(drop_bad_episodes=True)).episodes == 11


@pytest.mark.parametrize("name", ["robomimic", "robosuite", "d4rl", "npz", "map"])
def test_arrays_without_columns_are_left_out_and_named(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    path = tmp_path / f"z{case.suffix}"
    nothing = [Episode(e.states, e.controls[:, :0]) for e in pendulum(12)]
    case.write(path, nothing)
    manifest = convert([path], tmp_path / "out", config(**case.options))
    assert any("arrays without columns left out" in notice for notice in manifest.notices)
    assert len(inspect_file(path, config(**case.options)).features) == len(manifest.features) == 1
    assert manifest.episodes == 12


def test_states_without_columns_leave_nothing_to_convert(tmp_path: Path) -> None:
    path = tmp_path / "z.h5"
    with h5py.File(path, "w") as file:
        for number in range(12):
            file[f"data/demo_{number}/states"] = file[f"data/demo_{number}/joint_velocities"] = np.zeros((20, 0))
    assert "holds no feature" in refusal(path)


def test_observations_that_most_demonstrations_lack_are_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(12))
    with h5py.File(path, "r+") as file:
        for number in (3, 8):
            file[f"data/demo_{number}/obs/extra"] = np.zeros((len(file[f"data/demo_{number}/actions"]), 2))
    manifest = convert([path], tmp_path / "out", config())
    assert manifest.episodes == 12
    assert "observations that most demonstrations lack are left out: extra (in 2 of 12 looked at)" in manifest.notices


def test_the_command_leaves_bad_episodes_out_and_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(14))
    spoil(path)
    command = CliRunner()
    refused = command.invoke(cli, ["convert", str(path), "--out", str(tmp_path / "out")])
    assert isinstance(refused.exception, DataError)
    done = command.invoke(cli, ["convert", str(path), "--out", str(tmp_path / "out"), "--drop-bad-episodes"])
    assert done.exit_code == 0
    assert "1 episode without arrays left out" in done.output
    assert "8 episodes" in done.output
