"""How fast a NeRD file becomes shards, against `cp` and against the loop that one would write first.

    python -m benchmarks conversion [--megabytes 200] [--rounds 3]

The loop reads one trajectory after another through h5py and writes tables of them with pyarrow's defaults; it checks
nothing. Ours checks every value, hashes sources, episodes and shards, takes statistics, and syncs to disk. Equality of
the rows is checked first.
"""

import shutil
import statistics
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.command import Parser, announce, equivalence, row, say
from benchmarks.timing import alternate, milliseconds, ratio
from ensemble.config.data import DataConfig
from ensemble.data.convert import convert
from ensemble.data.layouts.nerd import write_nerd
from ensemble.data.trajectories import read_trajectories
from ensemble.text import plural

STEPS = 100
FLOATS = 4 + 4 + 2 + 3 + 7  # of a transition: states, next_states, joint_acts, gravity_dir, root_body_q


def simulate(path: Path, megabytes: int) -> None:
    """Write a NeRD file of random numbers."""
    random = np.random.default_rng(0)
    count = megabytes * 1_000_000 // (4 * FLOATS * STEPS)
    states = random.normal(size=(count, STEPS + 1, 4)).astype(np.float32)
    torques = random.normal(size=(count, STEPS, 2)).astype(np.float32)
    extra = {"gravity_dir": np.tile(np.float32([0, 0, -1]), (count, STEPS, 1))}
    extra["root_body_q"] = random.normal(size=(count, STEPS, 7)).astype(np.float32)
    write_nerd(path, states, torques, env="Pendulum", dt=1 / 60, extra=extra)


def loop(source: Path, target: Path) -> None:
    """Convert one trajectory after another, with defaults everywhere; it writes once, which favors it."""
    tables = []
    with h5py.File(source) as file:
        data = file["data"]
        for number in range(data["states"].shape[1]):
            columns = {
                "episode": pa.array(np.full(STEPS, number, np.int32)),
                "step": pa.array(np.arange(STEPS, dtype=np.int32)),
            }
            for name in ("states", "next_states", "joint_acts", "gravity_dir", "root_body_q"):
                values = data[name][:, number]
                columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables), target)


def main() -> None:
    parser = Parser(__doc__, quick={"megabytes": 2, "rounds": 1})
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse()
    rounds = plural(options.rounds, "round")
    announce(options, f"A NeRD file of {options.megabytes} MB to shards, {rounds} of three ways", 3)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source, out, plain = root / "data.h5", root / "out", root / "plain.parquet"
        simulate(source, options.megabytes)

        def ours() -> None:
            shutil.rmtree(out, ignore_errors=True)
            convert([source], out, DataConfig(path=str(source)))

        ours()
        loop(source, plain)
        check_equivalence(out, plain)
        ways = {"ours": ours, "loop": lambda: loop(source, plain), "cp": lambda: shutil.copyfile(source, root / "copy")}
        seconds = alternate(ways, options.rounds, warmup=0)
    size = options.megabytes / 1e3
    for name, times in seconds.items():
        row(name, milliseconds(times), f"{size / statistics.median(times):.2f} GB/s", width=12)
    say(f"ours against the loop: {ratio(seconds['loop'], seconds['ours'])}")
    say(f"ours against cp:       {ratio(seconds['cp'], seconds['ours'])}")


def check_equivalence(out: Path, plain: Path) -> None:
    """Compare the states that both ways wrote."""
    data = read_trajectories(out)
    ours = data.rows[:, data.columns("states")].reshape(-1, STEPS + 1, 4)
    column = pq.read_table(plain, columns=["states"])["states"].combine_chunks()
    np.testing.assert_array_equal(ours[:, :-1], column.flatten().to_numpy().reshape(-1, STEPS, 4))
    equivalence(f"the states of {len(ours):,} trajectories are equal")


if __name__ == "__main__":
    main()
