"""Conversion: what the shards, the manifest and a rerun are worth."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from layout_files import DT, Episode, config, pendulum, write_nerd_file, write_npz_file, write_robomimic_file

from ensemble.data.convert import convert
from ensemble.data.manifest import Manifest, read_manifest
from ensemble.data.notes import MANIFEST, has_manifest, note_path, read_note, write_note
from ensemble.data.shards import renumber, shard_schema
from ensemble.data.statistics import Moments
from ensemble.data.trajectories import read_episodes, read_trajectories
from ensemble.errors import DataError, StorageError, UsageError


def files_of(directory: Path) -> dict[str, str]:
    """Every file with its checksum."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def data_rows(episodes: list[Episode]) -> np.ndarray:
    parts = []
    for e in episodes:
        controls = e.controls.copy()
        controls[-1] = 0
        parts.append(np.concatenate([e.states, controls], axis=1))
    return np.concatenate(parts)


def test_the_manifest_holds_true_sums_of_every_file(tmp_path: Path) -> None:
    write_nerd_file(tmp_path / "n.h5", pendulum(12))
    manifest = convert([tmp_path / "n.h5"], tmp_path / "out", config())
    found = files_of(tmp_path / "out")
    assert {file.name: file.sha256 for file in manifest.files} == {
        name: digest for name, digest in found.items() if name.startswith("shard-") or name.endswith("episodes.parquet")
    }
    assert manifest.files[-1].name == "_meta/episodes.parquet"
    assert manifest.sources[0].sha256 == hashlib.sha256((tmp_path / "n.h5").read_bytes()).hexdigest()
    assert read_manifest(tmp_path / "out") == manifest
    assert json.loads(read_note(note_path(tmp_path / "out", MANIFEST)))["format"] == "ensemble-shards/1"
    assert manifest.transitions == manifest.points - manifest.episodes


