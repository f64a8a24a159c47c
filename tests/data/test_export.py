"""Data sets for other programs: what is written and read again is the same to the bit, and what is lost is said."""

import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from in_process import run
from layout_files import DT, config, pendulum, write_minari_file, write_nerd_file, write_npz_file, write_robomimic_file

from ensemble.cli import cli
from ensemble.data.convert import convert
from ensemble.data.exports.export import export
from ensemble.data.trajectories import Trajectories, read_trajectories
from ensemble.errors import DataError, StorageError, UsageError
from ensemble.lock import held_beside


def several_features(path: Path) -> None:
    """A file with two states, two controls, an auxiliary feature, and names that shards and formats use themselves."""
    write_nerd_file(path, pendulum(13))
    with h5py.File(path, "r+") as file:
        group = file["data"]
        group["step"], group["actions"] = group["joint_acts"][:] * 2, group["joint_acts"][:] * 3
        group["lambdas"], group["next_lambdas"] = group["states"][:], group["next_states"][:]


def shards(source: Path, out: Path, **options: object) -> Trajectories:
    convert([source], out, config(**options))
    return read_trajectories(out)


@pytest.mark.parametrize("target", ["lerobot", "robomimic"])
def test_what_is_exported_converts_to_the_same_data_set(tmp_path: Path, target: str) -> None:
    several_features(tmp_path / "n.h5")
    roles, angles = {"lambdas": "state", "step_": "auxiliary"}, ["states[0]"]
    before = shards(tmp_path / "n.h5", tmp_path / "before", roles=roles, angles=angles)
    assert [f.role for f in before.features].count("state") == 2
    export([tmp_path / "before"], tmp_path / "made", target, config(path=[str(tmp_path / "before")]), "swing")
    after = shards(tmp_path / "made", tmp_path / "after")
    assert after.features == before.features  # names, roles, labels and angles, in their order
    assert after.rows.tobytes() == before.rows.tobytes()
    np.testing.assert_array_equal(after.episodes.points, before.episodes.points)
    assert (after.fingerprint, after.dt) == (before.fingerprint, before.dt)


@pytest.mark.parametrize("target", ["lerobot", "robomimic"])
def test_a_file_is_checked_and_exported_in_one_command(tmp_path: Path, target: str) -> None:
    write_robomimic_file(tmp_path / "r.hdf5", pendulum(12))
    with h5py.File(tmp_path / "r.hdf5", "r+") as file:
        file["data/demo_4/obs/state"][2, 0] = np.nan
        file["mask/train"] = np.array([f"demo_{i}" for i in range(8)], dtype="S")
        file["mask/valid"] = np.array([f"demo_{i}" for i in range(8, 12)], dtype="S")
    out = tmp_path / "out"
    arguments = ["convert", str(tmp_path / "r.hdf5"), "--to", target, "--out", str(out), "--dt", "0.05"]
    run = CliRunner().invoke(cli, arguments)
    assert isinstance(run.exception, DataError)
    assert not out.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "r.hdf5"]
    run = CliRunner().invoke(cli, [*arguments, "--drop-bad-episodes"], catch_exceptions=False)
    assert "1 episode with NaN or infinity left out" in run.output
    assert f"{out}: {target}, 11 episodes" in run.output
    after = shards(out, tmp_path / "after")
    assert after.given == ("train",) * 7 + ("validation",) * 4
    assert after.dt == DT
    assert [feature.name for feature in after.features] == ["state", "actions"]
    assert "exists; choose another --out" in str(CliRunner().invoke(cli, arguments).exception)


