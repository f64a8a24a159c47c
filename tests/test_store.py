import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.config import Experiment, flatten
from ensemble.errors import StorageError
from ensemble.run_directory import RunDirectory, config_hash, member_id
from ensemble.schema import CURVE_COLUMNS, MEMBER_COLUMNS
from ensemble.store import (
    arrow_file,
    atomic_file,
    is_own_table,
    read_json,
    read_record,
    read_table,
    sha256_file,
    table_of,
    write_json,
    write_record,
    write_table,
    write_text,
)


def experiment(**parts) -> Experiment:
    return Experiment.model_validate({"experiment": "a", "data": {"source": "double_pendulum"}, **parts})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture
def read_only_disk(small_disk: Path) -> Path:
    """A file system that is mounted read-only."""
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    return small_disk


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["b.txt"]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path):
    write_text(tmp_path / "ours", "")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_an_error_of_the_source_is_not_taken_for_one_of_the_disk(tmp_path: Path):
    def copy() -> None:
        with atomic_file(tmp_path / "b") as temporary:
            temporary.write_bytes((tmp_path / "missing").read_bytes())

    with pytest.raises(FileNotFoundError):
        copy()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["text", "json", "table", "stream"])
def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new_one(small_disk: Path, kind: str):
    path = small_disk / "file"
    write_text(path, "old")
    size = 4_000_000
    noise = os.urandom(size)

    def stream() -> None:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            for i in range(0, size, 10_000):
                file.write(noise[i : i + 10_000])

    write = {
        "text": lambda: write_text(path, "x" * size),
        "json": lambda: write_json(path, "x" * size),
        "table": lambda: write_table(path, pa.table({"x": [noise[i : i + 100] for i in range(0, size, 100)]})),
        "stream": stream,
    }[kind]
    with pytest.raises(StorageError) as caught:
        write()
    assert caught.value.exit_code == 5
    assert str(caught.value).startswith(f"{path}: the disk is full: needed about ")
    assert "free 2,0" in str(caught.value)
    assert str(caught.value).endswith(" more") == (kind != "stream")  # whose size is not known in advance
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["file"]


def test_a_read_only_disk_is_named(read_only_disk: Path):
    with pytest.raises(StorageError, match=r"results/a\.json: cannot be written: Read-only file system"):
        write_json(read_only_disk / "results" / "a.json", 1)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", 1)


def test_missing_and_damaged_files_are_storage_errors(tmp_path: Path):
    (tmp_path / "bad").write_text("{")
    for read in (read_json, read_table):
        for name in ("bad", "missing"):
            with pytest.raises(StorageError, match=name):
                read(tmp_path / name)


def test_a_damaged_table_is_noticed(tmp_path: Path):
    path = tmp_path / "a.parquet"
    write_table(path, pa.table({"x": list(range(10_000))}))
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="cannot be read"):
        read_table(path)


def is_refused(file: Path) -> bool:
    try:
        read_table(file)
    except StorageError as error:
        return str(file) in str(error)
    return False


def test_any_flipped_bit_of_a_table_is_noticed_and_the_table_is_whole_before(tmp_path: Path):
    path, flipped = tmp_path / "a.parquet", tmp_path / "b.parquet"
    table = pa.table({"config_hash": ["a", "b"], "seed": [0, 1], "test/loss": [0.5, None]})
    write_table(path, table)
    assert pq.read_table(path).drop_columns([]).to_pylist() == table.to_pylist()  # any reader reads it
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for bit in random.permutation(len(whole) * 8)[:500]:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        flipped.write_bytes(content)
        assert is_refused(flipped), bit
    assert read_table(path).equals(table)


def test_a_table_of_another_program_or_an_earlier_version_is_read_and_known_as_such(tmp_path: Path):
    path = tmp_path / "a.parquet"
    write_table(path, pa.table({"x": [1]}))
    assert is_own_table(path)
    pq.write_table(pa.table({"x": [1]}), path)
    assert not is_own_table(path)
    assert read_table(path)["x"].to_pylist() == [1]


def test_a_reader_during_writes_always_sees_a_whole_table(tmp_path: Path):
    path = tmp_path / "a.parquet"
    write_table(path, pa.table({"x": [0] * 1000}))
    stop = threading.Event()

    def write() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            write_table(path, pa.table({"x": [value] * 1000}))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [set(read_table(path)["x"].to_pylist()) for _ in range(100)]
    finally:
        stop.set()
        writer.join()
    assert all(len(values) == 1 for values in seen)
    assert [min(values) for values in seen] == sorted(min(values) for values in seen)


