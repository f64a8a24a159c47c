"""Files of no known layout: folded for reading, and the command that is printed next works as it is printed."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from in_process import run

from ensemble.config.loading import load


def write(path: Path, arrays: Mapping[str, tuple[int, ...]]) -> Path:
    """Write arrays of these shapes, floats that vary."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for key, shape in arrays.items():
            file[key] = 0.1 * np.arange(shape[0]) if key.endswith(("time", "t")) else random.normal(size=shape)
    return path


def next_command(text: str) -> list[str]:
    return shlex.split(text.splitlines()[-1].removeprefix("next: ensemble "))


def proposed(path: Path, *options: str) -> list[str]:
    """The options of the command that `inspect` prints next, without --write."""
    code, text = run("inspect", str(path), *options)
    assert code == 0, text
    words = next_command(text)
    assert words[:2] == ["inspect", str(path)]
    return words[2 : words.index("--write")]


FILES: Mapping[str, tuple[Mapping[str, tuple[int, ...]], list[str]]] = {
    "groups in the root": (
        {f"demo_{i}/{k}": (30, w) for i in range(100) for k, w in (("observation", 4), ("action", 1))},
        ["--map", "state=observation", "--map", "control=action"],
    ),
    "signals": ({"u": (90, 1), "t": (90,), "y": (90, 2)}, ["--map", "state=y", "--map", "control=u"]),
    "joints": (
        {"obs/qpos": (40, 6), "obs/qvel": (40, 6), "action": (39, 6), "obs/images/top": (40, 4, 4, 3)},
        ["--map", "state=obs/qpos,obs/qvel", "--map", "control=action"],
    ),
    "splits of runs": (
        {f"{s}/run_{i}/{k}": (20 + i, 2) for s in ("train", "test") for i in range(6) for k in ("x", "cmd")},
        ["--map", "state=x", "--map", "control=cmd"],
    ),
    "two files in one": (
        {f"{s}/{k}": (60, 1) for s in ("estimation", "test") for k in ("position", "voltage", "time")},
        ["--map", "state=position", "--map", "control=voltage"],
    ),
    "time last": (
        {"states": (5, 80), "torque": (2, 80), "time": (80,)},
        ["--map", "state=states", "--map", "control=torque", "--time-axis", "last"],
    ),
    "rows of signals": (
        {"y": (1, 80), "u": (1, 80)},
        ["--map", "state=y", "--map", "control=u", "--time-axis", "last"],
    ),
    "names that say nothing": ({"alpha": (50, 2), "beta": (50, 7), "gamma": (50, 3)}, ["--map", "state=beta"]),
}


@pytest.mark.parametrize("name", FILES)
def test_the_printed_command_guesses_the_roles_and_works_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arrays, expected = FILES[name]
    monkeypatch.chdir(tmp_path)
    write(Path("file.h5"), arrays)
    assert proposed(Path("file.h5")) == expected
    code, text = run(*next_command(run("inspect", "file.h5")[1]))
    assert (code, text.splitlines()[-1]) == (0, "next: ensemble train --config mine.yaml")
    assert "looks like mapped" in text
    assert run("convert", "file.h5", "--out", "shards", *expected)[0] == 0
    assert load(Path("mine.yaml")).first.data.path == str(tmp_path / "file.h5")
    assert run("plan", "mine.yaml")[0] == 0


