from pathlib import Path

import numpy as np
import pytest

from ensemble.data.trajectories import read_trajectories
from ensemble.errors import DataError, UsageError


def test_what_was_written_is_read_back_to_the_bit(make_data, write_shards, tmp_path: Path) -> None:
    data = make_data([4, 7, 2], given=["train", None, "test"])
    read = read_trajectories(write_shards(data, tmp_path / "shards"))
    np.testing.assert_array_equal(read.rows, data.rows)
    for name in ("first", "points", "hashes"):
        np.testing.assert_array_equal(getattr(read.episodes, name), getattr(data.episodes, name))
    assert (read.keys, read.given, read.dt, read.features) == (data.keys, data.given, data.dt, data.features)
    with pytest.raises(ValueError, match="read-only"):
        read.rows[0, 0] = 1


def test_a_directory_without_manifest_is_not_a_data_set(make_data, write_shards, tmp_path: Path) -> None:
    directory = write_shards(make_data([3]), tmp_path / "shards")
    (directory / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"not a data set: no manifest"):
        read_trajectories(directory)


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "empty", "bit flip"])
def test_a_damaged_shard_is_named_with_the_way_out(make_data, write_shards, tmp_path: Path, damage: str) -> None:
    shard = write_shards(make_data([40, 30, 50]), tmp_path / "shards") / "shard-00001.parquet"
    content = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    else:
        content[len(content) // 2] ^= 4
        wrong = {"truncated": content[:-40], "garbage": b"x" * 500, "empty": b"", "bit flip": content}
        shard.write_bytes(wrong[damage])
    with pytest.raises(DataError, match=r"shard-00001\.parquet.*rebuild with `ensemble convert`"):
        read_trajectories(shard.parent)


def test_shards_of_another_data_set_are_refused(make_data, write_shards, tmp_path: Path) -> None:
    directory = write_shards(make_data([4, 4, 5, 3]), tmp_path / "shards")
    first, second = directory / "shard-00000.parquet", directory / "shard-00001.parquet"
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match=r"shard-00000\.parquet"):
        read_trajectories(directory)


def test_a_damaged_manifest_is_an_error_of_the_data(make_data, write_shards, tmp_path: Path) -> None:
    directory = write_shards(make_data([4]), tmp_path / "shards")
    (directory / "manifest.json").write_text('{"format": "ensemble-sh')
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        read_trajectories(directory)


def test_an_unknown_feature_names_the_nearest(make_data) -> None:
    data = make_data([3])
    assert data.columns("joint_acts") == slice(4, 6)
    with pytest.raises(UsageError, match=r"no feature 'state'.*did you mean 'states'"):
        data.columns("state")


def test_row_chunks_leave_out_the_trimmed_ends(make_data) -> None:
    episodes = make_data([3, 1, 2]).episodes
    assert np.concatenate(list(episodes.row_chunks(2))).tolist() == [0, 1, 2, 3, 4, 5]
    assert np.concatenate(list(episodes.row_chunks(2, trim=1))).tolist() == [0, 1, 4]
    assert list(episodes.take(np.array([1])).row_chunks(2, trim=1)) == []
