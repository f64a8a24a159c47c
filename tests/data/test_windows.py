import numpy as np
import pytest
import torch

from ensemble.data.order import Order, stable_argsort
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows
from ensemble.errors import DataError
from ensemble.schema import Int64, UInt64


def whole(windows: Windows, seed: int, epoch: int) -> Int64:
    return windows.order(seed, epoch)[np.arange(windows.count)]


def starts_in_order(windows: Windows, seed: int, epoch: int) -> list[tuple[int, int]]:
    """Return (episode hash, start within the episode) of every window in order, found by its first point."""
    data = windows.data
    first = windows.gather(whole(windows, seed, epoch))[:, 0].numpy()
    row = {point.tobytes(): number for number, point in enumerate(data.rows)}
    found = []
    for point in first:
        number = row[point.tobytes()]
        episode = int(np.searchsorted(data.episodes.first, number, side="right")) - 1
        found.append((int(data.episodes.hashes[episode]), number - int(data.episodes.first[episode])))
    return found


def test_every_window_of_every_episode_is_there_once(make_data) -> None:
    data = make_data([7, 3, 4, 12])
    windows = Windows(data, data.episodes, length=3)
    expected = [
        data.rows[first + start : first + start + 4]
        for first, points in zip(data.episodes.first, data.episodes.points, strict=True)
        for start in range(points - 3)
    ]
    assert windows.count == 4 + 0 + 1 + 9
    np.testing.assert_array_equal(windows.gather(np.arange(windows.count)).numpy(), np.stack(expected))


def test_a_batch_has_the_shape_of_its_index(make_data) -> None:
    data = make_data([20])
    windows = Windows(data, data.episodes, length=5)
    index = np.array([[3, 0, 14], [3, 7, 1]])
    batch = windows.gather(index)
    assert batch.shape == (2, 3, 6, 6)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch[1, 1], torch.tensor(data.rows[7:13]), rtol=0, atol=0)
    assert windows.gather(np.empty((0, 4), np.int64)).shape == (0, 4, 6, 6)


def test_writing_into_a_batch_leaves_the_data_as_it_was(make_data) -> None:
    data = make_data([40])
    before = data.rows.copy()
    windows = Windows(data, data.episodes, length=5)
    for index in (np.arange(windows.count), np.array([0]), np.array(0)):
        batch = windows.gather(index)
        batch.fill_(1e9)
        assert not np.shares_memory(batch.numpy(), data.rows)
    np.testing.assert_array_equal(data.rows, before)
    with pytest.raises(ValueError, match="read-only"):
        data.rows[0, 0] = 1


def test_a_window_that_is_not_there_is_an_index_error(make_data) -> None:
    data = make_data([10])
    windows = Windows(data, data.episodes, length=9)
    with pytest.raises(IndexError):
        windows.gather(np.array([windows.count]))


def test_an_order_is_a_shuffle_of_all_windows_that_seed_and_epoch_change(make_data) -> None:
    data = make_data([50, 60])
    windows = Windows(data, data.episodes, length=4)
    orders = [whole(windows, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(windows.count))
    assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(whole(windows, 1, 0), orders[2])


def test_an_order_mixes_episodes_and_times_evenly(make_data) -> None:
    data = make_data([1000] * 20)
    windows = Windows(data, data.episodes, length=10)
    order = whole(windows, 0, 0)
    half = order[: windows.count // 2]
    by_episode = np.bincount(half // 990, minlength=20)
    assert np.abs(by_episode - 495).max() < 6 * np.sqrt(990 / 4)
    by_time = np.bincount(half % 990 // 99, minlength=10)
    assert np.abs(by_time - 990).max() < 6 * np.sqrt(1980 / 4)
    assert abs(np.corrcoef(np.arange(windows.count), order)[0, 1]) < 6 / np.sqrt(windows.count)


def test_two_windows_keep_their_relative_order_whatever_the_length(make_data) -> None:
    data = make_data([30, 8, 25])
    long = starts_in_order(Windows(data, data.episodes, length=9), 3, 1)
    short = starts_in_order(Windows(data, data.episodes, length=4), 3, 1)
    assert [start for start in short if start in set(long)] == long


def test_the_order_depends_on_content_and_not_on_where_an_episode_lies(make_data) -> None:
    data = make_data([15, 15])
    swapped_rows = np.concatenate([data.rows[15:], data.rows[:15]])
    episodes = Segments(data.episodes.first, data.episodes.points, data.episodes.hashes[::-1].copy())
    swapped = Trajectories(swapped_rows, data.features, episodes, data.keys, data.given, data.fingerprint, data.dt)
    ours = starts_in_order(Windows(data, data.episodes, 4), 0, 0)
    assert starts_in_order(Windows(swapped, episodes, 4), 0, 0) == ours
    only_second = data.episodes.take(np.array([1]))
    part = starts_in_order(Windows(data, only_second, 4), 0, 0)
    assert part == [start for start in ours if start[0] == data.episodes.hashes[1]]


def test_a_block_of_an_episode_orders_its_windows_as_the_whole_episode_does(make_data) -> None:
    data = make_data([40])
    block = Segments(np.array([12]), np.array([20]), data.episodes.hashes)
    part = starts_in_order(Windows(data, block, 4), 0, 0)
    whole = starts_in_order(Windows(data, data.episodes, 4), 0, 0)
    assert part == [start for start in whole if start in set(part)]
    assert min(part)[1] == 12


def test_fixed_windows_are_spread_over_the_whole_split(make_data) -> None:
    data = make_data([104])
    windows = Windows(data, data.episodes, length=4)
    assert windows.fixed(4).tolist() == [12, 37, 62, 87]
    assert windows.fixed(1000).tolist() == list(range(100))


def test_no_window_at_all_is_an_error_with_counts(make_data) -> None:
    data = make_data([8] * 137)
    with pytest.raises(DataError, match=r"0 of 137 episodes >= 10 steps \(longest 7\)"):
        Windows(data, data.episodes, length=10)


@pytest.mark.parametrize("distinct", [1, 3, 50, 2**63])
@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 1000])
def test_the_fast_argsort_is_the_stable_one(count: int, distinct: int) -> None:
    random = np.random.default_rng(count)
    keys = random.integers(0, distinct, count, dtype=np.uint64)
    keys[random.random(count) < 0.5] <<= np.uint64(55)
    np.testing.assert_array_equal(stable_argsort(keys), np.argsort(keys, kind="stable"))


@pytest.mark.parametrize("distinct", [1, 5, 2**63])
@pytest.mark.parametrize("count", [1, 100, 2**14 - 1, 150_000])
def test_an_order_worked_out_in_stretches_is_the_stable_sort_of_all_keys(count: int, distinct: int) -> None:
    random = np.random.default_rng(count)
    keys = random.integers(0, distinct, count, dtype=np.uint64) << np.uint64(1)

    def some(start: int, stop: int) -> UInt64:
        return keys[start:stop]

    order, expected = Order(some, count), np.argsort(keys, kind="stable")
    np.testing.assert_array_equal(order[np.arange(count)], expected)
    for position in (random.integers(0, count, (3, 7)), np.arange(count)[::-1][:1000]):
        np.testing.assert_array_equal(order[position], expected[position])
    with pytest.raises(IndexError):
        order[np.array([count])]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_windows_gathered_on_a_gpu_are_those_of_the_cpu(make_data) -> None:
    data = make_data([40, 30])
    windows = Windows(data, data.episodes, length=5)
    index = whole(windows, 0, 0).reshape(1, -1)
    torch.testing.assert_close(windows.gather(index, "cuda").cpu(), windows.gather(index), rtol=0, atol=0)
