"""Kinds of files found in public repositories of robot learning and system identification, each built here in small."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.io
from in_process import run
from layout_files import Episode, config, pendulum, write_lerobot_folder, write_npz_file
from test_unknown_files import next_command, proposed

from ensemble.data.convert import convert
from ensemble.data.trajectories import Trajectories, read_trajectories
from ensemble.errors import DataError


def converted(path: Path, **options: object) -> tuple[list[str], Trajectories]:
    """Convert a file beside itself; the notices and the rows."""
    out = path.with_name(f"{path.name}-shards")
    return list(convert([path], out, config(**options)).notices), read_trajectories(out)


def inspected(path: Path, *options: str) -> str:
    code, text = run("inspect", str(path), *options)
    assert code == 0, text
    return text


# Tables of text


def test_a_separator_at_the_end_of_each_line_makes_no_column(tmp_path: Path) -> None:
    rows = "".join(f"{0.1 * i:.3f},{-0.2 * i:.3f},\n" for i in range(40))
    (tmp_path / "s.csv").write_text('"uBench","yBench",\n' + rows + " \n")
    assert "column2" not in inspected(tmp_path / "s.csv")
    assert proposed(tmp_path / "s.csv") == ["--map", "state=yBench", "--map", "control=uBench"]
    _, data = converted(tmp_path / "s.csv", map={"state": "yBench", "control": "uBench"})
    np.testing.assert_allclose(data.rows[:, 0], -0.2 * np.arange(40), atol=1e-6)


def test_a_number_in_the_first_row_alone_is_a_single_value_of_the_file(tmp_path: Path) -> None:
    rows = "".join(f"{0.1 * i:.3f},{-0.2 * i:.3f},{51200 if i == 0 else ''},\n" for i in range(40))
    (tmp_path / "s.csv").write_text('"u","y","fs",\n' + rows)
    line = next(line for line in inspected(tmp_path / "s.csv").splitlines() if "fs" in line)
    assert line.split() == ["fs", "1", "float64"]
    with pytest.raises(DataError, match="unequal numbers of rows: y has 40, fs has 1"):
        converted(tmp_path / "s.csv", map={"state": ["y", "fs"], "control": "u"})


@pytest.mark.parametrize("between", ["  ", " \t  ", "\t"])
def test_a_dat_file_of_columns_without_names_is_read_and_its_clock_is_pointed_out(tmp_path: Path, between: str) -> None:
    table = np.stack([0.1 * np.arange(50), np.cos(np.arange(50.0)), np.sin(np.arange(50.0))], axis=1)
    lines = ["   " + between.join(f"{value:.16e}" for value in row) + between for row in table]
    (tmp_path / "cstr.dat").write_text("\n".join(lines) + "\n")
    notices, data = converted(tmp_path / "cstr.dat", map={"state": ["column0", "column1"], "control": "column2"})
    np.testing.assert_allclose(data.rows[:, :2], table[:, :2].astype(np.float32))
    assert [
        notice for notice in notices if notice.startswith("state[0] increases by 0.1 from step to step, as a clock")
    ]


def test_two_columns_of_one_name_are_refused_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("t,V_C,I,V_C\n" + "0,1,2,1\n" * 9)
    code, text = run("inspect", str(tmp_path / "d.csv"))
    assert (code, "d.csv:1: two columns are called 'V_C' (2 and 4); rename one in that line" in text) == (4, True)


def test_text_that_is_no_table_is_refused_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("points : UDINT := 3;\nvalues : ARRAY := [" + "0.1," * 60_000 + '"\n')
    (tmp_path / "long.txt").write_text("values := [" + "0.125 " * 60_000 + "];\nmore := 3;\n")
    for name in ("data.txt", "long.txt"):
        code, text = run("inspect", str(tmp_path / name))
        assert (code, str(tmp_path / name) in text) == (4, True)


def test_names_with_units_are_proposed_as_they_are(tmp_path: Path) -> None:
    names = [f"{sensor} {axis} (deg/s)" for sensor in ("Gyroscope", "Accelerometer", "Magnetometer") for axis in "XYZ"]
    table = np.random.default_rng(0).normal(size=(40, 9))
    rows = "\n".join(f"{0.01 * i}," + ",".join(map(str, row)) for i, row in enumerate(table))
    (tmp_path / "imu.csv").write_text(f"Time (s),{','.join(names)}\n{rows}\n")
    options = proposed(tmp_path / "imu.csv")
    assert options == ["--map", f"state={','.join(names)}"]
    code, text = run("convert", str(tmp_path / "imu.csv"), "--out", str(tmp_path / "out"), *options)
    assert code == 0, text
    np.testing.assert_allclose(read_trajectories(tmp_path / "out").rows, table, rtol=1e-6)


# Axes


@pytest.mark.parametrize("kind", ["hdf5", "mat"])
def test_trajectories_along_the_first_axis_become_episodes(tmp_path: Path, kind: str) -> None:
    u, y = np.random.default_rng(0).normal(size=(2, 6, 30, 1))
    path = tmp_path / f"batch.{kind}"
    if kind == "mat":
        scipy.io.savemat(path, {"batch_u": u, "batch_y": y})
    else:
        with h5py.File(path, "w") as file:
            file["batch_u"], file["batch_y"] = u, y
    options = proposed(path)
    assert options == ["--map", "state=batch_y", "--map", "control=batch_u", "--time-axis", "second"]
    assert "6 episodes of 30 points, by the first axis" in inspected(path, *options)
    _, data = converted(path, map={"state": "batch_y", "control": "batch_u"}, time_axis="second")
    np.testing.assert_array_equal(data.rows[:, 0], y.reshape(-1).astype(np.float32))
    assert data.episodes.points.tolist() == [30] * 6


def test_batches_in_groups_are_divided_in_each_group(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for number, group in enumerate(("clean", "noisy")):
            file[f"{group}/u"] = np.random.default_rng(number).normal(size=(4, 25, 2))
            file[f"{group}/y"] = (
                np.full((4, 25, 1), number) + np.arange(4)[:, None, None] + np.arange(25)[:, None] / 100
            )
    assert proposed(tmp_path / "w.h5")[-2:] == ["--time-axis", "second"]
    _, data = converted(tmp_path / "w.h5", map={"state": "y", "control": "u"}, time_axis="second")
    assert data.episodes.points.tolist() == [25] * 8
    np.testing.assert_allclose(data.rows[::25, 0], [0, 1, 2, 3, 1, 2, 3, 4])


def test_arrays_of_many_lengths_and_one_width_have_their_time_last(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for clip in ("a_001", "a_002"):
            for name, width in (("joints", 56), ("position", 3), ("bodies", 90), ("quaternion", 4)):
                file[f"{clip}/{name}"] = np.random.default_rng(width).normal(size=(width, 10))
    assert proposed(tmp_path / "m.h5")[-2:] == ["--time-axis", "last"]
    assert "all 10 wide: does time run along the last axis? (--time-axis last)" in inspected(
        tmp_path / "m.h5", "--map", "state=joints"
    )


# Several trajectories, and clocks


def test_numbered_arrays_are_episodes_and_a_map_of_one_says_what_is_not_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {f"{name}_{i}": random.normal(size=(20 + i, 3)) for i in range(11) for name in ("states", "actions")}
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for key, values in arrays.items():
            file[key] = values
    options = proposed(tmp_path / "d.h5")
    assert options == ["--map", "state=states_#", "--map", "control=actions_#"]
    code, text = run("convert", str(tmp_path / "d.h5"), "--out", str(tmp_path / "out"), *options)
    assert code == 0, text
    data = read_trajectories(tmp_path / "out")
    assert data.episodes.points.tolist() == [20 + i for i in range(11)]
    expected = np.concatenate([arrays[f"states_{i}"] for i in range(11)])
    np.testing.assert_array_equal(data.rows[:, :3], expected.astype(np.float32))
    one = inspected(tmp_path / "d.h5", "--map", "state=states_0", "--map", "control=actions_0")
    assert "states_0 is read, states_1, states_10, states_2 .. are not: if each is an episode, --map states_#" in one


def write_takes(path: Path) -> np.ndarray:
    """Write three demonstrations of two takes each, as a recorder that is reset inside a demonstration does."""
    random, time = np.random.default_rng(0), np.concatenate([0.05 * np.arange(30), 0.05 * np.arange(25)])
    states = np.concatenate([time[:, None], random.normal(size=(55, 4))], axis=1)
    with h5py.File(path, "w") as file:
        for number in (1, 2, 3):
            file[f"data/demo_{number}/states"] = states + np.array([0, number, 0, 0, 0])
            file[f"data/demo_{number}/actions"] = random.normal(size=(55, 2))
    return states


def test_a_simulation_time_that_falls_back_divides_a_demonstration_into_its_takes(tmp_path: Path) -> None:
    states = write_takes(tmp_path / "demo.hdf5")
    notices, data = converted(tmp_path / "demo.hdf5")
    assert data.episodes.points.tolist() == [30, 25] * 3
    assert "time falls back inside 3 demonstrations" in " ".join(notices)
    np.testing.assert_allclose(data.rows[:55, :4], states[:, 1:] + np.array([1, 0, 0, 0]), rtol=1e-6)


def test_a_mapped_state_that_begins_with_a_clock_says_so(tmp_path: Path) -> None:
    write_takes(tmp_path / "demo.hdf5")
    text = inspected(tmp_path / "demo.hdf5", "--map", "state=states", "--map", "control=actions")
    assert "state[0] increases by 0.05 from step to step, as a clock does" in text
    columns = {"state": {"key": "states", "columns": [1, 2, 3, 4]}, "control": "actions"}
    notices, _ = converted(tmp_path / "demo.hdf5", map=columns)
    assert not any("as a clock" in notice for notice in notices)


# Rollouts


def write_imitation(path: Path, episodes: list[Episode]) -> None:
    acts = [episode.controls for episode in episodes]
    np.savez(
        path,
        obs=np.concatenate([episode.states for episode in episodes]),
        acts=np.concatenate([each[: len(each) - 1] for each in acts]),
        indices=np.cumsum([len(each) - 1 for each in acts])[:-1],
        terminal=np.ones(len(acts), bool),
        infos=np.array([{}], object),
    )


def test_trajectories_of_imitation_have_one_observation_more_than_actions(tmp_path: Path) -> None:
    episodes = pendulum(5)
    write_imitation(tmp_path / "final.npz", episodes)
    _, data = converted(tmp_path / "final.npz")
    assert data.episodes.points.tolist() == [len(episode.states) for episode in episodes]
    np.testing.assert_allclose(data.rows[:, data.columns("obs")], np.concatenate([e.states for e in episodes]))
    first = slice(0, len(episodes[0].states) - 1)
    np.testing.assert_allclose(data.rows[first, data.columns("acts")], episodes[0].controls[first].reshape(-1, 1))


def test_divisions_that_do_not_fit_the_rows_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", obs=np.ones((20, 2)), acts=np.ones((19, 1)), indices=np.array([5]))
    with pytest.raises(DataError, match="obs has 20 rows; acts has 19 in 2 trajectories, which need 21"):
        converted(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", obs=np.ones((22, 2)), acts=np.ones((19, 1)), indices=np.array([5, 5]))
    with pytest.raises(DataError, match="indices do not ascend"):
        converted(tmp_path / "b.npz")


def test_pickled_starts_name_the_map_that_reads_the_rest(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "e.npz", pendulum(3))
    with np.load(tmp_path / "e.npz") as file:
        arrays = dict(file) | {"episode_starts": np.array([[True], None], object)}
    np.savez(tmp_path / "e.npz", **arrays)
    code, text = run("inspect", str(tmp_path / "e.npz"))
    assert (code, "--map state=obs --map control=actions reads the others" in text) == (4, True)
    assert "looks like mapped: 1 episode" in inspected(
        tmp_path / "e.npz", "--map", "state=obs", "--map", "control=actions"
    )


# Files without numbers


def test_cells_are_named_with_the_way_to_a_struct_by_both_commands(tmp_path: Path) -> None:
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.ones((4, 9)), np.ones((4, 8))
    scipy.io.savemat(tmp_path / "c.mat", {"data": cells})
    for arguments in (["inspect"], ["convert", "--out", str(tmp_path / "o")]):
        code, text = run(*arguments[:1], str(tmp_path / "c.mat"), *arguments[1:])
        assert (code, "data is a cell array (in MATLAB: s = struct('x', CELLS)" in text) == (4, True)


def test_a_recording_of_no_demonstrations_is_called_so(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "e.hdf5", "w") as file:
        file.create_group("data").attrs["total"] = 0
    for arguments in (["inspect"], ["convert", "--out", str(tmp_path / "o")]):
        code, text = run(*arguments[:1], str(tmp_path / "e.hdf5"), *arguments[1:])
        assert (code, "its group 'data' is empty, a recording of 0 demonstrations" in text) == (4, True)


def test_a_hundred_groups_hide_none_of_the_arrays_in_them_from_the_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "g.hdf5", "w") as file:
        for i in range(100):
            file[f"demo_{i}/observation"] = np.ones((5, 2))
    code, text = run("convert", str(tmp_path / "g.hdf5"), "--out", str(tmp_path / "o"))
    assert (code, "it holds demo_0/observation" in text) == (4, True)


# LeRobot


def renamed(folder: Path) -> None:
    """Call the columns of a LeRobot folder `state` and `actions`."""
    names = {"observation.state": "state", "action": "actions"}
    for path in (folder / "data").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.rename_columns([names.get(name, name) for name in table.column_names]), path)
    info = folder / "meta" / "info.json"
    text = info.read_text()
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    info.write_text(text)


def test_a_lerobot_folder_with_other_names_has_its_state_and_control(tmp_path: Path) -> None:
    write_lerobot_folder(tmp_path / "l", pendulum(4))
    renamed(tmp_path / "l")
    _, data = converted(tmp_path / "l")
    roles = {feature.name: feature.role for feature in data.features}
    assert (roles["state"], roles["actions"]) == ("state", "control")


def test_the_description_of_a_lerobot_data_set_names_its_folder(tmp_path: Path) -> None:
    write_lerobot_folder(tmp_path / "l", pendulum(4))
    code, text = run("inspect", str(tmp_path / "l" / "meta" / "info.json"))
    assert (code, f"give the folder: {tmp_path / 'l'}" in text) == (4, True)


@pytest.mark.parametrize("pattern", ["data/**/*.parquet", "meta/info.json", "meta/episodes/**/*.parquet"])
def test_a_pointer_of_git_lfs_inside_a_lerobot_folder_says_what_to_run(tmp_path: Path, pattern: str) -> None:
    write_lerobot_folder(tmp_path / "l", pendulum(4))
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    for path in (tmp_path / "l").glob(pattern):
        path.write_text(pointer)
    code, text = run("convert", str(tmp_path / "l"), "--out", str(tmp_path / "o"))
    assert (code, "a pointer of git-lfs, not the data: run `git lfs pull`" in text) == (4, True)


def test_the_command_that_inspect_prints_for_a_file_of_inputs_alone_works(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "u.h5", "w") as file:
        file["t"], file["u"] = np.arange(40), np.random.default_rng(0).normal(size=(40, 2))
    code, text = run("inspect", str(tmp_path / "u.h5"))
    assert code == 0
    assert run(*next_command(text)[:-2])[0] == 0
