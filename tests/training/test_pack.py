"""The law of independence at its heart: a member's bits do not depend on who trains beside it."""

import pytest
import torch
from pendulum import FEATURES, experiment, trajectories

from ensemble.data.windows import Windows
from ensemble.training.batches import ResidentBatches
from ensemble.training.context import InlineContext
from ensemble.training.pack import Pack
from ensemble.training.setup import training_statistics

DATA = trajectories()
RATES = [1e-3, 3e-3, 1e-4, 1e-2, 5e-4, 2e-3, 7e-3, 1e-5, 4e-3, 6e-4]


def weights_after(seeds: tuple[int, ...], dropout: float, precision: str, steps: int = 6) -> dict[int, torch.Tensor]:
    """Train some members together, seed s with rate RATES[s]; return each one's row."""
    config = experiment(model={"dropout": dropout}, train={"precision": precision})
    context = InlineContext()
    pack = Pack(config, FEATURES, training_statistics(DATA, DATA.episodes, "relative"), seeds, context)
    batches = ResidentBatches(Windows(DATA, DATA.episodes, 4), seeds, 8, pack.sites, context)
    for step in range(steps):
        pack.step(batches.at(step), [RATES[seed] for seed in seeds])
    return dict(zip(seeds, pack.arena.values.detach().clone(), strict=True))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_member_trains_to_the_same_bits_alone_and_in_packs_of_mixed_rates(
    threads: int, dropout: float, precision: str
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        alone = {seed: weights_after((seed,), dropout, precision)[seed] for seed in range(10)}
        for pack in [(0, 1), (2, 3, 4, 5, 6), tuple(range(10)), (9, 4)]:
            for seed, row in weights_after(pack, dropout, precision).items():
                assert torch.equal(row, alone[seed]), f"seed {seed} in the pack {pack}"
    finally:
        torch.set_num_threads(before)


def test_seeds_differ_in_weights_and_in_order() -> None:
    context = InlineContext()
    batches = ResidentBatches(Windows(DATA, DATA.episodes, 4), (0, 1), 8, 0, context)
    points = batches.at(0).points
    assert not torch.equal(points[0], points[1])
    rows = weights_after((0, 1), 0.0, "fp32", steps=0)
    assert not torch.equal(rows[0], rows[1])


def test_an_epoch_uses_every_window_once_even_when_batches_do_not_divide_it() -> None:
    windows = Windows(DATA, DATA.episodes, 4)
    batches = ResidentBatches(windows, (3,), 8, 0, InlineContext())
    assert windows.count % 8
    passes = 8  # epochs in a whole number of batches
    steps = windows.count * passes // 8
    first = torch.cat([batches.at(step).points[0, :, 0] for step in range(steps)])
    _, counts = first.unique(dim=0, return_counts=True)
    assert set(counts.tolist()) == {passes}


def test_the_slices_of_two_workers_are_the_global_batch() -> None:
    class Worker(InlineContext):
        world_size = 2

        def __init__(self, rank: int) -> None:
            super().__init__()
            self.rank = rank

    windows = Windows(DATA, DATA.episodes, 4)
    whole = ResidentBatches(windows, (0, 1), 8, 5, InlineContext()).at(7)
    parts = [ResidentBatches(windows, (0, 1), 8, 5, Worker(rank)).at(7) for rank in range(2)]
    assert torch.equal(torch.cat([part.points for part in parts], dim=1), whole.points)
    assert torch.equal(torch.cat([part.position for part in parts]), whole.position)
    assert torch.equal(parts[0].keys, whole.keys)