def test_lerobot_gets_one_state_one_action_and_what_it_normalizes_with(tmp_path: Path) -> None:
    several_features(tmp_path / "n.h5")
    exported = export(
        [tmp_path / "n.h5"], tmp_path / "l", "lerobot", config(roles={"lambdas": "state"}), "swing the pendulum"
    )
    info = json.loads((tmp_path / "l" / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"]) == ("v3.0", 20, 13)
    assert list(info["features"]) == [
        "observation.state", "action", "auxiliary.step_",
        "timestamp", "frame_index", "episode_index", "index", "task_index",
    ]  # fmt: skip
    assert info["features"]["observation.state"]["names"] == ["q0", "qd0", "lambdas[0]", "lambdas[1]"]
    table = pq.read_table(tmp_path / "l" / "data" / "chunk-000" / "file-000.parquet")
    actions, index = np.stack(table["action"].to_pylist()), table["episode_index"].to_numpy()
    ends = np.flatnonzero(np.diff(index, append=13))
    np.testing.assert_array_equal(actions[ends], actions[ends - 1])  # no zero action that nobody took
    statistics = json.loads((tmp_path / "l" / "meta" / "stats.json").read_text())
    np.testing.assert_allclose(statistics["action"]["mean"], actions.mean(axis=0), rtol=1e-6)
    assert {"min", "max", "mean", "std", "count", "q01", "q99"} <= statistics["observation.state"].keys()
    episodes = pq.read_table(tmp_path / "l" / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [each["length"] for each in episodes] == [len(e.states) for e in pendulum(13)]
    assert all(each["dataset_to_index"] - each["dataset_from_index"] == each["length"] for each in episodes)
    assert episodes[0]["tasks"] == ["swing the pendulum"]
    assert any("observation.state holds states, lambdas, in this order" in notice for notice in exported.notices)
    assert any("repeats the action before it" in notice for notice in exported.notices)


def test_robomimic_samples_end_one_point_before_their_last_next_observation(tmp_path: Path) -> None:
    write_minari_file(tmp_path / "main_data.hdf5", pendulum(12))
    exported = export([tmp_path / "main_data.hdf5"], tmp_path / "r.hdf5", "robomimic", config(), "Pendulum")
    with h5py.File(tmp_path / "r.hdf5") as file:
        demo, states = file["data/demo_3"], pendulum(12)[3].states
        np.testing.assert_array_equal(demo["obs/observations"][:], states[:-1])
        np.testing.assert_array_equal(demo["next_obs/observations"][:], states[1:])
        assert demo["dones"][:].tolist() == [0] * (len(states) - 2) + [1]
        assert demo.attrs["num_samples"] == len(demo["actions"]) == len(demo["rewards"])
        assert json.loads(file["data"].attrs["env_args"])["env_kwargs"] == {"control_freq": 20.0}
    assert any("rewards are in no shard" in notice for notice in exported.notices)


def test_a_task_without_a_target_that_holds_one_is_refused(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    code, text = run("convert", str(tmp_path / "p.npz"), "--out", str(tmp_path / "s"), "--task", "swing")
    assert (code, [path.name for path in tmp_path.iterdir()]) == (2, ["p.npz"])
    assert "--task goes with --to lerobot or --to robomimic" in text


def test_what_a_target_cannot_hold_is_refused_before_anything_is_left(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    with pytest.raises(UsageError, match="the time step is unknown: give --dt"):
        export([tmp_path / "p.npz"], tmp_path / "l", "lerobot", config(), "swing")
    passive = config(roles={"actions": "auxiliary"})
    with pytest.raises(UsageError, match="no feature has the role control, which robomimic needs"):
        export([tmp_path / "p.npz"], tmp_path / "r.hdf5", "robomimic", passive, "swing")
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]
    (tmp_path / "a file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        export([tmp_path / "p.npz"], tmp_path / "a file" / "l", "lerobot", config(dt=0.05), "swing")
    convert([tmp_path / "p.npz"], tmp_path / "shards", config())
    with pytest.raises(UsageError, match="is converted already"):
        export([tmp_path / "shards"], tmp_path / "l", "lerobot", config(decimate=2), "swing")
    uneven = export([tmp_path / "shards"], tmp_path / "l", "lerobot", config(dt=0.3), "swing")
    assert any("3.33333 frames a second are no whole number" in notice for notice in uneven.notices)
    assert shards(tmp_path / "l", tmp_path / "after").dt == pytest.approx(0.3)


@pytest.mark.parametrize("target", ["lerobot", "robomimic"])
def test_an_export_into_a_place_that_another_process_writes_is_refused_and_leftovers_go(
    tmp_path: Path, target: str
) -> None:
    write_nerd_file(tmp_path / "n.h5", pendulum(12))
    out, left, near = tmp_path / "out", tmp_path / ".out.export-killed", tmp_path / ".out2.export-other"
    for folder in (left / "shards", near):
        folder.mkdir(parents=True)
    with held_beside(out), pytest.raises(UsageError, match="out is being written by process"):
        export([tmp_path / "n.h5"], out, target, config(), "swing")
    assert not out.exists()
    export([tmp_path / "n.h5"], out, target, config(), "swing")
    assert {path.name for path in tmp_path.iterdir()} == {"n.h5", "out", near.name}
    with pytest.raises(UsageError, match="exists"):
        export([tmp_path / "n.h5"], out, target, config(), "swing")