def test_equal_tables_give_equal_bytes(tmp_path: Path):
    table = pa.table({"x": [1.5, None, 3.0], "y": ["a", "b", "a"]})
    again = pa.concat_tables([table.slice(0, 1), table.slice(1)]).combine_chunks()
    write_table(tmp_path / "a", table)
    write_table(tmp_path / "b", again)
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")


def test_a_configuration_is_named_the_same_in_every_process():
    code = (
        "from ensemble.config import Experiment; from ensemble.run_directory import config_hash;"
        "print(config_hash(Experiment(experiment='b', data={'source': 'double_pendulum'})))"
    )
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == config_hash(experiment())


@pytest.mark.parametrize(
    "parts",
    [
        {"experiment": "other"},
        {"ensemble": {"seeds": [5]}},
        {"search": {"seeds": 2}},
        {"resources": {"pack": 3}},
        {"resources": {"workers": 2}},
        {"logging": {"tensorboard": False}},
        {"storage": "/elsewhere"},
        {"data": {"source": "double_pendulum", "path": "shards/a"}},
        {"train": {"steps": 2000}},
        {"train": {"checkpoint_every": 500}},
        {"data": {"source": "double_pendulum", "layout": "nerd", "follow_links": True}},
    ],
)
def test_what_does_not_define_a_result_does_not_change_its_name(parts):
    assert config_hash(experiment(**parts)) == config_hash(experiment())


@pytest.mark.parametrize(
    "parts",
    [
        {"train": {"steps": 3}},
        {"train": {"optimizer": {"name": "adamw"}}},
        {"model": {"n_layer": 1}},
        {"data": {"source": "double_pendulum", "decimate": 2}},
        {"resources": {"threads": 2}},
    ],
)
def test_what_defines_a_result_changes_its_name(parts):
    assert config_hash(experiment(**parts)) != config_hash(experiment())


def test_validation_sets_count_by_name_and_not_by_place():
    def named(**sets: str) -> str:
        return config_hash(experiment(data={"source": "double_pendulum", "validation": sets}))

    assert named(a="x", b="y") == named(b="z", a="x")
    assert named(a="x") != named(b="x")


def test_a_member_is_named_by_configuration_and_seed():
    assert member_id("0123456789ab", 7) == "0123456789ab-s7"


def test_nested_values_become_dotted_columns():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None, "f": {}}
    assert flatten(nested) == {"a.b": 1, "a.c.d": "[1, 2]", "e": None, "f": "{}"}


def leave(run: RunDirectory, config: str, seed: int, **more) -> None:
    """Write what a finished member leaves."""
    member = run.member(member_id(config, seed))
    row = {"config_hash": config, "seed": seed, "status": "completed", **more}
    write_table(member.row_file, table_of([row], MEMBER_COLUMNS))
    curve = [{"config_hash": config, "seed": seed, "step": s, "metric": "train/loss", "value": 1 / s} for s in (1, 2)]
    write_table(member.curves_file, table_of(curve, CURVE_COLUMNS))


def test_rows_of_members_are_collected_with_nulls_for_missing_columns(tmp_path: Path):
    run = RunDirectory(tmp_path)
    leave(run, "bb", 0, **{"test/loss": 0.5})
    leave(run, "aa", 1, **{"train.optimizer.momentum": 0.9})
    run.collect()
    members = read_table(run.members_file)
    assert members.column_names == [*MEMBER_COLUMNS.names, "test/loss", "train.optimizer.momentum"]
    assert members.schema.field("seconds").type == pa.float64()
    assert members.select(["config_hash", "seed", "test/loss", "train.optimizer.momentum"]).to_pylist() == [
        {"config_hash": "aa", "seed": 1, "test/loss": None, "train.optimizer.momentum": 0.9},
        {"config_hash": "bb", "seed": 0, "test/loss": 0.5, "train.optimizer.momentum": None},
    ]
    assert read_table(run.curves_file).num_rows == 4


def test_columns_of_several_kinds_are_merged(tmp_path: Path):
    run = RunDirectory(tmp_path)
    leave(run, "a", 0, lr=1)
    leave(run, "b", 0, lr=0.5)
    leave(run, "c", 0, lr=None)
    run.collect()
    assert read_table(run.members_file)["lr"].to_pylist() == [1.0, 0.5, None]


def test_a_column_of_numbers_and_texts_becomes_text(tmp_path: Path):
    run = RunDirectory(tmp_path)
    leave(run, "a", 0, x=1)
    leave(run, "b", 0, x="auto")
    leave(run, "c", 0, x=None)
    leave(run, "d", 0)
    run.collect()
    assert read_table(run.members_file)["x"].to_pylist() == ["1", "auto", None, None]


