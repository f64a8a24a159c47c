"""A directory of shards: one table for other programs, whole or no data set, and readable in its earlier form."""

import base64
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from layout_files import config, pendulum, write_npz_file, write_robomimic_file

from ensemble.data.convert import convert
from ensemble.data.manifest import read_manifest
from ensemble.data.notes import EPISODES, MANIFEST, has_manifest, note_path, read_note
from ensemble.data.splits import describe_split, split_episodes
from ensemble.data.trajectories import read_episodes, read_trajectories
from ensemble.errors import DataError


def as_earlier(directory: Path) -> Path:
    """Give a directory the names that it had before there were notes."""
    for name in ("manifest.json", "source-00000.json", "source-00001.json"):
        path = note_path(directory, name.removesuffix(".json"))
        if path.is_file():
            (directory / name).write_text(read_note(path))
    table = note_path(directory, EPISODES)
    if table.is_file():
        (directory / "episodes.parquet").write_bytes(base64.b64decode(read_note(table)))
    shutil.rmtree(directory / "_meta")
    return directory


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.npz", "b.npz")):
        write_npz_file(tmp_path / name, pendulum(12, seed=seed))
    convert([tmp_path / "a.npz", tmp_path / "b.npz"], tmp_path / "shards", config())
    return tmp_path / "shards"


def test_a_folder_of_shards_opens_as_one_table(shards: Path) -> None:
    rows = read_trajectories(shards).rows
    frame = pd.read_parquet(shards)
    assert list(frame.columns) == ["episode", "step", "obs", "actions"]
    np.testing.assert_array_equal(np.stack(frame["obs"]), rows[:, :2])
    assert pq.read_table(shards).num_rows == ds.dataset(shards).count_rows() == len(rows)


def test_every_file_in_it_is_parquet_of_one_schema(shards: Path) -> None:
    # Programs that skip no name (polars, a glob of duckdb) then read the same table.
    files = [path for path in shards.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {path.suffix for path in files} == {".parquet"}
    assert len({str(pq.read_schema(path).remove_metadata()) for path in files}) == 1
    total = sum(pq.read_metadata(path).num_rows for path in files)
    assert total == len(read_trajectories(shards).rows)


def test_a_directory_from_before_is_read_and_not_converted_again(shards: Path, tmp_path: Path) -> None:
    before, manifest = read_trajectories(shards), read_manifest(shards)
    as_earlier(shards)
    after = read_trajectories(shards)
    np.testing.assert_array_equal(after.rows, before.rows)
    assert (after.keys, after.given, after.fingerprint) == (before.keys, before.given, before.fingerprint)
    names = sorted(path.name for path in shards.iterdir())
    earlier = Path(shards / "manifest.json").read_text().replace("_meta/episodes", "episodes")
    (shards / "manifest.json").write_text(earlier)
    size = (shards / "episodes.parquet").stat().st_size
    entry = manifest.files[-1].model_copy(update={"name": "episodes.parquet", "bytes": size})
    old = manifest.model_copy(update={"files": (*manifest.files[:-1], entry)})
    (shards / "manifest.json").write_text(old.model_dump_json())
    assert convert([tmp_path / "a.npz", tmp_path / "b.npz"], shards, config()) == old
    assert sorted(path.name for path in shards.iterdir()) == names


def test_an_unfinished_conversion_from_before_is_finished_in_the_new_form(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    write_npz_file(paths[0], pendulum(12))
    paths[1].write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(DataError):
        convert(paths, out, config())
    as_earlier(out)
    kept = (out / "shard-00000-00000.parquet").stat().st_mtime_ns
    write_npz_file(paths[1], pendulum(12, seed=4))
    convert(paths, out, config())
    assert (out / "shard-00000-00000.parquet").stat().st_mtime_ns == kept
    assert len(pd.read_parquet(out)) == len(read_trajectories(out).rows)
    assert not list(out.glob("*.json"))


@pytest.mark.parametrize("name", [MANIFEST, EPISODES])
def test_d19_a_flipped_bit_in_what_describes_the_shards_is_caught(shards: Path, name: str) -> None:
    path = note_path(shards, name)
    content = bytearray(path.read_bytes())
    content[content.index(read_note(path)[30:60].encode()) + 7] ^= 2
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}\.parquet: .*damaged.*rebuild with `ensemble convert`"):
        read_trajectories(shards)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "bit flip"])
def test_d18_d19_a_damaged_shard_is_named_with_the_way_to_make_it_again(shards: Path, damage: str) -> None:
    shard = shards / "shard-00001-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 8
    wrong = {"truncated": content[:-30], "empty": b"", "garbage": b"z" * 700, "bit flip": content}
    shard.write_bytes(wrong[damage])
    with pytest.raises(DataError, match=r"shard-00001-00000\.parquet.*rebuild with `ensemble convert`"):
        read_trajectories(shards)


def test_d20_without_its_manifest_it_is_no_data_set_and_a_rerun_continues(shards: Path, tmp_path: Path) -> None:
    note_path(shards, MANIFEST).unlink()
    (shards / "shard-00001-00000.parquet").unlink()
    with pytest.raises(DataError, match="not a data set"):
        read_trajectories(shards)
    kept = (shards / "shard-00000-00000.parquet").stat().st_mtime_ns
    convert([tmp_path / "a.npz", tmp_path / "b.npz"], shards, config())
    assert has_manifest(shards)
    assert (shards / "shard-00000-00000.parquet").stat().st_mtime_ns == kept
    assert len(read_trajectories(shards).episodes) == 24


def test_d14_a_file_given_twice_is_reported_and_no_episode_is_in_two_splits(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "a.npz", pendulum(20))
    shutil.copy(tmp_path / "a.npz", tmp_path / "copy.npz")
    manifest = convert([tmp_path / "a.npz", tmp_path / "copy.npz"], tmp_path / "out", config())
    assert any(notice.startswith("20 episodes with the content of another: 1-episode-0") for notice in manifest.notices)
    data = read_trajectories(tmp_path / "out")
    parts = split_episodes(data, config().split, window=3)
    hashes = [set(part.hashes.tolist()) for part in parts.values()]
    assert sum(map(len, hashes)) == len(set.union(*hashes))
    assert "20 duplicate episodes kept in the split of the twin" in describe_split(data, parts)


def test_the_table_of_episodes_keeps_masks(tmp_path: Path) -> None:
    import h5py

    write_robomimic_file(tmp_path / "r.h5", pendulum(12))
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        file["mask/few"] = np.array([b"demo_2", b"demo_10"])
    convert([tmp_path / "r.h5"], tmp_path / "out", config())
    table = read_episodes(tmp_path / "out")
    masked = [key for key, masks in zip(table["key"].to_pylist(), table["masks"].to_pylist(), strict=True) if masks]
    assert masked == ["demo_2", "demo_10"]
