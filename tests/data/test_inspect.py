"""Inspection: the report on a file before its conversion."""

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from layout_files import CASES, config, pendulum, write_grouped_file, write_nerd_file, write_npz_file

from ensemble.config.loading import load
from ensemble.data.convert import convert
from ensemble.data.inspect import inspect_file, write_experiment
from ensemble.data.splits import split_episodes
from ensemble.data.trajectories import read_trajectories
from ensemble.errors import DataError

DATA = Path(__file__).parents[3] / "shared" / "data"


def cells(lines: list[str], feature: str) -> list[str]:
    return next(line.split() for line in lines if line.split()[:1] == [feature])


def test_inspect_reports_episodes_lengths_and_features(tmp_path: Path) -> None:
    episodes = pendulum(12)
    write_nerd_file(tmp_path / "n.h5", episodes)
    lines = inspect_file(tmp_path / "n.h5").lines()
    lengths = [len(e.states) for e in episodes]
    expected = f"length min {min(lengths)}, median {np.median(lengths):g}, max {max(lengths)}"
    assert f"12 episodes, {sum(lengths)} points; {expected}" in lines
    assert "time step 0.05 s" in lines
    assert cells(lines, "states")[:6] == ["states", "2", "float32", "state", "0", "0"]
    assert cells(lines, "joint_acts")[3] == "control"


def test_inspect_counts_bad_values_and_ranges_the_others(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    with np.load(tmp_path / "p.npz") as archive:
        arrays = dict(archive)
    arrays["obs"][3, 0], arrays["obs"][4:6, 1] = np.inf, np.nan
    np.savez(tmp_path / "p.npz", **arrays)
    inspection = inspect_file(tmp_path / "p.npz")
    view = inspection.features[0]
    assert view.not_finite == 3
    finite = np.where(np.isfinite(arrays["obs"]), arrays["obs"], np.nan)
    np.testing.assert_array_equal(view.minimum, np.nanmin(finite, axis=0))
    np.testing.assert_array_equal(view.maximum, np.nanmax(finite, axis=0))
    assert any("3 values are NaN or infinite" in line for line in inspection.lines())


def test_constant_columns_are_listed_once(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    with np.load(tmp_path / "p.npz") as archive:
        arrays = dict(archive)
    arrays["obs"][:, 1] = 7
    np.savez(tmp_path / "p.npz", **arrays)
    lines = inspect_file(tmp_path / "p.npz").lines()
    assert [line for line in lines if line.startswith("constant:")] == ["constant: obs[1]"]
    notices = convert([tmp_path / "p.npz"], tmp_path / "out", config()).notices
    assert [notice for notice in notices if notice.startswith("constant")] == ["constant: obs[1]"]


def test_an_unknown_file_is_shown_array_by_array(tmp_path: Path) -> None:
    write_grouped_file(tmp_path / "m.h5", pendulum(12))
    inspection = inspect_file(tmp_path / "m.h5")
    lines = inspection.lines()
    assert lines[1].startswith("of no known layout")
    assert lines[2] == "12 groups run0 .. run11, each: robot/q 5..33x2 float32, time 5..33 float64, u 5..33x1 float32"
    assert "--map" in lines[-1]
    with pytest.raises(DataError, match="map it first"):
        write_experiment(inspection, tmp_path / "e.yaml")


@pytest.mark.parametrize("name", CASES)
def test_the_proposed_experiment_loads_and_its_data_convert_and_split(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    source = tmp_path / f"some file{case.suffix}"
    case.write(source, pendulum(20))
    inspection = inspect_file(source, config(**case.options))
    write_experiment(inspection, tmp_path / "e.yaml")
    experiment = load(tmp_path / "e.yaml").first
    assert experiment.data.path == str(source)
    convert([source], tmp_path / "out", experiment.data)
    data = read_trajectories(tmp_path / "out")
    roles = {feature.name: feature.role for feature in data.features}
    assert "state" in roles.values()
    parts = split_episodes(data, experiment.data.split, experiment.model.history)
    assert all(len(part) for part in parts.values())


def test_given_splits_are_proposed_by_name(tmp_path: Path) -> None:
    CASES["robomimic"].write(tmp_path / "r.h5", pendulum(30))
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        file["mask/train"] = np.array([f"demo_{i}".encode() for i in range(20)])
        file["mask/valid"] = np.array([f"demo_{i}".encode() for i in range(20, 30)])
    write_experiment(inspect_file(tmp_path / "r.h5"), tmp_path / "e.yaml")
    split = load(tmp_path / "e.yaml").first.data.split
    assert (split.train, split.validation, split.test) == (["train"], ["validation"], 0.1)


@pytest.mark.skipif(not DATA.is_dir(), reason="measured data is not here")
@pytest.mark.parametrize("name", ["sawyer_lift_demo.hdf5", "sawyer_stack_demo.hdf5", "expert_pendulum.npz"])
def test_measured_files_are_understood_in_two_seconds(tmp_path: Path, name: str) -> None:
    started = time.process_time()
    inspection = inspect_file(DATA / name)
    write_experiment(inspection, tmp_path / "e.yaml")
    assert time.process_time() - started < 2
    assert inspection.lines()[1].startswith("looks like")
    load(tmp_path / "e.yaml")