def test_the_next_command_carries_every_option_that_was_given(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", {"run_0/q": (30, 2), "run_0/u": (30, 1), "run_1/q": (30, 2), "run_1/u": (30, 1)})
    given = ["--layout", "map", "--map", "state=q", "--map", "force=u", "--derive", "v=state"]
    given += ["--role", "force=control", "--role", "v=state", "--dt", "0.1", "--angles", "state", "--decimate", "2"]
    assert sorted(proposed(path, *given)) == sorted(given)
    code, text = run("inspect", str(path), *given, "--write", str(tmp_path / "m.yaml"))
    assert code == 0, text
    data = load(tmp_path / "m.yaml").first.data
    assert (data.dt, data.decimate, data.layout, data.roles["force"]) == (0.1, 2, "map", "control")


def test_options_that_fit_an_unknown_file_stay_beside_its_map(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", {"y": (30, 2), "u": (30, 1)})
    assert proposed(path, "--dt", "0.5") == ["--map", "state=y", "--map", "control=u", "--dt", "0.5"]


def test_a_file_that_is_there_is_not_proposed_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("f.h5"), {"y": (30, 2)})
    Path("mine.yaml").write_text("mine")
    assert next_command(run("inspect", "f.h5")[1])[-1] == "mine2.yaml"


def test_alike_groups_are_one_line_and_numbered_arrays_one_row(tmp_path: Path) -> None:
    path = write(tmp_path / "g.h5", FILES["groups in the root"][0])
    lines = run("inspect", str(path))[1].splitlines()
    assert "100 groups demo_0 .. demo_99, each: action 30x1 float64, observation 30x4 float64" in lines
    path = write(tmp_path / "a.h5", {**{f"ch_{i}": (50,) for i in range(90)}, "u": (50,)})
    text = run("inspect", str(path))[1]
    assert re.search(r"ch_0 \.\. ch_89 \(90 arrays\) +50 +float64", text)
    assert len(text.splitlines()) < 10


def test_several_arrays_without_a_known_name_are_no_alphabetical_guess(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", {f"{letter}{letter}": (30, 2) for letter in "bcdefghijklm"})
    assert proposed(path) == ["--map", "state=ARRAY", "--map", "control=ARRAY"]
    path = write(tmp_path / "g.h5", {"roll": (30,), "pitch": (30,)})
    assert proposed(path) == ["--map", "state=pitch,roll"]


def test_a_file_without_arrays_of_numbers_is_bad_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("data/deep")
    code, text = run("inspect", str(tmp_path / "empty.h5"))
    assert code == 4
    assert "holds no arrays of numbers" in text
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["notes"] = [b"a", b"b"]
    code, text = run("inspect", str(tmp_path / "text.h5"))
    assert (code, "holds no arrays of numbers; it has notes" in text) == (4, True)


def test_ten_thousand_groups_are_looked_at_in_part(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for i in range(1500):
            file[f"ep{i}/q"] = np.ones((2, 1), "f4")
    text = run("inspect", str(tmp_path / "f.h5"))[1]
    assert "1,500 groups ep0 .. ep1499 (751 looked at), each: q 2x1 float32" in text


def test_a_table_and_a_struct_are_proposed_like_any_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("trial,t,x,y,u\n0,0,1,2,3\n0,1,2,3,4\n1,0,5,6,7\n1,1,3,2,1\n")
    assert proposed(tmp_path / "t.csv") == ["--map", "state=x,y", "--map", "control=u"]
    scipy.io.savemat(tmp_path / "s.mat", {"log": {"q": np.ones((9, 3)), "tau": np.ones((9, 3))}})
    assert proposed(tmp_path / "s.mat") == ["--map", "state=log/q", "--map", "control=log/tau"]


def empty_feature(path: Path, rows: int, width: int) -> None:
    """A robomimic file whose second demonstration has so many rows, and whose `obs/none` so many columns."""
    with h5py.File(path, "w") as file:
        for i in range(3):
            n = rows if i == 1 else 12
            file[f"data/demo_{i}/obs/q"] = np.ones((n, 2))
            file[f"data/demo_{i}/obs/none"] = np.ones((n, width))
            file[f"data/demo_{i}/actions"] = np.ones((n, 1))


@pytest.mark.parametrize("layout", ["robomimic", "map"])
def test_a_demonstration_of_no_rows_is_a_bad_episode(tmp_path: Path, layout: str) -> None:
    empty_feature(tmp_path / "f.h5", 0, 1)
    options = ["--map", "state=obs/q", "--map", "control=actions"] if layout == "map" else []
    code, text = run("inspect", str(tmp_path / "f.h5"), *options)
    assert (code, "1 of 3 episodes cannot be used" in text) == (0, True)
    out = ["--out", str(tmp_path / "out")]
    code, text = run("convert", str(tmp_path / "f.h5"), *options, *out)
    assert (code, "data/demo_1: its arrays have 0 rows" in text) == (4, True)
    code, text = run("convert", str(tmp_path / "f.h5"), *options, *out, "--drop-bad-episodes")
    assert (code, "1 episode of 0 rows left out" in text) == (0, True)


@pytest.mark.parametrize("layout", ["robomimic", "map"])
def test_a_feature_of_no_columns_is_left_out_with_a_notice(tmp_path: Path, layout: str) -> None:
    empty_feature(tmp_path / "f.h5", 12, 0)
    mapped = ["--map", "state=obs/q", "--map", "n=obs/none", "--role", "n=auxiliary"]
    options = mapped if layout == "map" else []
    for arguments in (["inspect"], ["convert", "--out", str(tmp_path / "out")]):
        code, text = run(*arguments, str(tmp_path / "f.h5"), *options)
        assert code == 0
        assert "arrays without columns left out: " in text


@pytest.mark.parametrize("wrong", ["=y", "state=", "state=y,,u"])
def test_a_map_without_a_name_is_a_wrong_option(tmp_path: Path, wrong: str) -> None:
    path = write(tmp_path / "f.h5", {"y": (30, 2), "u": (30, 1)})
    code, text = run("inspect", str(path), "--map", wrong)
    assert (code, f"--map {wrong}" in text) == (2, True)


def test_names_that_no_file_can_have_are_refused_where_they_are_given(tmp_path: Path) -> None:
    long = "n" * 300
    path = write(tmp_path / "f.h5", {"y": (30, 2), "u": (30, 1)})
    mapped = ["--map", "state=y", "--map", "control=u"]
    config = tmp_path / "m.yaml"
    assert run("inspect", str(path), *mapped, "--write", str(config))[0] == 0
    for arguments in (
        ["inspect", long],
        ["inspect", str(path), *mapped, "--write", f"{long}.yaml"],
        ["convert", str(path), *mapped, "--out", long],
        ["convert", str(path), "--map", f"{long}=y", "--role", f"{long}=state", "--out", str(tmp_path / "out")],
        ["simulate", "double_pendulum", "--out", f"{long}.h5"],
        ["plan", str(config), "--set", f"experiment={long}"],
        ["plan", str(config), "--results", long],
        ["train", "--config", long],
        ["train", "--config", str(config), "--set", f"data.path={long}"],
        ["report", long],
        ["resume", long],
        ["evaluate", long],
        ["export", long, "--out", "x"],
    ):
        code, text = run(*arguments)
        assert code == 2, (arguments[0], text)
        assert "Traceback" not in text


def test_a_file_with_the_longest_name_is_written_inspected_and_converted(tmp_path: Path) -> None:
    path = write(tmp_path / ("n" * 250 + ".h5"), {"y": (30, 2), "u": (30, 1)})
    config = tmp_path / ("m" * 250 + ".yaml")
    mapped = ["--map", "state=y", "--map", "control=u"]
    assert run("inspect", str(path), *mapped, "--write", str(config))[0] == 0
    assert len(load(config).first.experiment or "") == 100


@pytest.mark.parametrize("environment", ["double_pendulum", "inverted_pendulum"])
def test_a_simulation_without_room_is_refused_with_sizes_before_it_starts(tmp_path: Path, environment: str) -> None:
    out = tmp_path / "big.h5"
    code, text = run("simulate", environment, "--episodes", "10000000", "--steps", "10000", "--out", str(out))
    assert code == 2
    assert re.search(r"10,000,000 episodes of 10,000 steps are about [\d.]+ GiB.* free in .*simulate fewer", text)
    assert not out.exists()


def test_a_file_of_groups_alone_is_not_said_to_hold_no_arrays(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for number in range(100):
            file[f"demo_{number}/observation"] = np.zeros((5, 2))
    code, text = run("convert", str(tmp_path / "many.h5"), "--out", str(tmp_path / "out"))
    assert code == 4
    assert "it holds demo_0/observation, demo_1/observation, " in text
