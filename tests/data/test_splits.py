import dataclasses

import numpy as np
import pytest

from ensemble.config.data import DataConfig, SplitConfig
from ensemble.data.splits import cut, describe_split, split_episodes, split_text, split_windows
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows
from ensemble.errors import DataError

DEFAULT = SplitConfig()


def sizes(parts: dict[str, Segments]) -> list[int]:
    return [len(part) for part in parts.values()]


def rows_of(part: Segments) -> set[int]:
    return {row for chunk in part.row_chunks(1 << 16) for row in chunk.tolist()}


def with_hashes(data: Trajectories, hashes: list[int]) -> Trajectories:
    new = np.array(hashes, dtype=np.uint64)
    return dataclasses.replace(data, episodes=Segments(data.episodes.first, data.episodes.points, new))


@pytest.mark.parametrize(
    ("episodes", "split", "expected"),
    [
        (1000, DEFAULT, [800, 100, 100]),
        (13, DEFAULT, [11, 1, 1]),
        (17, DEFAULT, [13, 2, 2]),
        (100, SplitConfig(train=0.5, validation=0.25, test=0.25), [50, 25, 25]),
        (100, SplitConfig(train=0.2, validation=0.1, test=0.1), [20, 10, 10]),
        (20, SplitConfig(train=0.98, validation=0.01, test=0.01), [18, 1, 1]),
        (20, SplitConfig(train=10, validation=4, test=6), [10, 4, 6]),
        (20, SplitConfig(validation=3, test=3), [14, 3, 3]),
        (20, SplitConfig(train=5, validation=0.1, test=0.2), [5, 2, 4]),
        (5, SplitConfig(train=3, validation=1, test=1), [3, 1, 1]),
    ],
)
def test_counts_are_exact(make_data, episodes: int, split: SplitConfig, expected: list[int]) -> None:
    data = make_data([6] * episodes)
    parts = split_episodes(data, split, window=5)
    assert list(parts) == ["train", "validation", "test"]
    assert sizes(parts) == expected
    assert describe_split(data, parts) == "by episode " + "/".join(map(str, expected))
    rows = [rows_of(part) for part in parts.values()]
    assert len(set.union(*rows)) == sum(map(len, rows)) == 6 * sum(expected)


def test_the_split_depends_on_the_content_and_not_on_the_order_of_episodes(make_data) -> None:
    data = make_data([6] * 30)
    reverse = with_hashes(data, data.episodes.hashes[::-1].tolist())
    ours, theirs = (split_episodes(each, DEFAULT, 5) for each in (data, reverse))
    for name in ours:
        assert set(ours[name].hashes.tolist()) == set(theirs[name].hashes.tolist())


def test_few_episodes_are_cut_into_blocks_of_time_a_window_apart(make_data) -> None:
    data = make_data([220, 120])
    parts = split_episodes(data, DEFAULT, window=10)
    assert describe_split(data, parts) == "blocks of time (fewer than ten episodes) 240/30/30 points"
    for number, points in enumerate([220, 120]):
        train, validation, test = (part.take(np.array([number])) for part in parts.values())
        assert validation.first == train.first + train.points + 10
        assert test.first == validation.first + validation.points + 10
        assert test.first + test.points == data.episodes.first[number] + points


def test_named_splits_take_keys_groups_and_patterns(make_data) -> None:
    data = make_data([6] * 14, given=["fit"] * 10 + [None] * 4)
    split = SplitConfig(train=["fit"], validation=["demo_10"], test=["demo_1[123]"])
    parts = split_episodes(data, split, window=5)
    assert parts["train"].first.tolist() == [6 * i for i in range(10)]
    assert parts["validation"].first.tolist() == [60]
    assert parts["test"].first.tolist() == [66, 72, 78]


def test_a_fraction_beside_lists_is_taken_from_the_episodes_of_train(make_data) -> None:
    data = make_data([6] * 30, given=["fit"] * 20 + ["check"] * 10)
    parts = split_episodes(data, SplitConfig(train=["fit"], validation=0.1, test=["check"]), window=5)
    assert sizes(parts) == [18, 2, 10]
    assert max(parts["validation"].first) < 120
    parts = split_episodes(data, SplitConfig(test=["check"]), window=5)
    assert sizes(parts) == [18, 2, 10]


def test_validation_of_a_single_named_episode_is_a_block_of_its_time(make_data) -> None:
    data = make_data([210, 100], given=["estimation", "test"])
    parts = split_episodes(data, SplitConfig(train=["estimation"], validation=0.1, test=["test"]), window=10)
    assert [part.points.tolist() for part in parts.values()] == [[180], [20], [100]]
    assert describe_split(data, parts).startswith("blocks of time")


