"""How fast windows are gathered, against a DataLoader over the same windows and against memcpy.

    python -m benchmarks.windows [--rows 1000000] [--threads 1]

Equality is checked first. Then every way takes its turn on the same batches, again and again. The DataLoader is what
NeRD's training has: a sample is a dict of one tensor a feature (utils/datasets.py, TrajectoryDataset).
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import alternate, ratio
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows
from ensemble.schema import Feature, Int64

LENGTH = 10
BATCH = 5120  # ten members of 512 windows
BATCHES = 10
POINTS = 101  # of an episode
WIDTHS = {
    9: {"states": 4, "joint_acts": 2, "gravity_dir": 3},
    40: {"states": 12, "joint_acts": 6, "gravity_dir": 3, "root_body_q": 7, "contact_points": 12},
}

Gather = Callable[[Int64], torch.Tensor]


class Samples(Dataset[dict[str, torch.Tensor]]):
    """One window a sample, each feature by itself."""

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
    random = np.random.default_rng(0)
    episodes = rows // POINTS
    values = random.standard_normal((episodes * POINTS, sum(widths.values())), dtype=np.float32)
    values.setflags(write=False)
    features = tuple(Feature(name, w, "state", ("",) * w, (False,) * w) for name, w in widths.items())
    hashes = random.integers(0, 2**64, episodes, dtype=np.uint64)
    pieces = Segments(np.arange(episodes) * POINTS, np.full(episodes, POINTS), hashes)
    return Trajectories(values, features, pieces, ("",) * episodes, (None,) * episodes, "", None)


def candidates(data: Trajectories, windows: Windows) -> dict[str, Gather]:
    """Ways to gather the same batch, all returning a new tensor."""
    rows, points, width = torch.tensor(data.rows), LENGTH + 1, data.rows.shape[1]
    first = np.concatenate(list(data.episodes.row_chunks(1 << 20, trim=LENGTH)))
    strided = rows.as_strided((len(rows) - points + 1, points * width), (width, 1))
    view = np.lib.stride_tricks.as_strided(data.rows, strided.shape, (4 * width, 4), writeable=False)
    shape = (BATCH, points, width)

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
    for _ in batches:
        pass


def compare(rows: int, widths: dict[str, int], rounds: int) -> None:
    data = make_data(rows, widths)
    windows = Windows(data, data.episodes, LENGTH)
    batches = windows.order(0, 0)[np.arange(BATCHES * BATCH)].reshape(BATCHES, BATCH)
    gathers, samples = candidates(data, windows), Samples(data)
    given = Given(batches.tolist())
    loaders = {
        f"DataLoader, {workers} workers": DataLoader(
            samples, batch_sampler=given, num_workers=workers, persistent_workers=workers > 0
        )
        for workers in (0, 2)
    }
    check(gathers, loaders, data, batches)
    source = windows.gather(batches[0]).numpy()
    ways: dict[str, Callable[[], object]] = {"memcpy": lambda: drain(source.copy() for _ in batches)}
    ways |= {name: lambda gather=gather: drain(map(gather, batches)) for name, gather in gathers.items()}
    ways |= {name: lambda loader=loader: drain(loader) for name, loader in loaders.items()}
    seconds = take_turns(ways, rounds)
    print(f"\n{len(data.rows):,} rows x {data.rows.shape[1]}, windows of {LENGTH + 1} points, {BATCH} a batch")
    for name, each in seconds.items():
        batch = statistics.median(each) / BATCHES
        share = statistics.median(seconds["memcpy"]) / BATCHES / batch
        print(
            f"  {name:28s}{1e3 * batch:8.2f} ms, {source.nbytes / batch / 1e9:6.2f} GB/s, {share:6.1%} of memcpy; "
            f"ours is faster {ratio(each, seconds['ours'])}"
        )


def take_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every way once a round, in a new order each: what ran before leaves marks in allocator and cache."""
    random = np.random.default_rng(0)
    alternate(ways, rounds=1, warmup=0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        order = random.permutation(list(ways)).tolist()
        for name, once in alternate({name: ways[name] for name in order}, rounds=1, warmup=0).items():
            seconds[name] += once
    return seconds


def check(
    gathers: dict[str, Gather],
    loaders: dict[str, DataLoader[dict[str, torch.Tensor]]],
    data: Trajectories,
    batches: Int64,
) -> None:
    """Every way gives the same numbers."""
    for loader in loaders.values():
        for index, loaded in itertools.islice(zip(batches, loader, strict=True), 2):
            whole = torch.cat([loaded[feature.name] for feature in data.features], dim=-1)
            for name, gather in gathers.items():
                assert torch.equal(gather(index), whole), name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for widths in WIDTHS.values():
        compare(options.rows, widths, options.rounds)


if __name__ == "__main__":
    main()