def test_collecting_again_changes_nothing_and_a_repeated_member_replaces_its_row(tmp_path: Path):
    run = RunDirectory(tmp_path)
    leave(run, "a", 0, status="failed")
    run.collect()
    leave(run, "a", 0)
    run.collect()
    first = sha256_file(run.members_file)
    run.collect()
    assert sha256_file(run.members_file) == first
    assert read_table(run.members_file)["status"].to_pylist() == ["completed"]


def test_an_unfinished_member_is_never_counted(tmp_path: Path):
    run = RunDirectory(tmp_path)
    leave(run, "a", 0)
    leave(run, "a", 1)
    run.member("a-s1").row_file.unlink()
    run.collect()
    assert read_table(run.members_file)["seed"].to_pylist() == [0]
    assert set(read_table(run.curves_file)["seed"].to_pylist()) == {0}


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["members.parquet", "curves.parquet"])
def test_a_damaged_table_is_made_again_from_the_members_own_and_kept_aside(tmp_path: Path, caplog, name: str):
    run = RunDirectory(tmp_path)
    leave(run, "a", 0)
    run.collect()
    whole = (tmp_path / name).read_bytes()
    damage(tmp_path / name)
    assert run.collected(tmp_path / name).num_rows > 0
    assert (tmp_path / name).read_bytes() == whole
    assert (tmp_path / f"{name}.damaged").is_file()
    assert f"it is made again from members/, and kept as {name}.damaged" in caplog.text
    shutil.rmtree(run.members)
    damage(tmp_path / name)
    with pytest.raises(StorageError, match=f"{name}: cannot be read"):
        run.collected(tmp_path / name)
    assert (tmp_path / name).is_file()


def test_a_table_that_somebody_rewrote_is_neither_used_nor_replaced(tmp_path: Path):
    run = RunDirectory(tmp_path)
    run.mark()
    leave(run, "a", 0)
    run.collect()
    table = pd.read_parquet(run.members_file)
    table.assign(seed=5).to_parquet(run.members_file)
    before = run.members_file.read_bytes()
    with pytest.raises(StorageError, match=r"members\.parquet was written by another program; .*ensemble report"):
        run.collected(run.members_file)
    assert run.members_file.read_bytes() == before
    run.members_file.unlink()
    run.collect()
    assert run.collected(run.members_file)["seed"].to_pylist() == [0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.drop_columns(["seed"]), "lacks the column 'seed'"),
        (lambda table: table.set_column(3, "seed", pa.array(["x"])), "column 'seed' is string, not int64"),
        (lambda table: table.set_column(3, "seed", pa.array([None], pa.int64())), "'seed' has empty values"),
    ],
)
def test_a_members_row_of_another_shape_is_named_with_the_way_to_train_it_again(tmp_path: Path, change, problem):
    run = RunDirectory(tmp_path)
    leave(run, "a", 0)
    file = run.member("a-s0").row_file
    write_table(file, change(read_table(file)))
    with pytest.raises(StorageError, match=problem) as caught:
        run.collect()
    assert str(file) in str(caught.value)
    assert f"`ensemble resume {tmp_path}` trains that member again" in str(caught.value)


def test_collecting_nothing_gives_empty_tables(tmp_path: Path):
    run = RunDirectory(tmp_path)
    run.collect()
    assert pq.read_schema(run.members_file).names == MEMBER_COLUMNS.names
    assert read_table(run.curves_file).num_rows == 0


def test_arrow_reads_bytes_from_memory_of_its_own(tmp_path: Path):
    # A thread of Arrow that drops an object of Python's while the process ends aborts it, after all was done.
    content = os.urandom(1000)
    references = sys.getrefcount(content)
    file = arrow_file(content)
    assert sys.getrefcount(content) == references
    assert file.read() == content
    assert arrow_file(b"").read() == b""


def test_json_that_is_nested_too_deeply_is_damaged(tmp_path: Path):
    (tmp_path / "data.json").write_text("[" * 100_000)
    with pytest.raises(StorageError, match=r"data.json: damaged: nested too deeply"):
        read_json(tmp_path / "data.json")
    (tmp_path / "run.json").write_text("[" * 100_000)
    assert not RunDirectory(tmp_path).is_run


def test_a_changed_digit_of_a_record_is_seen_and_earlier_records_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write_record(path, {"seed": 3, "rates": (0.5, 1e-4), 7: "a number as key"})
    assert read_record(path) == {"seed": 3, "rates": [0.5, 1e-4], "7": "a number as key"}
    text = path.read_text()
    path.write_text(text.replace("0.0001", "0.0002"))
    with pytest.raises(StorageError, match=r"model\.json: damaged: its checksum is wrong"):
        read_record(path)
    path.write_text('{"seed": 3}')
    assert read_record(path) == {"seed": 3}