def test_an_unknown_name_is_refused_with_the_nearest(make_data) -> None:
    data = make_data([6] * 12)
    with pytest.raises(DataError, match=r"split 'test': no episode or group 'dmeo_7'; did you mean 'demo_7'\?"):
        split_episodes(data, SplitConfig(test=["dmeo_7"]), window=5)
    with pytest.raises(DataError, match="'run_'"):
        split_episodes(data, SplitConfig(test=["run_"]), window=5)


def test_an_episode_in_two_lists_is_refused(make_data) -> None:
    split = SplitConfig(train=["demo_*"], validation=["demo_3"], test=["demo_4"])
    with pytest.raises(DataError, match="'demo_3' is named for both 'train' and 'validation'"):
        split_episodes(make_data([6] * 12), split, window=5)


def test_a_split_without_a_window_is_refused_with_counts(make_data) -> None:
    with pytest.raises(DataError, match=r"split 'train': 0 of 10 episodes >= 10 steps \(longest 7\)"):
        split_episodes(make_data([8] * 12), DEFAULT, window=10)


def test_too_few_episodes_for_the_numbers_are_refused(make_data) -> None:
    with pytest.raises(DataError, match="12 episodes are too few for the splits train 10, validation 2, test 2"):
        split_episodes(make_data([6] * 12), SplitConfig(train=10, validation=2, test=2), window=5)


def test_equal_episodes_fall_into_the_same_split_and_are_counted(make_data) -> None:
    data = with_hashes(make_data([6] * 20), [7] * 5 + list(range(100, 115)))
    split = SplitConfig(train=2, validation=5, test=5)
    parts = split_episodes(data, split, window=5)
    assert [set(part.hashes.tolist()) & {7} for part in parts.values()] == [{7}, set(), set()]
    assert "4 duplicate episodes kept in the split of the twin" in describe_split(data, parts)


def test_equal_episodes_in_named_splits_are_reported(make_data) -> None:
    data = with_hashes(make_data([6] * 4), [7, 8, 7, 9])
    split = SplitConfig(train=["demo_0"], validation=["demo_1"], test=["demo_2"])
    assert "1 episode in another split as well" in describe_split(data, split_episodes(data, split, window=5))


def test_nothing_but_equal_episodes_cannot_be_split(make_data) -> None:
    data = with_hashes(make_data([6] * 20), [7] * 20)
    with pytest.raises(DataError, match="too many of them are equal"):
        split_episodes(data, DEFAULT, window=5)


def test_fractions_above_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.8 \+ 0\.2 \+ 0\.1 are more than 1"):
        SplitConfig(validation=0.2)
    with pytest.raises(ValueError, match="are more than 1"):
        SplitConfig(train=["a"], validation=0.6, test=0.5)
    SplitConfig(validation=0.2, test=["a"])


def test_windows_begin_at_the_starts_that_fit_and_follow_their_episode(make_data) -> None:
    data = make_data([12, 9, 12, 20, 12, 12, 12, 12, 12, 12])
    config = DataConfig(path="x", starts=[0, 3, 5, 14])
    parts = split_windows(data, config, window=5)
    episodes = split_episodes(data, config.split, window=5)
    for name, part in parts.items():
        assert (part.points == 6).all()
        begin = part.first - data.episodes.first[np.searchsorted(data.episodes.first, part.first, "right") - 1]
        expected = [
            start for points in episodes[name].points.tolist() for start in config.starts or [] if start + 5 < points
        ]
        assert sorted(begin.tolist()) == sorted(expected)
        assert rows_of(part) <= rows_of(episodes[name])


def test_divided_by_window_the_windows_of_an_episode_lie_in_several_splits_each_once(make_data) -> None:
    data = make_data([30] * 12)
    config = DataConfig(path="x", starts=list(range(0, 20, 2)), split=SplitConfig(by="window"))
    parts = split_windows(data, config, window=9)
    assert sizes(parts) == [96, 12, 12]
    firsts = [part.first.tolist() for part in parts.values()]
    assert len(set.union(*map(set, firsts))) == 120
    owners = [set((np.array(first) // 30).tolist()) for first in firsts]
    assert owners[0] & owners[1]
    assert "by window 96/12/12" in split_text(data, config, 9)


def test_starts_beyond_every_episode_are_refused(make_data) -> None:
    with pytest.raises(DataError, match="no episode has 5 steps from point 40 on"):
        split_windows(make_data([12] * 10), DataConfig(path="x", starts=[40]), window=5)


def test_a_window_keeps_its_place_in_the_shuffle_when_others_are_left_out(make_data) -> None:
    data = make_data([30] * 3)
    every = Windows(data, data.episodes, 9)
    some = Windows(data, cut(data.episodes, [0, 4, 8], 9), 9)
    first_of = {number: number // 21 * 30 + number % 21 for number in range(every.count)}
    whole = [first_of[n] for n in every.order(7, 2)[np.arange(every.count)].tolist()]
    few = [n // 3 * 30 + n % 3 * 4 for n in some.order(7, 2)[np.arange(some.count)].tolist()]
    assert few == [first for first in whole if first in set(few)]
