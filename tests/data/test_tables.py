"""Tables and MATLAB files: the same episodes as in HDF5 through the same map, and messages with the place."""

import shlex
import zlib
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from in_process import run
from layout_files import DT, Episode, config, pendulum, write_grouped_file, write_robomimic_file
from pages import DOCS, blocks

from ensemble.data.convert import convert
from ensemble.data.layouts.container import LIMIT_VARIABLE
from ensemble.data.layouts.detect import open_container
from ensemble.data.manifest import Manifest, options_hash
from ensemble.data.trajectories import Trajectories, read_trajectories
from ensemble.errors import DataError

COLUMNS = {"map": {"state": ["angle", "speed"], "control": "torque"}}


def columns(episodes: list[Episode]) -> dict[str, np.ndarray]:
    return {
        "trial": np.repeat(np.arange(len(episodes)), [len(e.states) for e in episodes]),
        "time": np.concatenate([DT * np.arange(len(e.states)) for e in episodes]),
        "angle": np.concatenate([e.states[:, 0] for e in episodes]),
        "speed": np.concatenate([e.states[:, 1] for e in episodes]),
        "torque": np.concatenate([e.controls[:, 0] for e in episodes]),
    }


def write_csv(path: Path, episodes: list[Episode], separator: str = ",", comma: bool = False) -> None:
    table = columns(episodes)
    rows = [separator.join(table)]
    rows += [separator.join(repr(value.item()) for value in row) for row in zip(*table.values(), strict=True)]
    text = "\n".join(rows) + "\n"
    path.write_text(text.replace(".", ",") if comma else text)


def write_parquet(path: Path, episodes: list[Episode]) -> None:
    pq.write_table(pa.table(columns(episodes)), path)


def write_mat(path: Path, episodes: list[Episode]) -> None:
    """A struct array as MATLAB users keep trials: trials(i).q, trials(i).u."""
    trials = np.empty((1, len(episodes)), dtype=[("q", object), ("u", object), ("time", object)])
    for number, e in enumerate(episodes):
        trials[0, number] = (e.states, e.controls, DT * np.arange(len(e.states))[None])
    scipy.io.savemat(path, {"trials": trials, "date": "today"}, do_compression=True)


