"""Splits that a source or an experiment file gives: masks, subsets, rows of an episode, names of files."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from layout_files import config, pendulum, write_robomimic_file

from ensemble.config.data import DataConfig, SplitConfig
from ensemble.data.convert import convert
from ensemble.data.inspect import inspect_file
from ensemble.data.splits import split_episodes, split_text, split_windows
from ensemble.data.trajectories import Trajectories, read_trajectories
from ensemble.errors import DataError


def robomimic(path: Path, masks: dict[str, list[int]], episodes: int = 14) -> Path:
    write_robomimic_file(path, pendulum(episodes))
    with h5py.File(path, "r+") as file:
        for name, members in masks.items():
            file[f"mask/{name}"] = np.array([f"demo_{number}".encode() for number in members])
    return path


def data_of(path: Path, **options: object) -> Trajectories:
    convert([path], path.with_suffix(".shards"), config(**options))
    return read_trajectories(path.with_suffix(".shards"))


def numbers(data: Trajectories, split: SplitConfig) -> dict[str, list[int]]:
    """The numbers of the demonstrations of each split."""
    parts = split_episodes(data, split, window=2)
    return {
        name: [int(data.keys[i].removeprefix("demo_")) for i in data.episode_of(part.first)]
        for name, part in parts.items()
    }


def test_masks_that_overlap_are_an_error_that_names_the_episodes_and_both_masks(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "r.hdf5", {"train": list(range(11)), "valid": [8, 9, 10, 11], "test": [12, 13]})
    with pytest.raises(DataError) as raised:
        convert([path], tmp_path / "out", config())
    assert "3 of 14 episodes cannot be used" in str(raised.value)
    for number in (8, 9, 10):
        assert f"episode data/demo_{number}: is in mask/train and mask/valid, which overlap" in str(raised.value)
    manifest = convert([path], tmp_path / "out", config(drop_bad_episodes=True))
    assert "3 episodes of two splits left out" in manifest.notices
    assert manifest.episodes == 11


def test_every_mask_is_listed_and_kept(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "r.hdf5", {"train": list(range(12)), "valid": [12, 13], "20_percent_train": [0, 5]})
    assert "given splits: train 12, validation 2" in inspect_file(path).lines()
    assert "masks: 20_percent_train 2" in inspect_file(path).lines()
    data = data_of(path)
    assert [data.keys[i] for i, masks in enumerate(data.masks) if masks] == ["demo_0", "demo_5"]


def test_a_mask_is_a_split_by_name_and_a_subset(tmp_path: Path) -> None:
    masks = {"20_percent_train": [0, 5, 9], "20_percent_valid": [3], "demo_1": [2, 4]}
    data = data_of(robomimic(tmp_path / "r.hdf5", masks))
    split = SplitConfig(train=["20_percent_train"], validation=["mask:20_percent_valid"], test=["demo_1"])
    assert numbers(data, split) == {"train": [0, 5, 9], "validation": [3], "test": [1]}  # an episode's name comes first
    split = SplitConfig(train=["20_percent_train"], validation=["demo_3"], test=["mask:demo_1"])
    assert numbers(data, split)["test"] == [2, 4]
    split = SplitConfig(episodes=["20_percent_*", "demo_1*"], train=2, validation=3, test=4)
    assert set().union(*map(set, numbers(data, split).values())) <= {0, 5, 9, 3, 1, 10, 11, 12, 13}
    assert sum(map(len, numbers(data, split).values())) == 9
    with pytest.raises(DataError, match=r"data.split.episodes: no episode, group or mask '20_percent_trian'; did you"):
        split_episodes(data, SplitConfig(episodes=["20_percent_trian"]), window=2)


def test_a_subset_limits_the_windows_of_a_policy_as_well(tmp_path: Path) -> None:
    data = data_of(robomimic(tmp_path / "r.hdf5", {"few": list(range(10))}))
    for by in ("episode", "window"):
        options = DataConfig(path="x", starts=[0, 1], split=SplitConfig(episodes=["few"], by=by))
        parts = split_windows(data, options, window=2)
        assert {int(i) for part in parts.values() for i in data.episode_of(part.first)} <= set(range(10))


def test_files_without_further_masks_have_the_table_that_they_had(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "r.hdf5", {"train": list(range(12)), "valid": [12, 13]})
    assert data_of(path).masks == ()
    tables = list((tmp_path / "r.shards").rglob("*episodes.parquet"))
    assert pq.read_schema(tables[0]).names == ["episode", "key", "source", "points", "shard", "split", "hash"]


def test_a_mask_that_names_deleted_demonstrations_says_so(tmp_path: Path) -> None:
    path = robomimic(tmp_path / "r.hdf5", {"train": [0, 1, 2, 77, 78]})
    assert any("mask/train names 2 demonstrations that the file does not hold" in x for x in inspect_file(path).lines())


def test_rows_of_one_long_episode_are_splits(make_data) -> None:  # type: ignore[no-untyped-def]
    data = make_data([1000])
    split = SplitConfig.model_validate(
        {"train": {"rows": [50, 700]}, "validation": {"rows": [700, 800]}, "test": {"rows": [850, 1000]}}
    )
    parts = split_episodes(data, split, window=10)
    assert [(int(p.first[0]), int(p.points[0])) for p in parts.values()] == [(50, 650), (700, 100), (850, 150)]
    assert split_text(data, DataConfig(path="x", split=split), 10) == "rows as given 650/100/150 points"


def test_fractions_beside_rows_are_blocks_of_the_rows_of_train(make_data) -> None:  # type: ignore[no-untyped-def]
    split = SplitConfig.model_validate({"train": {"rows": [0, 610]}, "test": {"rows": [700, 1000]}})
    parts = split_episodes(make_data([1000]), split, window=10)
    assert [(int(p.first[0]), int(p.points[0])) for p in parts.values()] == [(0, 540), (550, 60), (700, 300)]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"test": {"rows": [900, 1001]}}, r"split 'test': rows 900 to 1001, but episode 'demo_0' has 1000 points"),
        ({"test": {"rows": [690, 900]}}, r"rows 690 to 700 of episode 'demo_0' are in both 'train' and 'test'"),
        ({"test": {"rows": [0, 9], "episode": "dmo_0"}}, r"no episode 'dmo_0'; did you mean 'demo_0'\?"),
    ],
)
def test_rows_that_overlap_or_are_not_there_are_refused_with_their_numbers(make_data, split, message: str) -> None:  # type: ignore[no-untyped-def]
    whole = {"train": {"rows": [0, 700]}, "validation": {"rows": [750, 800]}, **split}
    if "900" in message and "690" in message:
        whole["validation"] = {"rows": [950, 1000]}
    with pytest.raises(DataError, match=message):
        split_episodes(make_data([1000]), SplitConfig.model_validate(whole), window=5)


def test_rows_of_one_of_several_episodes_need_its_name(make_data) -> None:  # type: ignore[no-untyped-def]
    data = make_data([100, 500])
    rows = {"train": {"rows": [0, 300]}, "validation": {"rows": [300, 400]}, "test": ["demo_0"]}
    with pytest.raises(DataError, match="rows of which episode"):
        split_episodes(data, SplitConfig.model_validate(rows), window=5)
    for name in ("train", "validation"):
        rows[name]["episode"] = "demo_1"  # type: ignore[index]
    parts = split_episodes(data, SplitConfig.model_validate(rows), window=5)
    assert [int(p.first[0]) for p in parts.values()] == [100, 400, 0]


def test_rows_need_an_order_and_a_train_split_of_rows_or_names() -> None:
    with pytest.raises(ValueError, match="rows 5 to 5 are none"):
        SplitConfig.model_validate({"train": {"rows": [5, 5]}})
    with pytest.raises(ValueError, match="`train` needs rows or names as well"):
        SplitConfig.model_validate({"test": {"rows": [5, 9]}})
    with pytest.raises(ValueError, match="not by names or rows"):
        SplitConfig.model_validate({"train": {"rows": [0, 5]}, "by": "window"})
