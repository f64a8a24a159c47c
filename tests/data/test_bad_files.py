"""Bad files: each is refused with its name, the place, and what to do; nothing is unpickled, nothing outside is read.

The rows D1 to D17 of the list of faults, each with a real bad file.
"""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from layout_files import (
    CASES,
    config,
    pendulum,
    write_d4rl_file,
    write_grouped_file,
    write_nerd_file,
    write_npz_file,
    write_robomimic_file,
)

from ensemble.data.convert import convert
from ensemble.data.inspect import inspect_file
from ensemble.data.notes import has_manifest
from ensemble.data.trajectories import read_trajectories
from ensemble.errors import DataError


def refusal(path: Path, tmp_path: Path, **options: object) -> str:
    """The message that a file is refused with, by conversion; no data set is left."""
    with pytest.raises(DataError) as raised:
        convert([path], tmp_path / "out", config(**options))
    assert raised.value.exit_code == 4
    assert not has_manifest(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.parquet"))
    assert str(path) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("percent", [0, 1, 50, 99])
def test_d1_a_truncated_file_says_so_with_its_size(tmp_path: Path, percent: int, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    (write_nerd_file if suffix == ".h5" else write_npz_file)(path, pendulum(50, longest=200))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * percent // 100])
    started = time.process_time()
    message = refusal(path, tmp_path)
    assert time.process_time() - started < 1
    assert ("empty file (0 bytes)" if percent == 0 else "truncated") in message


@pytest.mark.parametrize("missing", ["a demonstration", "rows of one"])
def test_d2_a_writer_stopped_after_a_flush_left_less_than_it_declared(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "r.h5"
    episodes = pendulum(12)
    write_robomimic_file(path, episodes)
    total = sum(len(e.states) - 1 for e in episodes)
    with h5py.File(path, "r+") as file:
        if missing == "a demonstration":
            del file["data/demo_11"]
            for demo in file["data"].values():
                del demo.attrs["num_samples"]
            expected = f"declared total {total} samples, found {total - len(episodes[11].states) + 1}"
        else:
            file["data/demo_3"].attrs["num_samples"] = 99
            expected = f"declared total 99 samples in data/demo_3, found {len(episodes[3].states) - 1}"
    assert expected in refusal(path, tmp_path)


def test_d2_nerd_counts_trajectories_and_transitions(tmp_path: Path) -> None:
    path = tmp_path / "n.h5"
    write_nerd_file(path, pendulum(12))
    with h5py.File(path, "r+") as file:
        file["data"].attrs["total_trajectories"] = 60
    assert "declared total 60 trajectories, found 12" in refusal(path, tmp_path)


UNCLOSED = """
import os, sys, h5py, numpy as np
file = h5py.File(sys.argv[1], "w", libver="latest")
file["obs"] = np.zeros((10, 2), "f4")
file.flush()
os._exit(0)
"""


def test_d3_a_file_that_its_writer_never_closed_suggests_h5clear_on_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "unclosed.h5"
    subprocess.run([sys.executable, "-c", UNCLOSED, path], check=True, timeout=60)
    message = refusal(path, tmp_path)
    assert "h5clear -s" in message
    assert "COPY" in message


def test_d4_a_flipped_bit_in_an_npz_is_caught_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    write_npz_file(path, pendulum(12))
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 4
    path.write_bytes(content)
    assert "damaged" in refusal(path, tmp_path)


def test_d5_a_missing_key_names_the_best_layout_and_the_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "n.h5"
    write_nerd_file(path, pendulum(12))
    with h5py.File(path, "r+") as file:
        file.move("data/next_states", "data/next_state")
    message = refusal(path, tmp_path)
    assert "no 'data/next_states', which the layout nerd (NeRD) needs (did you mean 'data/next_state'?)" in message
    assert "no known layout fits, this one best (2 of 3 names)" in message


def test_d5_a_missing_key_of_one_episode_names_the_episode(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(12))
    with h5py.File(path, "r+") as file:
        file.move("data/demo_7/actions", "data/demo_7/action")
    message = refusal(path, tmp_path)
    assert "episode data/demo_7: no 'data/demo_7/actions'" in message
    assert "did you mean 'data/demo_7/action'?" in message


def test_d5_a_mapped_key_that_some_groups_lack_names_the_group(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    write_grouped_file(path, pendulum(12))
    options = {"map": {"state": "robot/q", "control": "u"}}
    with h5py.File(path, "r+") as file:
        del file["run4/u"]
    assert "episode run4: no 'run4/u'" in refusal(path, tmp_path, **options)
    assert "no 'run4/robot/qq'" not in refusal(path, tmp_path, map={"state": "robot/qq"})
    assert "did you mean" in refusal(path, tmp_path, map={"state": "robot/qq", "control": "u"})


def test_d6_unequal_lengths_inside_an_episode_are_both_named(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(12), followed=False)
    with h5py.File(path, "r+") as file:
        values = file["data/demo_2/obs/state"][:]
        del file["data/demo_2/obs/state"]
        file["data/demo_2/obs/state"] = np.concatenate([values, values[-1:]])
        rows = len(values)
    message = refusal(path, tmp_path)
    assert "data/demo_2" in message
    assert f"obs/state has {rows + 1}, actions has {rows}" in message
    write_d4rl_file(tmp_path / "d.h5", pendulum(12))
    with h5py.File(tmp_path / "d.h5", "r+") as file:
        del file["timeouts"]
        file["timeouts"] = np.zeros(5, bool)
    assert "timeouts has 5, the others have" in refusal(tmp_path / "d.h5", tmp_path)


@pytest.mark.parametrize("name", [name for name in CASES if name != "aloha"])  # whose episodes are files
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_d7_a_bad_number_names_episode_and_first_index(tmp_path: Path, name: str, bad: float) -> None:
    case = CASES[name]
    episodes = pendulum(13)
    episodes[5].states[3, 1] = bad
    episodes[5].states[4, 0] = bad
    path = tmp_path / f"bad{case.suffix}"
    case.write(path, episodes)
    message = refusal(path, tmp_path, **case.options)
    assert "episode 5 (" in message
    assert "[1] at step 3 is NaN, infinite or too large" in message


@pytest.mark.parametrize("name", CASES)
def test_d7_bad_episodes_are_dropped_and_counted_when_asked_to(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    episodes = pendulum(13)
    for bad in (0, 5, 12):
        episodes[bad].states[2, 0] = np.nan
    path = tmp_path / f"bad{case.suffix}"
    case.write(path, episodes)
    manifest = convert([path], tmp_path / "out", config(drop_bad_episodes=True, **case.options))
    assert "3 episodes with NaN or infinity left out" in manifest.notices
    assert manifest.episodes == 10
    data = read_trajectories(tmp_path / "out")
    np.testing.assert_array_equal(data.rows[: len(episodes[1].states), :2], episodes[1].states)


def test_d7_a_number_too_large_for_float32_is_a_bad_number(tmp_path: Path) -> None:
    observations = np.ones((40, 2))
    observations[23, 1] = 1e300
    starts = np.arange(40) % 10 == 0
    np.savez(tmp_path / "p.npz", obs=observations, actions=np.ones((40, 1)), episode_starts=starts)
    assert "episode 2 (episode-2): obs[1] at step 3" in refusal(tmp_path / "p.npz", tmp_path)


def test_d8_episodes_of_different_shapes_print_both(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    write_robomimic_file(path, pendulum(12))
    with h5py.File(path, "r+") as file:
        rows = len(file["data/demo_4/actions"])
        del file["data/demo_4/actions"]
        file["data/demo_4/actions"] = np.zeros((rows, 2))
    message = refusal(path, tmp_path)
    assert "data/demo_0: obs/state (n, 2) float32, actions (n, 1) float32" in message
    assert "data/demo_4: obs/state (n, 2) float32, actions (n, 2) float64" in message


def test_d8_files_of_different_features_print_both(tmp_path: Path) -> None:
    write_npz_file(tmp_path / "a.npz", pendulum(12))
    with np.load(tmp_path / "a.npz") as archive:
        arrays = dict(archive)
    np.savez(tmp_path / "b.npz", **{**arrays, "actions": arrays["actions"].astype(np.int16)})
    with pytest.raises(DataError) as raised:
        convert([tmp_path / "a.npz", tmp_path / "b.npz"], tmp_path / "out", config())
    assert "a.npz: obs (2) float32, actions (1) float32" in str(raised.value)
    assert "b.npz: obs (2) float32, actions (1) int16" in str(raised.value)


def test_files_of_different_time_steps_are_refused(tmp_path: Path) -> None:
    for name, dt in (("a.h5", 0.05), ("b.h5", 0.02)):
        write_nerd_file(tmp_path / name, pendulum(12))
        with h5py.File(tmp_path / name, "r+") as file:
            file["data"].attrs["dt"] = dt
    with pytest.raises(DataError, match=r"b\.h5: dt 0\.02 s, but .*a\.h5 has 0\.05 s"):
        convert([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "out", config())


@pytest.mark.parametrize("dtype", ["float64", "float16", "int16", "uint8"])
def test_d9_other_numbers_are_cast_with_one_notice(tmp_path: Path, dtype: str) -> None:
    observations = (np.random.default_rng(0).uniform(0, 200, (40, 2))).astype(dtype)
    starts = np.arange(40) % 10 == 0
    np.savez(tmp_path / "p.npz", obs=observations, actions=np.ones((40, 1), np.float32), episode_starts=starts)
    notices = convert([tmp_path / "p.npz"], tmp_path / "out", config()).notices
    assert [notice for notice in notices if "float32" in notice] == [f"cast to float32: obs ({dtype})"]
    rows = read_trajectories(tmp_path / "out").rows
    np.testing.assert_array_equal(rows[:, :2], observations.astype(np.float32))


def test_d9_what_the_cast_loses_is_reported(tmp_path: Path) -> None:
    observations = np.stack([1e6 + np.arange(40) * 1e-3, np.arange(40) * 0.1], axis=1)
    starts = np.arange(40) % 10 == 0
    np.savez(tmp_path / "p.npz", obs=observations, actions=np.ones((40, 1), np.float32), episode_starts=starts)
    notices = convert([tmp_path / "p.npz"], tmp_path / "out", config()).notices
    assert len([notice for notice in notices if "loses" in notice]) == 1
    assert any(notice.startswith("obs[0]: rounding to float32 loses up to") for notice in notices)


def test_d10_rows_of_variable_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        rows = file.create_dataset("observations", (5,), dtype=h5py.vlen_dtype(np.float32))
        for i in range(5):
            rows[i] = np.ones(i + 1)
        file["actions"], file["terminals"] = np.ones((5, 1)), np.zeros(5)
    assert "observations holds objects or rows of variable length" in refusal(path, tmp_path)


class Canary:
    """Unpickling it makes a directory."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("carrier", [".pkl", ".pt", ".npy", ".npz", ".h5", "pickle named .h5", "torch named .npz"])
def test_d11_nothing_is_unpickled(tmp_path: Path, carrier: str) -> None:
    canary = tmp_path / "executed"
    path = tmp_path / f"data{carrier}" if carrier.startswith(".") else tmp_path / f"data{carrier[-4:].strip()}"
    blob = pickle.dumps({"obs": Canary(canary)})
    objects = np.array([Canary(canary)], dtype=object)
    if carrier == ".npy":
        np.save(path, objects, allow_pickle=True)
    elif carrier == ".npz":
        np.savez(path, obs=objects, actions=objects, episode_starts=np.ones(1, bool))
    elif carrier == ".h5":
        with h5py.File(path, "w") as file:
            file["observations"] = np.void(blob)
            file["actions"], file["terminals"] = np.frombuffer(blob, f"V{len(blob)}"), np.zeros(1)
            file.move("observations", "blob")
            file["observations"] = np.frombuffer(blob, f"V{len(blob)}")
    elif carrier == "torch named .npz":
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", blob)
    else:
        path.write_bytes(blob)
    message = refusal(path, tmp_path)
    assert carrier == ".npy" or "pickled data is not read" in message
    with pytest.raises(DataError):
        inspect_file(path, config(layout="d4rl" if carrier == ".h5" else "npz"))
    assert not canary.exists()
    pickle.loads(blob)
    assert canary.exists()  # the canary works


def test_d12_a_file_without_episodes_says_so(tmp_path: Path) -> None:
    starts = np.zeros(0, bool)
    np.savez(tmp_path / "p.npz", obs=np.zeros((0, 2)), actions=np.zeros((0, 1)), episode_starts=starts)
    assert "holds 0 episodes" in refusal(tmp_path / "p.npz", tmp_path)
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file.create_group("data")
    assert "holds 0 episodes" in refusal(tmp_path / "r.h5", tmp_path, layout="robomimic")


def test_d12_only_unusable_episodes_are_counted(tmp_path: Path) -> None:
    episodes = pendulum(12)
    for e in episodes:
        e.states[0, 0] = np.nan
    write_npz_file(tmp_path / "p.npz", episodes)
    message = refusal(tmp_path / "p.npz", tmp_path, drop_bad_episodes=True)
    assert "0 of 12 episodes are usable" in message


@pytest.mark.parametrize("kind", ["link", "raw storage", "virtual"])
def test_d15_nothing_outside_the_file_is_read_unless_asked_for(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "d.h5", tmp_path / "other"
    rows = 40
    values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    if kind == "raw storage":
        other.write_bytes(values.tobytes())
    else:
        with h5py.File(other, "w") as file:
            file["values"] = values
    with h5py.File(path, "w") as file:
        file["actions"], file["terminals"] = np.ones((rows, 1), np.float32), np.arange(rows) % 10 == 9
        if kind == "link":
            file["observations"] = h5py.ExternalLink(str(other), "values")
        elif kind == "raw storage":
            external = [(str(other), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("observations", (rows, 2), np.float32, external=external)
        else:
            layout = h5py.VirtualLayout((rows, 2), np.float32)
            layout[:] = h5py.VirtualSource(str(other), "values", (rows, 2))
            file.create_virtual_dataset("observations", layout)
    command = ["strace", "-f", "-e", "trace=openat,open", sys.executable, "-c", OPEN, str(path)]
    message = refusal(path, tmp_path)
    assert "which is not followed" in message
    assert other_is_never_opened(command, other) in (True, None)
    convert([path], tmp_path / "out", config(follow_links=True))
    np.testing.assert_array_equal(read_trajectories(tmp_path / "out").rows[:, :2], values)


OPEN = """
import sys
from pathlib import Path
from ensemble.config.data import DataConfig
from ensemble.data.inspect import inspect_file
from ensemble.data.notes import has_manifest
from ensemble.errors import DataError
try:
    inspect_file(Path(sys.argv[1]), DataConfig(path="unused"))
except DataError:
    print("refused")
"""


def other_is_never_opened(command: list[str], other: Path) -> bool | None:
    """Whether the system calls of a refusal leave the other file alone; None where they can't be watched."""
    try:
        seen = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        return None
    opened = [line for line in seen.stderr.splitlines() if "open" in line]
    return str(other) not in "".join(opened) if any(command[-1] in line for line in opened) else None


def test_d16_a_small_file_that_declares_a_huge_array_is_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        for key in ("observations", "actions"):
            file.create_dataset(key, (10_000_000_000, 4), np.float32, chunks=(1 << 16, 4))
        file.create_dataset("terminals", (10_000_000_000,), bool, chunks=(1 << 16,))
    assert path.stat().st_size < 10_000
    started = time.process_time()
    message = refusal(path, tmp_path)
    assert time.process_time() - started < 2
    assert "observations declares 149.0 GiB in a file of" in message
    assert "ENSEMBLE_MAX_BYTES" in message


def test_d16_the_limit_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npz_file(tmp_path / "p.npz", pendulum(12))
    monkeypatch.setenv("ENSEMBLE_MAX_BYTES", "1e3")
    assert "the limit is 1000 B" in refusal(tmp_path / "p.npz", tmp_path)
    monkeypatch.setenv("ENSEMBLE_MAX_BYTES", "1e9")
    convert([tmp_path / "p.npz"], tmp_path / "out", config())


def test_d16_an_array_that_was_never_written_is_not_taken_for_zeros(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", (100, 4), np.float32)
        file["actions"], file["terminals"] = np.ones((100, 1), np.float32), np.arange(100) % 10 == 9
    assert "observations declares 1.6 KiB and holds 0 bytes" in refusal(path, tmp_path)


WRITER = """
import sys, time, h5py, numpy as np
file = h5py.File(sys.argv[1], "w")
file["obs"] = np.zeros((10, 2), "f4")
file.flush()
print("open", flush=True)
time.sleep(60)
"""


def test_d17_a_file_locked_by_a_writer_names_locking(tmp_path: Path) -> None:
    path = tmp_path / "locked.h5"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            message = refusal(path, tmp_path)
        finally:
            writer.kill()
    assert "locked" in message
    assert "HDF5_USE_FILE_LOCKING" in message


def test_s8_episode_names_cannot_leave_their_place(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        for name in ("a b", "a:b", "été", ".hidden", "deep/er/run"):
            file[f"{name}/q"] = np.random.default_rng(0).normal(size=(10, 2))
    convert([path], tmp_path / "out", config(map={"state": "q"}))
    keys = read_trajectories(tmp_path / "out").keys
    assert sorted(keys) == ["_hidden", "_t_", "a_b", "a_b-2", "deep.er.run"]


def test_a_directory_and_a_missing_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.h5").mkdir()
    assert "a folder without" in refusal(tmp_path / "folder.h5", tmp_path)
    assert "no such file" in refusal(tmp_path / "absent.h5", tmp_path)