def test_statistics_are_those_of_all_rows_but_the_padding_of_controls(tmp_path: Path) -> None:
    episodes = pendulum(30, longest=300)
    write_npz_file(tmp_path / "p.npz", episodes)
    statistics = convert([tmp_path / "p.npz"], tmp_path / "out", config()).statistics
    states = np.concatenate([e.states for e in episodes]).astype(np.float64)
    controls = np.concatenate([e.controls[:-1] for e in episodes]).astype(np.float64)
    for name, values in (("obs", states), ("actions", controls)):
        found = statistics[name]
        assert found.count == len(values)
        np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.std, values.std(axis=0), rtol=1e-9)
        np.testing.assert_array_equal(found.min, values.min(axis=0))
        np.testing.assert_array_equal(found.max, values.max(axis=0))
        np.testing.assert_allclose(found.q01, np.quantile(values, 0.01, axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.q99, np.quantile(values, 0.99, axis=0), rtol=1e-12)


def test_several_sources_are_one_data_set_in_their_order(tmp_path: Path) -> None:
    first, second = pendulum(12, seed=1), pendulum(14, seed=2)
    write_robomimic_file(tmp_path / "a.h5", first)
    write_robomimic_file(tmp_path / "b.h5", second)
    manifest = convert([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "out", config())
    data = read_trajectories(tmp_path / "out")
    np.testing.assert_array_equal(data.rows, data_rows(first + second))
    assert data.keys[:2] == ("0-demo_0", "0-demo_1")  # equal names: the number of the source is their prefix
    assert data.keys[-1] == "1-demo_13"
    assert [source.path for source in manifest.sources] == ["a.h5", "b.h5"]
    table = read_episodes(tmp_path / "out")
    assert table["source"].to_pylist() == ["a.h5"] * 12 + ["b.h5"] * 14
    assert table["shard"].to_pylist() == [0] * 12 + [1] * 14


def test_keys_are_plain_only_when_they_need_no_source(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "a.npz", pendulum(12))
    convert([tmp_path / "a.npz"], tmp_path / "out", config())
    assert read_trajectories(tmp_path / "out").keys[0] == "episode-0"


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    write_nerd_file(tmp_path / "n.h5", pendulum(20))
    convert([tmp_path / "n.h5"], tmp_path / "a", config())
    convert([tmp_path / "n.h5"], tmp_path / "b", config())
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_decimation_keeps_every_nth_point_and_stretches_the_time_step(tmp_path: Path) -> None:
    episodes = pendulum(12)
    write_nerd_file(tmp_path / "n.h5", episodes)
    manifest = convert([tmp_path / "n.h5"], tmp_path / "out", config(decimate=3))
    thin = [Episode(e.states[::3], e.controls[::3]) for e in episodes]
    np.testing.assert_array_equal(read_trajectories(tmp_path / "out").rows, data_rows(thin))
    assert manifest.dt == pytest.approx(3 * DT)


def test_a_repeated_episode_is_named(tmp_path: Path) -> None:
    episodes = pendulum(12)
    write_npz_file(tmp_path / "p.npz", [*episodes, episodes[3]])
    notices = convert([tmp_path / "p.npz"], tmp_path / "out", config()).notices
    assert "1 episode with the content of another: episode-12" in notices


def test_episodes_of_one_point_are_left_out_and_counted(tmp_path: Path) -> None:
    episodes = pendulum(12)
    single = Episode(episodes[0].states[:1], episodes[0].controls[:1])
    write_npz_file(tmp_path / "p.npz", [episodes[0], single, *episodes[1:]])
    manifest = convert([tmp_path / "p.npz"], tmp_path / "out", config())
    data = read_trajectories(tmp_path / "out")
    np.testing.assert_array_equal(data.rows, data_rows(episodes))
    assert data.keys[1] == "episode-2"
    assert "1 episode of a single point left out" in manifest.notices


def test_many_rows_make_several_shards_whose_statistics_are_those_of_the_whole(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows, per_episode = 2_000_000, 500
    observations = random.normal(3, 2, (rows, 7)).astype(np.float32)
    observations[777, 0] = np.nan  # leaves out an episode, so what follows is numbered anew
    starts = np.arange(rows) % per_episode == 0
    actions = random.normal(size=(rows, 1)).astype(np.float32)
    np.savez(tmp_path / "big.npz", obs=observations, actions=actions, episode_starts=starts)
    seen: list[tuple[int, int]] = []
    manifest = convert(
        [tmp_path / "big.npz"],
        tmp_path / "out",
        config(drop_bad_episodes=True),
        lambda done, total: seen.append((done, total)),
    )
    assert [file.name for file in manifest.files[:-1]] == ["shard-00000-00000.parquet", "shard-00000-00001.parquet"]
    data = read_trajectories(tmp_path / "out")  # which checks the numbers of the episodes
    keep = np.ones(rows, bool)
    keep[500:1000] = False
    np.testing.assert_array_equal(data.rows[:, :7], observations[keep])
    assert data.keys[1] == "episode-2"
    assert "1 episode with NaN or infinity left out" in manifest.notices
    whole = Moments.of(observations[keep])
    np.testing.assert_allclose(manifest.statistics["obs"].mean, whole.mean, rtol=1e-9)
    np.testing.assert_allclose(manifest.statistics["obs"].std, np.sqrt(whole.variance), rtol=1e-9)
    np.testing.assert_allclose(manifest.statistics["obs"].q01, np.quantile(observations[keep], 0.01, axis=0), atol=0.12)
    assert "rows chosen by content hash" in manifest.quantiles
    assert seen[-1] == (rows, rows)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    groups = pq.ParquetFile(tmp_path / "out" / "shard-00000-00000.parquet")
    assert all(groups.metadata.row_group(i).num_rows % per_episode == 0 for i in range(groups.num_row_groups))


def test_a_finished_conversion_is_not_done_again(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    first = convert([tmp_path / "p.npz"], tmp_path / "out", config())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert convert([tmp_path / "p.npz"], tmp_path / "out", config()) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_another_data_set_is_not_written_over(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "a.npz", pendulum(12))
    write_npz_file(tmp_path / "b.npz", pendulum(12, seed=5))
    convert([tmp_path / "a.npz"], tmp_path / "out", config())
    before = files_of(tmp_path / "out")
    with pytest.raises(UsageError, match="already holds a data set"):
        convert([tmp_path / "b.npz"], tmp_path / "out", config())
    with pytest.raises(UsageError, match="already holds a data set"):
        convert([tmp_path / "a.npz"], tmp_path / "out", config(decimate=2))
    assert files_of(tmp_path / "out") == before


def test_good_files_are_kept_when_one_is_bad_and_the_rerun_takes_them(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.npz", "b.npz", "c.npz")]
    for seed, path in enumerate(paths):
        write_npz_file(path, pendulum(12 + seed, seed=seed))
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:500])
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"1 of 3 files cannot be used; the 2 good ones are kept"):
        convert(paths, out, config())
    assert sorted(files_of(out)) == [
        "_meta/source-00000.parquet",
        "_meta/source-00002.parquet",
        "shard-00000-00000.parquet",
        "shard-00002-00000.parquet",
    ]
    with pytest.raises(DataError, match="not a data set"):
        read_trajectories(out)
    kept = (out / "shard-00000-00000.parquet").stat().st_mtime_ns
    paths[1].write_bytes(whole)
    again = convert(paths, out, config())
    fresh = convert(paths, tmp_path / "fresh", config())
    assert (out / "shard-00000-00000.parquet").stat().st_mtime_ns == kept
    assert files_of(out) == files_of(tmp_path / "fresh")  # episodes of the third file were numbered anew
    assert again == fresh


def test_skip_bad_writes_a_manifest_that_lists_what_was_left_out(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.npz", "b.npz", "c.npz")]
    for seed, path in enumerate(paths):
        write_npz_file(path, pendulum(12, seed=seed))
    whole = paths[0].read_bytes()
    paths[0].write_bytes(b"")
    manifest = convert(paths, tmp_path / "out", config(), skip_bad=True)
    assert [(entry.source, "empty file" in entry.reason) for entry in manifest.skipped] == [("a.npz", True)]
    assert manifest.episodes == len(read_trajectories(tmp_path / "out").episodes) == 24
    paths[0].write_bytes(whole)  # repaired: the set grows
    assert convert(paths, tmp_path / "out", config()).episodes == 36
    assert not read_manifest(tmp_path / "out").skipped


def test_skip_bad_with_no_good_file_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        convert([tmp_path / "a.npz"], tmp_path / "out", config(), skip_bad=True)
    assert not has_manifest(tmp_path / "out")


def test_adding_a_bad_file_leaves_the_data_set_as_it_was(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for seed, path in enumerate(paths):
        write_npz_file(path, pendulum(12, seed=seed))
    whole = paths[0].read_bytes()
    paths[0].write_bytes(b"")
    convert(paths, tmp_path / "out", config(), skip_bad=True)
    before = files_of(tmp_path / "out")
    with pytest.raises(DataError, match="1 of 2 files"):
        convert(paths, tmp_path / "out", config())
    episodes = pendulum(12)
    episodes[3].states[1, 1] = np.nan
    write_npz_file(paths[0], episodes)  # bad in its content, seen only while converting
    with pytest.raises(DataError, match="1 of 2 files"):
        convert(paths, tmp_path / "out", config())
    assert files_of(tmp_path / "out") == before
    paths[0].write_bytes(whole)
    assert convert(paths, tmp_path / "out", config()).episodes == 24


def test_a_damaged_shard_of_a_stopped_run_is_made_again(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    write_npz_file(paths[0], pendulum(12))
    paths[1].write_bytes(b"")
    with pytest.raises(DataError):
        convert(paths, tmp_path / "out", config())
    shard = tmp_path / "out" / "shard-00000-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    write_npz_file(paths[1], pendulum(12, seed=4))
    convert(paths, tmp_path / "out", config())
    convert(paths, tmp_path / "fresh", config())
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


def test_a_run_killed_between_a_shard_and_its_record_is_repaired(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    write_npz_file(paths[1], pendulum(12))
    paths[0].write_bytes(b"")
    with pytest.raises(DataError):
        convert(paths, tmp_path / "out", config())
    renumber(tmp_path / "out" / "shard-00001-00000.parquet", 12)  # as the rerun does before it writes the record
    write_npz_file(paths[0], pendulum(12, seed=4))
    convert(paths, tmp_path / "out", config())
    convert(paths, tmp_path / "fresh", config())
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


def test_a_changed_source_is_converted_again(tmp_path: Path) -> None:
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    write_npz_file(paths[0], pendulum(12))
    paths[1].write_bytes(b"")
    with pytest.raises(DataError):
        convert(paths, tmp_path / "out", config())
    write_npz_file(paths[0], pendulum(15, seed=3))
    write_npz_file(paths[1], pendulum(12, seed=4))
    assert convert(paths, tmp_path / "out", config()).episodes == 27


def test_all_bad_files_are_reported_at_once(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "good.npz", pendulum(12))
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("not an archive")
    paths = [tmp_path / name for name in ("good.npz", "empty.npz", "text.npz", "absent.npz")]
    with pytest.raises(DataError) as raised:
        convert(paths, tmp_path / "out", config())
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("3 of 4 files cannot be used")
    assert [name in line for name, line in zip(("empty", "text", "absent"), lines[1:], strict=True)] == [True] * 3


KILLED = """
import os, sys
from pathlib import Path
from ensemble.config.data import DataConfig
from ensemble.data.convert import convert
sources = [Path(path) for path in sys.argv[2:]]
total = []
def progress(done, points):
    total.append(done)
    if len(total) == 3:
        os.kill(os.getpid(), 9)
convert(sources, Path(sys.argv[1]), DataConfig(path="unused"), progress)
"""


def test_a_killed_converter_leaves_no_data_set_and_the_rerun_finishes_it(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.npz" for number in range(4)]
    for seed, path in enumerate(paths):
        write_npz_file(path, pendulum(12, seed=seed))
    out = tmp_path / "out"
    process = subprocess.run([sys.executable, "-c", KILLED, out, *paths], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert note_path(out, "source-00000").is_file()
    assert not has_manifest(out)
    with pytest.raises(DataError, match="not a data set"):
        read_trajectories(out)
    manifest = convert(paths, out, config())
    convert(paths, tmp_path / "fresh", config())
    assert files_of(out) == files_of(tmp_path / "fresh")
    assert manifest.episodes == 48


@pytest.fixture
def small_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=False, capture_output=True
    ).returncode
    if mounted:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_leaves_old_files_whole_and_no_part_of_a_new_one(tmp_path: Path, small_disk: Path) -> None:
    write_npz_file(tmp_path / "small.npz", pendulum(12))
    convert([tmp_path / "small.npz"], small_disk / "old", config())
    before = files_of(small_disk / "old")
    random = np.random.default_rng(0)
    starts = np.arange(200_000) % 100 == 0
    observations, actions = random.normal(size=(200_000, 4)), random.normal(size=(200_000, 1))
    np.savez(tmp_path / "large.npz", obs=observations, actions=actions, episode_starts=starts)
    with pytest.raises(StorageError, match=r"disk is full: needed about .* free"):
        convert([tmp_path / "large.npz"], small_disk / "new", config())
    assert files_of(small_disk / "old") == before
    assert not (small_disk / "new").exists()


def test_a_damaged_manifest_is_no_data_set(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    manifest = convert([tmp_path / "p.npz"], tmp_path / "out", config())
    path = note_path(tmp_path / "out", MANIFEST)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(b'"fingerprint"') + 20] ^= 1
    for wrong in (content[:-40], bytes(flipped)):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match="damaged"):
            read_manifest(tmp_path / "out")
    assert isinstance(manifest, Manifest)
    text = manifest.model_dump_json().replace('"episodes":12', '"episodes":"twelve"')
    write_note(tmp_path / "out", MANIFEST, text, shard_schema([entry.feature for entry in manifest.features]))
    with pytest.raises(DataError, match="damaged"):
        read_manifest(tmp_path / "out")


def test_conversion_leaves_nothing_temporary_and_does_not_touch_the_source(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    os.utime(tmp_path / "p.npz", (0, 0))
    started = time.time()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "shard-00007-00000.parquet").write_bytes(b"of a stopped run")
    (tmp_path / "out" / ".shard-00000-00000.parquet.x.tmp").write_bytes(b"of a stopped run")
    convert([tmp_path / "p.npz"], tmp_path / "out", config())
    assert sorted(files_of(tmp_path / "out")) == [
        "_meta/episodes.parquet",
        "_meta/manifest.parquet",
        "_meta/source-00000.parquet",
        "shard-00000-00000.parquet",
    ]
    assert (tmp_path / "p.npz").stat().st_mtime < started - 1000


CONVERT = """\
import sys
from pathlib import Path
from ensemble.config import DataConfig
from ensemble.data.convert import convert
from ensemble.errors import UsageError
from ensemble.store import sha256_file
out, ready, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
file = ready / f"{sys.argv[4]}.npz"
for number in range(rounds):
    # Both begin a round at the same time: each waits for the other's sign.
    (ready / f"{number}-{sys.argv[4]}").touch()
    while len(list(ready.glob(f"{number}-*"))) < 2:
        pass
    target = out / str(number)
    try:
        manifest = convert([file], target, DataConfig(path=str(file)))
        print("made" if manifest.is_whole(target) else "BROKEN", flush=True)
    except UsageError as error:
        told = "is being written by process " in str(error) or "already holds a data set of other files" in str(error)
        print("refused" if told else error, flush=True)
"""


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_of_two_conversions_into_one_directory_one_is_refused_and_the_other_is_whole(
    tmp_path: Path, rounds: int
) -> None:
    for name in ("a", "b"):
        observations = np.random.default_rng(len(name) + ord(name)).normal(size=(400, 4))
        starts = np.arange(400) % 40 == 0
        np.savez(tmp_path / f"{name}.npz", obs=observations, actions=observations[:, :1], episode_starts=starts)
    command = [sys.executable, "-c", CONVERT, str(tmp_path / "out"), str(tmp_path), str(rounds)]
    processes = [
        subprocess.Popen([*command, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [errors for _, errors in answers] == ["", ""]
    pairs = [sorted(pair) for pair in zip(*(output.splitlines() for output, _ in answers), strict=True)]
    assert pairs == [["made", "refused"]] * rounds
    for number in range(rounds):
        directory = tmp_path / "out" / str(number)
        assert read_trajectories(directory).rows.shape == (400, 5)
        assert not list(directory.glob(".*"))
