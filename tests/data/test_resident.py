from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.data.loading import _concatenate, load_resident, resident
from ensemble.data.trajectories import read_trajectories
from ensemble.data.windows import Windows
from ensemble.errors import DataError
from ensemble.training.batches import ResidentBatches
from ensemble.training.context import InlineContext
from ensemble.training.trial import keep_freed_memory

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_the_resident_data_set_is_the_one_on_disk(make_data, write_shards, tmp_path: Path) -> None:
    data = make_data([30, 7, 12, 90, 2, 41, 8], given=["a", None, "b", None, None, None, None])
    directory = write_shards(data, tmp_path / "shards")
    said: list[str] = []
    mapped, read = resident(load_resident(directory, said.append)), read_trajectories(directory)
    np.testing.assert_array_equal(mapped.rows, read.rows)
    for name in ("first", "points", "hashes"):
        np.testing.assert_array_equal(getattr(mapped.episodes, name), getattr(read.episodes, name))
    for name in ("features", "keys", "given", "fingerprint", "dt"):
        assert getattr(mapped, name) == getattr(read, name)
    assert "190" in said[0]
    assert "Read" in said[0]


def test_rows_find_their_place_in_whatever_order_blocks_come(make_data, write_shards, tmp_path: Path) -> None:
    import ray

    data = make_data([30, 7, 12, 90, 2])
    directory = write_shards(data, tmp_path / "shards")
    table = pa.concat_tables(pq.read_table(path) for path in sorted(directory.glob("shard-*")))
    blocks = [table.slice(start, 20) for start in range(0, len(table), 20)]
    blocks = [pa.concat_tables([blocks[4], blocks[1]]), *blocks[5:], blocks[0], *blocks[2:4]]
    mapped, _ = _concatenate.remote(data, directory, *blocks)
    np.testing.assert_array_equal(resident(mapped).rows, data.rows)
    _, done = _concatenate.remote(data, directory, *blocks[:-1], blocks[-2])
    with pytest.raises(DataError, match=r"do not hold the rows of the table of episodes"):
        ray.get(done)


def test_what_is_mapped_cannot_be_written_and_batches_are_copies(make_data, write_shards, tmp_path: Path) -> None:
    ref = load_resident(write_shards(make_data([300] * 4), tmp_path / "shards"))
    mapped = resident(ref)
    before = mapped.rows.copy()
    with pytest.raises(ValueError, match="read-only"):
        mapped.rows[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        mapped.rows.setflags(write=True)
    windows = Windows(mapped, mapped.episodes, length=10)
    windows.gather(windows.order(0, 0)[np.arange(windows.count)]).fill_(1e9)
    np.testing.assert_array_equal(resident(ref).rows, before)


def test_processes_share_one_copy_of_the_data(make_data, write_shards, tmp_path: Path) -> None:
    import ray

    data = make_data([500_000, 500_000, 980_000, 20_000])  # 48 MB
    ref = load_resident(write_shards(data, tmp_path / "shards"))

    @ray.remote(num_cpus=0)
    class Trial:
        """Reads as a pack of ten does: batches at both ends and on the border of an epoch of all windows."""

        def __init__(self, boxed: dict[str, Any]) -> None:
            keep_freed_memory()
            self.data = resident(boxed["ref"])
            windows = Windows(self.data, self.data.episodes.take(np.array([3])), length=10)
            ResidentBatches(windows, (0, 1), 64, 0, InlineContext()).at(0)  # what is loaded at the first use is no data
            self.before = self.private_bytes()

        def private_bytes(self) -> int:
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))

        def read_everything(self) -> tuple[int, float]:
            import os

            windows = Windows(self.data, self.data.episodes, length=10)
            batches = ResidentBatches(windows, tuple(range(10)), 512, 0, InlineContext())
            self.kept = batches
            for step in (0, 1, 2000, batches.epoch_steps - 1, batches.epoch_steps, batches.epoch_steps + 1):
                assert batches.at(step).points.shape == (10, 512, 11, 6)
            return os.getpid(), float(self.data.rows.sum(dtype=np.float64))

        def grown(self) -> int:
            return self.private_bytes() - self.before

    trials = [Trial.remote({"ref": ref}) for _ in range(2)]
    (one, total), (other, _) = ray.get([trial.read_everything.remote() for trial in trials])
    assert one != other
    assert total == data.rows.sum(dtype=np.float64)
    for grown in ray.get([trial.grown.remote() for trial in trials]):  # a page that two processes map is not private
        assert grown < 0.1 * data.rows.nbytes, f"{grown / data.rows.nbytes:.1%} of the data"


@pytest.mark.parametrize("damage", ["missing", "truncated", "bit flip"])
def test_a_damaged_shard_is_named_before_ray_data_reads_it(
    make_data, write_shards, tmp_path: Path, damage: str
) -> None:
    shard = write_shards(make_data([40, 30, 50]), tmp_path / "shards") / "shard-00001.parquet"
    content = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    else:
        content[len(content) // 2] ^= 4
        shard.write_bytes(content if damage == "bit flip" else content[:-40])
    with pytest.raises(DataError, match=r"shard-00001\.parquet.*rebuild with `ensemble convert`"):
        load_resident(shard.parent)
