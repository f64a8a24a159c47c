"""How fast windows are gathered, against a DataLoader over the same windows and against memcpy.

    python -m benchmarks windows [--rows 1000000] [--threads 1]

Equality is checked first. Then all ways take turns on the same batches. The DataLoader is what NeRD's training has: a
sample is a dict of one tensor a feature (utils/datasets.py, TrajectoryDataset).
"""

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.command import Parser, announce, equivalence, row, say
from benchmarks.timing import alternate, ratio
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows
from ensemble.schema import Feature, Int64
from ensemble.text import plural

LENGTH = 10
BATCHES = 10
POINTS = 101  # of an episode
WIDTHS = {
    9: {"states": 4, "joint_acts": 2, "gravity_dir": 3},
    40: {"states": 12, "joint_acts": 6, "gravity_dir": 3, "root_body_q": 7, "contact_points": 12},
}

Gather = Callable[[Int64], torch.Tensor]


class Samples(Dataset[dict[str, torch.Tensor]]):
    """One window a sample, a tensor for each feature."""

    def __init__(self, data: Trajectories) -> None:
        self.features = {f.name: torch.tensor(data.rows[:, data.columns(f.name)]) for f in data.features}
        windows = POINTS - LENGTH
        self.first = [int(first) + start for first in data.episodes.first for start in range(windows)]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        window = slice(self.first[number], self.first[number] + LENGTH + 1)
        return {name: values[window] for name, values in self.features.items()}


class Given:
    """A batch sampler that yields the batches it is given."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def make_data(rows: int, widths: dict[str, int]) -> Trajectories:
    """Return episodes of 101 random points, with features of these widths."""
    random = np.random.default_rng(0)
    episodes = rows // POINTS
    values = random.standard_normal((episodes * POINTS, sum(widths.values())), dtype=np.float32)
    values.setflags(write=False)
    features = tuple(Feature(name, w, "state", ("",) * w, (False,) * w) for name, w in widths.items())
    hashes = random.integers(0, 2**64, episodes, dtype=np.uint64)
    pieces = Segments(np.arange(episodes) * POINTS, np.full(episodes, POINTS), hashes)
    return Trajectories(values, features, pieces, ("",) * episodes, (None,) * episodes, "", None)


def gathers_of(data: Trajectories, windows: Windows, batch: int) -> dict[str, Gather]:
    """Return ways to gather the same batch, each into a new tensor (B, T + 1, D)."""
    rows, points, width = torch.tensor(data.rows), LENGTH + 1, data.rows.shape[1]
    first = np.concatenate(list(data.episodes.row_chunks(1 << 20, trim=LENGTH)))
    strided = rows.as_strided((len(rows) - points + 1, points * width), (width, 1))
    view = np.lib.stride_tricks.as_strided(data.rows, strided.shape, (4 * width, 4), writeable=False)
    shape = (batch, points, width)

    def row_numbers(index: Int64) -> Int64:
        return first[index][:, None] + np.arange(points)

    return {
        "torch.index_select": lambda i: rows.index_select(0, torch.from_numpy(row_numbers(i)).view(-1)).view(shape),
        "numpy.take": lambda i: torch.from_numpy(np.take(data.rows, row_numbers(i), axis=0)),
        "ours": windows.gather,
        "torch.index_select, strided": lambda i: strided.index_select(0, torch.from_numpy(first[i])).view(shape),
        "numpy strided": lambda i: torch.from_numpy(view[first[i]]).view(shape),
    }


def drain(batches: Iterable[object]) -> None:
    """Go through all batches."""
    for _ in batches:
        pass


def compare(rows: int, widths: dict[str, int], size: int, rounds: int) -> None:
    """Time all ways on batches of `size` windows, and print a row for each."""
    # Batches
    data = make_data(rows, widths)
    windows = Windows(data, data.episodes, LENGTH)
    batches = windows.order(0, 0)[np.arange(BATCHES * size)].reshape(BATCHES, size)
    say(f"\n{len(data.rows):,} rows x {data.rows.shape[1]}, windows of {LENGTH + 1} points, {size} a batch")

    # Candidates
    gathers, samples = gathers_of(data, windows, size), Samples(data)
    given = Given(batches.tolist())
    loaders = {
        f"DataLoader, {workers} workers": DataLoader(
            samples, batch_sampler=given, num_workers=workers, persistent_workers=workers > 0
        )
        for workers in (0, 2)
    }
    check_equivalence(gathers, loaders, data, batches)
    source = windows.gather(batches[0]).numpy()
    ways: dict[str, Callable[[], object]] = {"memcpy": lambda: drain(source.copy() for _ in batches)}
    ways |= {name: lambda gather=gather: drain(map(gather, batches)) for name, gather in gathers.items()}
    ways |= {name: lambda loader=loader: drain(loader) for name, loader in loaders.items()}

    # Turns
    seconds = alternate(ways, rounds, shuffled=True)
    for name, each in seconds.items():
        batch = statistics.median(each) / BATCHES
        share = statistics.median(seconds["memcpy"]) / BATCHES / batch
        speed = f"{source.nbytes / batch / 1e9:.2f} GB/s"
        faster = f"ours is faster {ratio(each, seconds['ours'])}"
        row(name, f"{1e3 * batch:.2f} ms", speed, f"{share:.1%} of memcpy", faster, width=16)


def check_equivalence(
    gathers: dict[str, Gather],
    loaders: dict[str, DataLoader[dict[str, torch.Tensor]]],
    data: Trajectories,
    batches: Int64,
) -> None:
    """Compare the numbers of all ways on two batches."""
    for loader in loaders.values():
        for index, loaded in itertools.islice(zip(batches, loader, strict=True), 2):
            whole = torch.cat([loaded[feature.name] for feature in data.features], dim=-1)
            for name, gather in gathers.items():
                assert torch.equal(gather(index), whole), name
    equivalence(f"{len(gathers)} ways to gather and {len(loaders)} loaders give equal batches")


def main() -> None:
    parser = Parser(__doc__, quick={"rows": 10_000, "batch": 256, "rounds": 1})
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=5120, help="ten members of 512 windows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse()
    torch.set_num_threads(options.threads)
    what = f"Batches of {options.batch} windows, gathered in eight ways, from {len(WIDTHS)} data sets"
    announce(options, f"{what}, {plural(options.rounds, 'round')}", 1)
    for widths in WIDTHS.values():
        compare(options.rows, widths, options.batch, options.rounds)


if __name__ == "__main__":
    main()