def write_matlab_hdf5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """MATLAB's version 7.3: HDF5 behind a block of 512 bytes, axes in reverse order, text as numbers."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            data = file.create_dataset(name, data=values.T)
            data.attrs["MATLAB_class"] = np.bytes_("double")
        text = file.create_dataset("unit", data=np.array([[109]], "u2"))
        text.attrs["MATLAB_class"] = np.bytes_("char")
        file.create_dataset("#refs#/a", data=np.zeros((30, 2)))
    content = bytearray(path.read_bytes())
    content[:19] = b"MATLAB 7.3 MAT-file"
    path.write_bytes(content)


def converted(path: Path, out: Path, **options: object) -> tuple[Manifest, Trajectories]:
    manifest = convert([path], out, config(**options))
    return manifest, read_trajectories(out)


def test_the_pendulum_is_the_same_in_every_table_and_in_hdf5(tmp_path: Path) -> None:
    episodes = pendulum(12)
    write_grouped_file(tmp_path / "p.h5", episodes)
    mapped = {"map": {"state": "robot/q", "control": "u"}}
    _, expected = converted(tmp_path / "p.h5", tmp_path / "hdf5", **mapped)
    write_csv(tmp_path / "comma.csv", episodes)
    write_csv(tmp_path / "tab.tsv", episodes, "\t")
    write_csv(tmp_path / "german.csv", episodes, ";", comma=True)
    write_parquet(tmp_path / "p.parquet", episodes)
    write_mat(tmp_path / "p.mat", episodes)
    for name in ("comma.csv", "tab.tsv", "german.csv", "p.parquet", "p.mat"):
        options = {"map": {"state": "q", "control": "u"}} if name == "p.mat" else COLUMNS
        manifest, data = converted(tmp_path / name, tmp_path / f"out {name}", **options)
        np.testing.assert_array_equal(data.rows, expected.rows)
        np.testing.assert_array_equal(data.episodes.points, expected.episodes.points)
        assert manifest.dt == pytest.approx(DT)


def test_columns_keep_their_names_as_labels_and_the_key_its_episode(tmp_path: Path) -> None:
    write_csv(tmp_path / "p.csv", pendulum(12))
    _, data = converted(tmp_path / "p.csv", tmp_path / "out", **COLUMNS)
    assert data.feature("state").labels == ("angle", "speed")
    assert data.keys[:2] == ("trial_0", "trial_1")


def test_labels_of_columns_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name in ("left/x", "right/x", "u"):
            file[name] = np.arange(9.0)
    mapped = {"state": ["left/x", "right/x"], "output": ["right/x", "u"], "control": "u"}
    _, data = converted(tmp_path / "f.h5", tmp_path / "out", map=mapped)
    assert [feature.labels for feature in data.features] == [("left.x", "right.x"), ("x", "u"), ("control",)]
    mapped = {"state": ["left/x", "u"], "output": ["right/x", "u"]}
    _, data = converted(tmp_path / "f.h5", tmp_path / "more", map=mapped)
    assert [feature.labels for feature in data.features] == [("state.x", "state.u"), ("output.x", "output.u")]
    code, text = run("inspect", str(tmp_path / "f.h5"), "--map", "state=u,u")
    assert (code, "data.map.state: u is given twice" in text) == (2, True)


def test_a_column_that_is_taken_for_the_episodes_is_said_and_another_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("trial,x,log\n0,1,5\n0,2,5\n1,3,5\n1,4,5\n")
    code, text = run("convert", str(tmp_path / "t.csv"), "--map", "state=x", "--out", str(tmp_path / "a"))
    assert (code, "2 episodes by column trial (data.episode_column names another)" in text) == (0, True)
    _, data = converted(tmp_path / "t.csv", tmp_path / "b", map={"state": "x"}, episode_column="log")
    assert data.keys == ("log_5",)
    _, data = converted(tmp_path / "t.csv", tmp_path / "c", map={"state": ["x", "trial"]})
    assert len(data.keys) == 1


@pytest.mark.parametrize("option", [["--episode-column", "x"], ["--time-axis", "last"]])
def test_options_of_mapped_files_are_refused_for_known_layouts(tmp_path: Path, option: list[str]) -> None:
    write_robomimic_file(tmp_path / "r.h5", pendulum(12))
    code, text = run("inspect", str(tmp_path / "r.h5"), *option)
    assert code == 2
    assert "is for files that are read with data.map (--map)" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x,u\n1,2\n3,4\n", {"x": [1, 3], "u": [2, 4]}),
        ("\ufeffx;u\r\n1,5;2\r\n\r\n3,5;4\r\n", {"x": [1.5, 3.5], "u": [2, 4]}),
        ("1,2\n3,4\n", {"column0": [1, 3], "column1": [2, 4]}),
        ("# made today\n# x u\n1,2\n3,4\n", {"x": [1, 3], "u": [2, 4]}),
        (",x\n0,1\n1,2\n", {"column0": [0, 1], "x": [1, 2]}),
        ("x, u\n1, \n nan, 4\n", {"x": [1, np.nan], "u": [np.nan, 4]}),
        ("x,ok\n1,true\n2,false\n", {"x": [1, 2], "ok": [1, 0]}),
        ('"x","u"\n"1","2"\n', {"x": [1], "u": [2]}),
        ("x,time\n1,2024-01-01 00:00:00.5\n2,2024-01-01 00:00:00.75\n", {"x": [1, 2], "time": [0, 0.25]}),
    ],
)
def test_a_csv_file_is_understood_as_it_comes(tmp_path: Path, text: str, expected: dict[str, list[float]]) -> None:
    (tmp_path / "t.csv").write_text(text)
    table = open_container(tmp_path / "t.csv")
    assert table.names() == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(table.read(name).astype(float), values)
        assert table.array(name).dtype == np.float64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,u\ns,V\n1,2\n3,4\n5,6\n", r"t\.csv:2: a row of units below the header \(s, V\); remove that line"),
        ("x,u\n1,2\n\n3,4o\n5,6\n7,8\n", r"t\.csv:4:2: '4o' is no number \(column u\)"),
        ("x,u\n1,2\n1_000,3\n2,3\n", r"t\.csv:3:1: '1_000' is no number \(column x\)"),
        ("x;u\n1,5;1\n1.234;2\n2,5;3\n", r"t\.csv:3:1: '1\.234' is no number \(column x\)"),
        ("# a\nx,u\n1,2\n3\n", r"t\.csv:4: 1 value where the table has 2 columns \(x, u\)"),
        ("x,x\n1,2\n", r"t\.csv:1: two columns are called 'x'"),
        ("x,u\n", "holds 0 rows"),
        (b"x,\xe4\n1,2\n", r"t\.csv:1: not UTF-8"),
        ("x,u\n1,2\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
    ],
)
def test_a_csv_file_that_cannot_be_read_names_the_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        open_container(tmp_path / "t.csv")


def test_a_column_of_text_is_left_out_with_a_notice_or_numbers_the_episodes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,u,who\n1,2,ann\n3,4,ann\n5,6,bob\n7,8,bob\n")
    options = {"map": {"state": "x", "control": "u"}}
    manifest, _ = converted(tmp_path / "t.csv", tmp_path / "one", **options)
    assert manifest.episodes == 1
    assert "columns of text, left out: who" in manifest.notices
    _, data = converted(tmp_path / "t.csv", tmp_path / "two", episode_column="who", **options)
    assert data.keys == ("who_ann", "who_bob")
    with pytest.raises(DataError, match="who is of type string; only numbers"):
        convert([tmp_path / "t.csv"], tmp_path / "no", config(map={"state": "who"}))


def test_rows_of_an_episode_that_are_apart_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("episode,x\n0,1\n0,2\n1,3\n1,4\n0,5\n0,6\n")
    with pytest.raises(DataError, match="rows of episode 0 are not together: row 4 is of it again"):
        convert([tmp_path / "t.csv"], tmp_path / "out", config(map={"state": "x"}))


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_a_column_divides_the_rows_of_arrays_too(tmp_path: Path, suffix: str) -> None:
    arrays = {"y": np.arange(12.0).reshape(6, 2), "id": np.array([7, 7, 7, 9, 9, 9])}
    path = tmp_path / f"t{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    _, data = converted(path, tmp_path / "out", map={"state": "y"}, episode_column="id")
    assert data.keys == ("id_7", "id_9")
    np.testing.assert_array_equal(data.rows, arrays["y"])
    with pytest.raises(DataError, match="no column 'idd' for the episodes; did you mean 'id'"):
        convert([path], tmp_path / "no", config(map={"state": "y"}, episode_column="idd"))


def test_times_that_start_again_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time,x\n0,1\n0.1,2\n0.2,3\n0,4\n0.1,5\n0.2,6\n")
    manifest, _ = converted(tmp_path / "t.csv", tmp_path / "out", map={"state": "x"})
    assert any("time goes back or stands still at row 3" in notice for notice in manifest.notices)


def test_lists_are_matrices_and_missing_numbers_bad_values(tmp_path: Path) -> None:
    table = pa.table({"s": [[1.0, 2.0], [3.0, 4.0]], "u": [1, None], "pose": [{"x": 1.0}, {"x": 2.0}]})
    pq.write_table(table, tmp_path / "t.parquet")
    opened = open_container(tmp_path / "t.parquet")
    np.testing.assert_array_equal(opened.read("s"), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(opened.read("u"), [1, np.nan])
    np.testing.assert_array_equal(opened.read("pose.x"), [1, 2])
    pq.write_table(pa.table({"s": [[1.0], [3.0, 4.0]]}), tmp_path / "r.parquet")
    with pytest.raises(DataError, match="s has 1 values at row 0 and 2 at row 1"):
        open_container(tmp_path / "r.parquet").read("s")


def test_structs_are_groups_and_cells_are_named(tmp_path: Path) -> None:
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.ones((4, 2)), np.ones((5, 2))
    content = {"log": {"y": np.ones((9, 2)), "in": {"u": np.ones((1, 9))}}, "trials": cells, "name": "x"}
    scipy.io.savemat(tmp_path / "s.mat", content)
    opened = open_container(tmp_path / "s.mat")
    assert opened.array("log/y").shape == (9, 2)
    assert opened.array("log/in/u").shape == (9,)
    with pytest.raises(DataError, match="trials is a cell array"):
        opened.array("trials")
    code, text = run("inspect", str(tmp_path / "s.mat"))
    assert code == 0
    assert "not read, since they hold no numbers: trials, name" in text
    scipy.io.savemat(tmp_path / "c.mat", {"trials": cells})
    code, text = run("inspect", str(tmp_path / "c.mat"))
    assert (code, "holds no arrays of numbers; it has trials" in text) == (4, True)


def test_a_matlab_file_of_7_3_has_its_time_first(tmp_path: Path) -> None:
    y, u = np.arange(60.0).reshape(30, 2), np.arange(30.0)[None]
    write_matlab_hdf5(tmp_path / "v.mat", {"y": y, "u": u, "t": 0.1 * np.arange(30)[:, None]})
    manifest, data = converted(tmp_path / "v.mat", tmp_path / "out", map={"state": "y", "control": "u"})
    np.testing.assert_array_equal(data.rows[:, :2], y)
    np.testing.assert_array_equal(data.rows[:-1, 2], u[0, :-1])
    assert manifest.dt == pytest.approx(0.1)
    with pytest.raises(DataError, match="unit is of MATLAB's class char"):
        convert([tmp_path / "v.mat"], tmp_path / "no", config(map={"state": "unit"}))


@pytest.mark.parametrize("per_feature", [False, True])
def test_time_may_run_along_the_last_axis(tmp_path: Path, per_feature: bool) -> None:
    y = np.arange(60.0).reshape(30, 2)
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["y"], file["u"], file["run/y"], file["run/u"] = y.T, y[:, :1].T, y[:20].T, y[:20, :1].T
        del file["y"], file["u"]
    entry = {"key": "y", "time_axis": "last"} if per_feature else "y"
    other = {"key": "u", "time_axis": "last"} if per_feature else "u"
    options = {} if per_feature else {"time_axis": "last"}
    _, data = converted(tmp_path / "t.h5", tmp_path / "out", map={"state": entry, "control": other}, **options)
    np.testing.assert_array_equal(data.rows[:, :2], y[:20])


def test_more_columns_than_points_are_noticed_and_convert_says_what_it_made(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["y"] = np.arange(60.0).reshape(2, 30)
    code, text = run("convert", str(tmp_path / "t.h5"), "--map", "state=y", "--out", str(tmp_path / "out"))
    assert code == 0
    assert "state has 30 columns and at most 2 points an episode: does time run along the other axis?" in text
    assert "1 episode, 2 points; length min 2, median 2, max 2" in text
    assert ["state", "30", "float64", "state"] in [line.split()[:4] for line in text.splitlines()]


@pytest.mark.parametrize("suffix", [".parquet", ".mat"])
@pytest.mark.parametrize("percent", [10, 50, 95])
def test_a_cut_table_is_damaged(tmp_path: Path, suffix: str, percent: int) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    (write_parquet if suffix == ".parquet" else write_mat)(whole, pendulum(12))
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) * percent // 100])
    with pytest.raises(DataError, match="damaged or truncated"):
        open_container(path)


def test_a_small_file_that_is_large_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = np.zeros((200_000, 4))
    scipy.io.savemat(tmp_path / "z.mat", {"y": zeros}, do_compression=True)
    pq.write_table(pa.table({"y": zeros[:, 0]}), tmp_path / "z.parquet", compression="zstd")
    monkeypatch.setenv(LIMIT_VARIABLE, "1e6")
    for name in ("z.mat", "z.parquet"):
        assert (tmp_path / name).stat().st_size < 100_000
        with pytest.raises(DataError, match=LIMIT_VARIABLE):
            open_container(tmp_path / name)


def test_files_of_a_map_from_before_keep_their_hash() -> None:
    old = {"state": "q", "control": {"key": "u", "columns": [0], "scale": 2.0}, "v": {"derivative_of": "state"}}
    assert options_hash(config(map=old, roles={"v": "state"})) == "be776eb0901b4f1e"
    assert options_hash(config(map=old, roles={"v": "state"}, time_axis="last")) != "be776eb0901b4f1e"


ZIP = b"PK\x05\x06" + b"\0" * 18


@pytest.mark.parametrize(
    ("name", "content", "way_out"),
    [
        ("a.hdf5", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run `git lfs pull`"),
        ("a.pkl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run `git lfs pull`"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run `git lfs pull`"),
        ("a.h5", b"<!DOCTYPE html>\n<html>", "a web page, not the data"),
        ("a.csv", b"\n<html><body>log in</body></html>", "a web page, not the data"),
        ("a.zip", ZIP, "a zip archive without arrays: unpack it first"),
        ("a.gz", b"\x1f\x8b\x08" + b"\0" * 20, "unpack it first"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + b"\0" * 20, "unpack it first"),
        ("a.rar", b"Rar!\x1a\x07\x01\0" + b"\0" * 20, "unpack it first"),
        ("a.tar", b"\0" * 257 + b"ustar" + b"\0" * 250, "unpack it first"),
        ("a.npy", b"\x93NUMPY\x01\0", "put arrays into one npz: numpy.savez"),
        ("a.pt", b"PK\x03\x04", "pickled data is not read"),
        ("a.pkl", b"\x80\x05.", "pickled data is not read"),
        ("a.json", b'{"a": [1, 2]}', "JSON; write its arrays as"),
        ("a.mat", b"\0\0\0\0\x01\0\0\0", "not a MATLAB file of version 5 or later"),
        ("a.bin", b"\x01\x02", "of no known format (2 bytes); read are HDF5, npz, MATLAB"),
        ("a.h5", b"", "empty file"),
    ],
)
def test_every_other_file_is_named_with_the_way_out(tmp_path: Path, name: str, content: bytes, way_out: str) -> None:
    (tmp_path / name).write_bytes(content)
    for arguments in (
        ["inspect", str(tmp_path / name)],
        ["convert", str(tmp_path / name), "--out", str(tmp_path / "o")],
    ):
        code, text = run(*arguments)
        assert code == 4
        assert way_out in text
        assert str(tmp_path / name) in text


MATLAB_FILES = sorted((Path(scipy.io.__file__).parent / "matlab" / "tests" / "data").glob("*.mat"))


@pytest.mark.skipif(not MATLAB_FILES, reason="scipy came without its test files")
@pytest.mark.filterwarnings("ignore")  # of scipy, of complex and of broken files
def test_every_array_that_matlab_wrote_is_read_as_scipy_reads_it() -> None:
    compared = 0
    for path in MATLAB_FILES:
        try:
            ours, theirs = open_container(path), scipy.io.loadmat(path, mat_dtype=True)
        except (DataError, OSError, ValueError, NotImplementedError, zlib.error):
            continue
        for key in [key for key in theirs if ours.is_array(key) and key not in ours.left_out]:
            np.testing.assert_array_equal(np.squeeze(ours.read(key)), np.squeeze(theirs[key]))
            compared += 1
    assert compared > 20


def test_a_changed_byte_makes_bad_data_and_nothing_worse(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scipy.io.savemat(tmp_path / "plain.mat", {"y": np.ones((20, 2)), "s": {"a": np.arange(5.0), "c": "x"}})
    write_parquet(tmp_path / "p.parquet", pendulum(5))
    outcomes = set()
    for name in ["plain.mat"] * 100 + ["p.parquet"] * 20:
        content = bytearray((tmp_path / name).read_bytes())
        content[random.integers(len(content))] = random.integers(256)
        (tmp_path / f"x{name}").write_bytes(content)
        outcomes.add((name, run("inspect", str(tmp_path / f"x{name}"))[0]))
    assert outcomes == {(name, code) for name in ("plain.mat", "p.parquet") for code in (0, 4)}


def write_example_files() -> None:
    """The files of the examples of the page on data, in the working directory."""
    random = np.random.default_rng(0)
    rows = np.round(random.normal(size=(120, 4)), 3)
    index = np.repeat(np.arange(12), 10)
    lines = [
        f"{i},{0.05 * (n % 10):.2f},{','.join(map(str, row))}"
        for n, (i, row) in enumerate(zip(index, rows, strict=True))
    ]
    Path("drive.csv").write_text("\n".join(["trial,time,x,y,heading,steering", *lines]) + "\n")
    table = pa.table({"log": index, "pose": list(rows[:, :3]), "action": rows[:, 3]})
    pq.write_table(table, "drive.parquet")
    scipy.io.savemat("arm.mat", {"log": {"q": rows, "tau": rows[:, :2]}})
    write_matlab_hdf5(Path("motion.mat"), {"joints": rows.T})


def test_the_examples_of_the_page_on_data_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "data.md").read_text()
    section = page.split("\n## Tables and MATLAB files\n")[1].split("\n## ")[0]
    commands = [shlex.split(line) for block in blocks(section, "bash") for line in block.splitlines()]
    assert len(commands) == 5
    monkeypatch.chdir(tmp_path)
    write_example_files()
    for words in commands:
        code, text = run(*words[1:])
        assert code == 0, text
    sizes = {name: read_trajectories(Path("shards") / name).rows.shape for name in ("drive", "logs", "arm", "motion")}
    assert sizes == {"drive": (120, 4), "logs": (120, 4), "arm": (120, 6), "motion": (120, 4)}
    assert len(read_trajectories(Path("shards/drive")).keys) == 12
