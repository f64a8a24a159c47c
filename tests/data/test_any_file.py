"""Whatever an HDF5 file holds, the commands read it or say in a few lines why not; no point is lost without a word."""

import re
import shlex
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from any_file import Content, contents, d4rl, nerd, robosuite, with_array, with_attribute
from hypothesis import HealthCheck, given, settings
from in_process import run

# The same files in every run: a failure here is a failure for everybody.
SETTINGS = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


# What broke before, which a run of twenty need not meet.
FOUND = (
    with_array(nerd([1]), "data/traj_lengths", np.array([0])),
    with_array(nerd([3, 2]), "data/traj_lengths", np.array([0, 2])),
    with_array(nerd([1]), "data/traj_lengths", np.array([np.nan])),
    with_array(d4rl([1]), "observations", np.empty((1, 0))),
    with_array(d4rl([5, 5]), "next_observations", np.ones((10, 2))),
    with_array(robosuite([1]), "data/demo_0/states", np.empty((1, 0))),
    with_attribute(nerd([5]), "data", "dt", "fast"),
)


def points(text: str) -> int:
    return int(re.search(r"(\d+) points?; length", text)[1])


def check(content: Content) -> None:
    """Inspect, convert, and go on with the printed command: a file is read or refused, never a traceback."""
    with tempfile.TemporaryDirectory() as folder:
        path, out, file = Path(folder) / "any.h5", Path(folder) / "out", Path(folder) / "mine.yaml"
        content.write(path)

        # What it is, and what it becomes
        code, seen = run("inspect", str(path))
        assert code in (0, 4), seen
        converted, said = run("convert", str(path), "--out", str(out))
        assert converted in (0, 4), said
        assert "Traceback" not in seen + said
        check_points(seen, said, converted)

        # The printed command, an experiment file in the temporary folder
        if code or "ARRAY --map" in seen.splitlines()[-1]:
            return
        words = shlex.split(seen.splitlines()[-1].removeprefix("next: ensemble "))
        options = words[2 : words.index("--write")]
        code, text = run(*words[: words.index("--write")], "--write", str(file))
        assert code in (0, 4), text
        assert "looks like" in text or code == 4, text
        if code == 0:
            code, plan = run("plan", str(file))
            assert code == 0, plan
        converted, said = run("convert", str(path), "--out", str(out), *options)
        assert converted in (0, 4), said
        check_points(text, said, converted)
        if converted == 0 and "--time-axis" not in options and "--map" in options:
            state = next(word.removeprefix("state=") for word in options if word.startswith("state="))
            check_rows(path, state.split(",")[0], said)


def check_rows(path: Path, key: str, said: str) -> None:
    """Every row of the state's array is converted, in every group that has it, or a line says what is missing."""
    rows = 0

    def count(name: str, found: object) -> None:
        nonlocal rows
        if isinstance(found, h5py.Dataset) and (name == key or name.endswith(f"/{key}")):
            # MATLAB's arrays have their axes the other way round, and an array inside an episode is a part of it.
            rows += found.shape[0] if found.shape and "MATLAB_class" not in found.attrs else 0

    with h5py.File(path) as file:
        if key not in file:
            file.visititems(count)
    assert rows in (0, points(said)) or "left out" in said, (rows, key, said)


def check_points(seen: str, said: str, converted: int) -> None:
    """The points that are inspected are those that are converted, or a line says which are missing."""
    if converted == 0 and "; length" in seen:
        assert points(seen) == points(said) or "left out" in said, seen + said


@pytest.mark.parametrize("content", FOUND)
def test_what_broke_once_is_read_or_refused(content: Content) -> None:
    check(content)


@settings(max_examples=20, **SETTINGS)
@given(contents())
def test_any_file_is_read_or_refused(content: Content) -> None:
    check(content)


@pytest.mark.slow
@settings(max_examples=500, **SETTINGS)
@given(contents())
def test_any_of_five_hundred_files_is_read_or_refused(content: Content) -> None:
    check(content)
