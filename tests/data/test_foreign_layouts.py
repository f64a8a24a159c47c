"""Files of other programs: what their features are called, what is left out, and what is wrong with a file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from layout_files import (
    CASES,
    DT,
    Episode,
    config,
    pendulum,
    write_aloha_folder,
    write_isaaclab_file,
    write_lerobot_folder,
    write_maniskill_file,
    write_minari_file,
    write_mocapact_file,
    write_nerd_file,
    write_robomimic_file,
)

from ensemble.cli import cli
from ensemble.config import DataConfig
from ensemble.data.convert import convert
from ensemble.data.layouts.detect import detect, open_container
from ensemble.data.layouts.folder import expanded
from ensemble.data.manifest import Manifest, options_hash
from ensemble.data.trajectories import Trajectories, read_trajectories
from ensemble.errors import DataError, UsageError
from ensemble.study.prepare import prepare

Write = Callable[[Path, list[Episode]], None]


def converted(path: Path, **options: object) -> tuple[Manifest, Trajectories]:
    """Convert one source into a directory beside it."""
    out = path.with_name(f"{path.name}-shards")
    return convert([path], out, config(**options)), read_trajectories(out)


def roles(data: Trajectories) -> dict[str, str]:
    return {feature.name: feature.role for feature in data.features}


def values(data: Trajectories, feature: str) -> np.ndarray:
    return data.rows[:, data.columns(feature)]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.layout != "map"])
def test_no_file_has_every_name_of_another_layout(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    source = tmp_path / f"some{case.suffix}"
    case.write(source, pendulum(12))
    container = open_container(expanded([source])[0])
    assert [match.layout.name for match in detect(container) if not match.missing] == [case.layout]
    container.close()


# Names


def test_an_observation_called_as_the_control_gets_its_whole_path_as_name(tmp_path: Path) -> None:
    write_isaaclab_file(tmp_path / "i.hdf5", pendulum(12))
    manifest, data = converted(tmp_path / "i.hdf5")
    assert roles(data) == {"state": "state", "actions": "control", "obs.actions": "auxiliary"}
    assert "obs/actions is called obs.actions: actions is the name of another array, too" in manifest.notices
    assert "obs/actions repeats the action of the point before: auxiliary, no state" in manifest.notices
    first = slice(0, int(data.episodes.points[0]) - 1)
    np.testing.assert_array_equal(values(data, "obs.actions")[first][1:], values(data, "actions")[first][:-1])


def test_features_called_as_columns_of_the_shards_get_other_names(tmp_path: Path) -> None:
    write_robomimic_file(tmp_path / "r.hdf5", pendulum(12), followed=False)
    with h5py.File(tmp_path / "r.hdf5", "r+") as file:
        for demo in file["data"].values():
            demo["obs/step"], demo["obs/episode"] = np.arange(len(demo["actions"])), demo["obs/state"][:, :1]
            demo["obs/a.b"], demo["obs/a/b"] = demo["obs/state"][:, :1], demo["obs/state"][:, 1:]
    manifest, data = converted(tmp_path / "r.hdf5")
    assert list(roles(data)) == ["obs.a.b", "obs.a.b-2", "obs.episode", "state", "obs.step", "actions"]
    assert "obs/step is called obs.step: step is a column of the shards" in manifest.notices
    assert data.feature("obs.step").labels == ("obs.step",)
    np.testing.assert_array_equal(values(data, "obs.a.b"), values(data, "state")[:, 1:])  # a/b comes first
    np.testing.assert_array_equal(values(data, "obs.a.b-2"), values(data, "state")[:, :1])
    np.savez(tmp_path / "flat.npz", step=np.zeros((40, 1)), u=np.zeros((40, 1)))
    with pytest.raises(UsageError, match=r"data\.map: 'step' is a column of every shard; call the feature otherwise"):
        convert([tmp_path / "flat.npz"], tmp_path / "o", config(map={"step": "step"}, roles={"step": "state"}))


@pytest.mark.parametrize("name", ["step", "episode"])
def test_every_layout_takes_an_array_called_as_a_column_of_the_shards(tmp_path: Path, name: str) -> None:
    write_nerd_file(tmp_path / "n.h5", pendulum(12))
    with h5py.File(tmp_path / "n.h5", "r+") as file:
        file[f"data/{name}"] = np.zeros(file["data/states"].shape[:2], np.float32)
    assert f"{name}_" in roles(converted(tmp_path / "n.h5")[1])


def test_only_the_named_features_are_kept_beside_the_controls(tmp_path: Path) -> None:
    write_robomimic_file(tmp_path / "r.hdf5", pendulum(12), followed=False)
    with h5py.File(tmp_path / "r.hdf5", "r+") as file:
        for demo in file["data"].values():
            demo["obs/robot0_pos"], demo["obs/robot0_vel"] = demo["obs/state"][:, :1], demo["obs/state"][:, 1:]
    manifest, data = converted(tmp_path / "r.hdf5", features=["obs/robot0_*"])
    assert list(roles(data)) == ["robot0_pos", "robot0_vel", "actions"]
    assert "left out, as data.features says: state" in manifest.notices
    arguments = ["convert", str(tmp_path / "r.hdf5"), "--out", str(tmp_path / "o"), "--features", "state,robot0_pos"]
    run = CliRunner().invoke(cli, [*arguments, "--role", "robot0_pos=auxiliary"], catch_exceptions=False)
    assert run.exit_code == 0
    assert roles(read_trajectories(tmp_path / "o")) == {
        "robot0_pos": "auxiliary",
        "state": "state",
        "actions": "control",
    }
    with pytest.raises(UsageError, match=r"no feature 'robot0_po' in .*; did you mean 'robot0_pos'\?"):
        convert([tmp_path / "r.hdf5"], tmp_path / "p", config(features=["robot0_po"]))


def test_an_option_that_is_not_used_changes_no_hash_of_data_converted_before_it_was_there() -> None:
    assert options_hash(DataConfig(path="x")) == "f44ad12421082f0f"
    assert options_hash(DataConfig(path="x", features=["a"])) != "f44ad12421082f0f"
    assert "features" not in DataConfig(path="x").model_dump()


def test_libero_demonstrations_are_read_without_their_pictures(tmp_path: Path) -> None:
    write_robomimic_file(tmp_path / "l.hdf5", pendulum(12), followed=False)
    with h5py.File(tmp_path / "l.hdf5", "r+") as file:
        file["data"].attrs.update({"problem_info": '{"problem_name": "tabletop"}', "bddl_file_name": "a.bddl"})
        for demo in file["data"].values():
            rows = len(demo["actions"])
            del demo["obs/state"]
            demo["obs/agentview_rgb"] = np.zeros((rows, 4, 4, 3), np.uint8)
            for key, width in (("ee_pos", 3), ("ee_states", 6), ("gripper_states", 2), ("joint_states", 7)):
                demo[f"obs/{key}"] = np.random.default_rng(0).normal(size=(rows, width))
            demo["robot_states"], demo["states"] = np.zeros((rows, 9)), np.zeros((rows, 47))
    manifest, data = converted(tmp_path / "l.hdf5", features=["joint_*", "gripper_*"])
    assert roles(data) == {"gripper_states": "state", "joint_states": "state", "actions": "control"}
    assert "images left out: obs/agentview_rgb" in manifest.notices
    assert data.keys[2] == "demo_2"


# Minari


def test_minari_dictionaries_and_tuples_become_features_by_name(tmp_path: Path) -> None:
    write_minari_file(tmp_path / "main_data.hdf5", pendulum(12), nested=True)
    manifest, data = converted(tmp_path / "main_data.hdf5")
    assert roles(data) == {"_index_0": "state", "goal": "state", "actions": "control"}
    assert manifest.dt == DT
    assert "texts and rows of variable length left out: observations/text" in manifest.notices


def test_minari_counts_must_agree_with_attributes_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "main_data.hdf5"
    write_minari_file(path, pendulum(12))
    with h5py.File(path, "r+") as file:
        file["episode_3"].attrs["total_steps"] = 7
        actions = file["episode_5/actions"][:]
        del file["episode_5/actions"]
        file["episode_5/actions"] = np.concatenate([actions, actions[-1:]])
    with pytest.raises(DataError) as raised:
        converted(path)
    assert "2 of 12 episodes cannot be used" in str(raised.value)
    assert "episode episode_3: declared total 7" in str(raised.value)
    assert f"actions has {len(actions) + 1}" in str(raised.value)
    assert converted(path, drop_bad_episodes=True)[0].episodes == 10

    write_minari_file(path, pendulum(12))
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    (tmp_path / "metadata.json").write_text(json.dumps({**metadata, "total_episodes": 60}))
    with pytest.raises(DataError, match="declared total 60 episodes, found 12"):
        convert([path], tmp_path / "b", config())
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json: damaged"):
        convert([path], tmp_path / "c", config())


# ManiSkill


def test_maniskill_simulator_states_are_the_state_only_without_observations(tmp_path: Path) -> None:
    write_maniskill_file(tmp_path / "t.h5", pendulum(12), observed=False)
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        for group in file.values():
            rows = len(group["actions"]) + 1
            group["env_states/actors/cube"] = np.ones((rows, 13), np.float32)
    manifest, data = converted(tmp_path / "t.h5")
    assert roles(data) == {"cube": "state", "pendulum": "state", "actions": "control"}
    assert "no observations in the file: the simulator's env_states are the state" in manifest.notices
    assert manifest.dt == DT
    with h5py.File(tmp_path / "t.h5", "r+") as file:
        for group in file.values():
            group["obs/agent/qpos"] = group["env_states/articulations/pendulum"][:]
            group["obs/sensor_data/camera/rgb"] = np.zeros((len(group["actions"]) + 1, 4, 4, 3), np.uint16)
    manifest = convert([tmp_path / "t.h5"], tmp_path / "o", config())
    data = read_trajectories(tmp_path / "o")
    assert roles(data) == {"qpos": "state", "actions": "control", "cube": "auxiliary", "pendulum": "auxiliary"}
    assert "images left out: obs/sensor_data/camera/rgb" in manifest.notices


def test_maniskill_lengths_must_agree_with_the_file_beside(tmp_path: Path) -> None:
    write_maniskill_file(tmp_path / "t.h5", pendulum(12))
    described = json.loads((tmp_path / "t.json").read_text())
    described["episodes"][4]["elapsed_steps"] += 1
    (tmp_path / "t.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match=r"declared total \d+ steps in traj_4"):
        converted(tmp_path / "t.h5")
    (tmp_path / "t.json").unlink()
    assert converted(tmp_path / "t.h5")[0].dt is None


# ALOHA, and folders


def test_a_folder_is_its_files_in_natural_order_with_keys_from_their_names(tmp_path: Path) -> None:
    write_aloha_folder(tmp_path / "aloha", pendulum(12))
    run = CliRunner().invoke(cli, ["convert", str(tmp_path / "aloha"), "--out", str(tmp_path / "o")])
    assert f"{tmp_path / 'aloha'}: 12 files, episode_0.hdf5 to episode_11.hdf5" in run.output
    assert "images left out: observations/images/top" in run.output
    data = read_trajectories(tmp_path / "o")
    assert data.keys == tuple(f"episode_{number}" for number in range(12))
    assert data.episodes.points.tolist() == [len(e.states) for e in pendulum(12)]
    again = convert(sorted((tmp_path / "aloha").iterdir()), tmp_path / "p", config())
    assert again.episodes == 12


def test_a_file_that_is_one_bad_episode_is_left_out_as_a_bad_episode(tmp_path: Path) -> None:
    write_aloha_folder(tmp_path / "aloha", pendulum(12))
    with h5py.File(tmp_path / "aloha" / "episode_7.hdf5", "r+") as file:
        file["observations/qpos"][3, 1] = np.nan
    with h5py.File(tmp_path / "aloha" / "episode_9.hdf5", "r+") as file:
        del file["action"]
        file["action"] = np.zeros((3, 1), np.float32)
    with pytest.raises(DataError) as raised:
        converted(tmp_path / "aloha")
    assert "2 of 12 files cannot be used" in str(raised.value)
    assert "episode 0 (episode_7): qpos[1] at step 3 is NaN" in str(raised.value)
    assert "action has 3" in str(raised.value)
    manifest, data = converted(tmp_path / "aloha", drop_bad_episodes=True)
    assert len(data.keys) == 10
    assert "1 episode with NaN or infinity left out" in manifest.notices
    assert "1 episode with unequal numbers of rows left out" in manifest.notices
    assert [skipped.source for skipped in manifest.skipped] == ["episode_9.hdf5", "episode_7.hdf5"]


def test_a_folder_without_readable_files_says_what_a_folder_may_be(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a folder without meta/info\.json \(LeRobot\) and without files \.h5"):
        convert([tmp_path / "pictures"], tmp_path / "o", config())
    write_minari_file(tmp_path / "data" / "main_data.hdf5", pendulum(12))
    convert([tmp_path / "data"], tmp_path / "o", config())
    with pytest.raises(DataError, match="converted already"):
        convert([tmp_path / "o"], tmp_path / "p", config())


@pytest.mark.parametrize("write", [write_aloha_folder, write_lerobot_folder])
def test_an_experiment_takes_a_folder_and_converts_it_again_when_a_file_in_it_changes(
    tmp_path: Path, write: Write
) -> None:
    write(tmp_path / "folder", pendulum(12))
    said: list[str] = []
    first = prepare(DataConfig(path="folder"), tmp_path, tmp_path / "results", said.append).main
    assert prepare(DataConfig(path="folder"), tmp_path, tmp_path / "results", said.append).main == first
    assert sum(line.startswith("converting") for line in said) == 1
    assert len(read_trajectories(first).keys) == 12
    shutil.rmtree(tmp_path / "folder")
    write(tmp_path / "folder", pendulum(11))
    second = prepare(DataConfig(path="folder"), tmp_path, tmp_path / "results", said.append).main
    assert len(read_trajectories(second).keys) == 11


# MoCapAct


def test_mocapact_observables_are_features_and_rollouts_say_where_they_begin(tmp_path: Path) -> None:
    write_mocapact_file(tmp_path / "m.hdf5", pendulum(12), indices=True)
    _, data = converted(tmp_path / "m.hdf5")
    assert roles(data) == {"angle": "state", "velocity": "state", "actions": "control", "mean_actions": "auxiliary"}
    assert data.keys[1:4] == ("CMU_016_15-0-127.start-1", "CMU_016_15-0-127.random-0", "CMU_016_15-0-127.random-1")
    assert data.keys[6] == "CMU_016_55-0-100.start-0"
    np.testing.assert_array_equal(values(data, "velocity")[:5, 0], pendulum(12)[0].states[:, 1])
    inner = np.setdiff1d(np.arange(len(data.rows)), data.episodes.first + data.episodes.points - 1)
    np.testing.assert_array_equal(values(data, "mean_actions")[inner], 2 * values(data, "actions")[inner])


# LeRobot


def test_lerobot_names_are_labels_and_splits_are_given(tmp_path: Path) -> None:
    write_lerobot_folder(tmp_path / "l", pendulum(12))
    info = json.loads((tmp_path / "l" / "meta" / "info.json").read_text())
    info["features"]["action"]["names"] = {"motors": ["angle"]}
    (tmp_path / "l" / "meta" / "info.json").write_text(json.dumps(info))
    manifest, data = converted(tmp_path / "l")
    assert [(f.name, f.labels) for f in data.features] == [
        ("observation.state", ("state.angle", "velocity")),
        ("action", ("action.angle",)),
    ]
    assert data.given == ("train",) * 6 + ("validation",) * 6
    assert data.keys[:2] == ("episode_0", "episode_1")
    assert manifest.dt == DT
    assert "images left out: observation.images.top" in manifest.notices
    assert "rewards and flags left out: next.reward" in manifest.notices


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_lerobot_files_that_are_missing_or_short_are_named_by_episode(tmp_path: Path, version: str) -> None:
    folder = tmp_path / "l"
    write_lerobot_folder(folder, pendulum(12), version)
    files = sorted((folder / "data").rglob("*.parquet"))
    missing = files.pop()
    missing.unlink()
    pq.write_table(pq.read_table(files[0]).slice(0, 4), files[0])
    with pytest.raises(DataError) as raised:
        converted(folder)
    last = 9 if version == "v3.0" else 11  # of a file of six episodes the message names ten at most
    assert f"episode episode_{last}: {missing.relative_to(folder)} is missing" in str(raised.value)
    assert f"episode episode_0: meta/ says 5 frames, {files[0].relative_to(folder)} holds 4" in str(raised.value)
    if version != "v3.0":  # where the two files were all
        data = converted(folder, drop_bad_episodes=True)[1]
        assert data.keys == tuple(f"episode_{number}" for number in range(1, 11))
        np.testing.assert_array_equal(data.rows[: int(data.episodes.points[0]), :2], pendulum(12)[1].states)


def test_lerobot_counts_damage_and_other_versions_are_said(tmp_path: Path) -> None:
    write_lerobot_folder(tmp_path / "l", pendulum(12))
    path = tmp_path / "l" / "meta" / "info.json"
    info = json.loads(path.read_text())
    for change, message in (
        ({"total_episodes": 50}, "counts 50 episodes, meta/ lists 12"),
        ({"codebase_version": "v1.6"}, "codebase_version 'v1.6'; versions 2 and 3 are read"),
        ({"data_path": "data/{nothing}.parquet"}, "does not say where its episodes are"),
        ({"data_path": "data/{chunk_index.x}.parquet"}, "does not say where its episodes are"),
        (
            {"data_path": "../{chunk_index}.parquet"},
            r"data_path leads to \.\./0\.parquet; frames are read from data/ alone",
        ),
    ):
        path.write_text(json.dumps({**info, **change}))
        with pytest.raises(DataError, match=message):
            converted(tmp_path / "l")
    for feature in (None, 1, {"shape": 2}, {"shape": ["x"]}, {"shape": [-1]}, {"shape": [1e400]}):
        damaged = {**info["features"], "observation.state": feature}
        path.write_text(json.dumps({**info, "features": damaged}))
        with pytest.raises(DataError, match=r"info\.json: damaged: the feature 'observation\.state'"):
            converted(tmp_path / "l")
    path.write_text("[]")
    with pytest.raises(DataError, match="not an object of JSON"):
        converted(tmp_path / "l")
    path.write_text(json.dumps(info))
    table = tmp_path / "l" / "data" / "chunk-000" / "file-001.parquet"
    table.write_bytes(table.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"file-001\.parquet: missing or damaged"):
        converted(tmp_path / "l")
    wide = {**info["features"], "observation.state": {"dtype": "float32", "shape": [3]}}
    write_again = tmp_path / "wide"
    write_lerobot_folder(write_again, pendulum(12))
    (write_again / "meta" / "info.json").write_text(json.dumps({**info, "features": wide}))
    with pytest.raises(DataError, match=r"observation\.state has rows of other lengths than the 3"):
        converted(write_again)
