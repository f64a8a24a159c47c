"""The race: contenders and their next seeds. Laws, and error rates on draws with known means."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import polygamma

from ensemble.search.racing import _inverse_trigamma, contenders, moderate, next_round

SEEDS = range(10)


def scores(values: np.ndarray, seeds: range | None = None) -> dict[int, dict[int, float]]:
    return {c: dict(zip(seeds or range(len(row)), row.tolist(), strict=True)) for c, row in enumerate(values)}


def draw(random: np.random.Generator, means: np.ndarray, seeds: int, spread: float = 0.1) -> np.ndarray:
    return means[:, None] + spread * random.standard_normal((len(means), seeds))


def test_who_is_far_behind_is_out_and_who_is_level_stays() -> None:
    values = np.array([[1.0, 1.1], [1.05, 1.0], [1.05, 1.1], [5.0, 5.3], [9.0, 9.9], [7.0, 7.4]])
    assert sorted(contenders(scores(values), "min")) == [0, 1, 2]
    assert contenders(scores(values), "max")[0] == 4


def test_the_best_comes_first() -> None:
    values = draw(np.random.default_rng(0), np.array([3.0, 1.0, 2.0]), 8, spread=1.0)
    assert contenders(scores(np.exp(values)), "min")[0] == 1
    assert contenders(scores(values), "max")[0] == 0


@given(st.integers(0, 1000), st.integers(2, 12), st.integers(2, 6), st.floats(0.01, 100))
@settings(max_examples=50, deadline=None)
def test_neither_a_unit_nor_a_numbering_changes_who_stays(seed: int, count: int, seeds: int, unit: float) -> None:
    random = np.random.default_rng(seed)
    values = np.exp(draw(random, random.normal(0, 0.2, count), seeds))
    kept = contenders(scores(values), "min")
    assert contenders(scores(unit * values), "min") == kept
    names = (random.permutation(count) + 7).tolist()
    renamed = {names[c]: each for c, each in scores(values).items()}
    assert contenders(renamed, "min") == [names[c] for c in kept]


def test_what_a_seed_does_to_all_alike_changes_nothing() -> None:
    random = np.random.default_rng(0)
    values = draw(random, np.linspace(0, 0.4, 12), 3)
    hard = 10 * random.standard_normal(3)
    kept = contenders(scores(values), "max")
    assert len(kept) < 12
    assert contenders(scores(values + hard), "max") == kept


def test_a_configuration_that_diverged_with_a_seed_is_no_contender() -> None:
    values = scores(np.array([[1.0, 1.1], [0.9, math.nan], [0.2, math.inf], [1.1, 1.0]]))
    assert sorted(contenders(values, "min")) == [0, 3]
    assert contenders({1: values[1], 2: values[2]}, "min") == [1, 2]


@pytest.mark.parametrize("values", [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
def test_equal_values_without_any_variance_all_stay(values: list[list[float]]) -> None:
    assert contenders(scores(np.array(values)), "min") == list(range(len(values)))


def test_without_variance_the_better_value_wins() -> None:
    assert contenders(scores(np.array([[3.0, 3.0], [2.0, 2.0], [2.0, 2.0]])), "min") == [1, 2]


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_a_best_one_among_equals_is_excluded_at_most_as_often_as_stated(seeds: int) -> None:
    random, count, repetitions = np.random.default_rng(seeds), 16, 400
    lost = sum(0 not in contenders(scores(draw(random, np.zeros(count), seeds)), "max") for _ in range(repetitions))
    assert lost / repetitions <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / repetitions)


def test_two_seeds_suffice_to_exclude_what_twenty_configurations_show_to_be_worse() -> None:
    """By itself a difference of two seeds has one degree of freedom: 13 standard errors would be needed for 95 %."""
    random = np.random.default_rng(1)
    values = draw(random, np.linspace(0, 2, 20), 2)
    assert len(contenders(scores(values), "max")) <= 8


def test_variances_are_shrunk_by_as_much_as_they_resemble_one_another() -> None:
    random, df = np.random.default_rng(0), np.full(4000, 4.0)
    alike = random.chisquare(4, 4000) / 4
    shrunk, freedom = moderate(alike, df)
    assert freedom.min() > 100
    assert np.ptp(shrunk) < 0.2
    truth = 8 * 2.0 / random.chisquare(8, 4000)  # d0 = 8, s0^2 = 2
    shrunk, freedom = moderate(truth * alike, df)
    assert freedom[0] - 4 == pytest.approx(8, rel=0.15)
    error = [np.mean((np.log(each) - np.log(truth)) ** 2) for each in (shrunk, truth * alike)]
    assert error[0] < 0.5 * error[1]


@pytest.mark.parametrize("y", [0.05, 0.7, 3.0, 40.0])
def test_the_inverse_of_trigamma_is_its_inverse(y: float) -> None:
    assert _inverse_trigamma(float(polygamma(1, y))) == pytest.approx(y, rel=1e-6)


def run_race(
    values: np.ndarray, left: int | None = None
) -> tuple[dict[int, dict[int, float]], list[list[tuple[int, int]]]]:
    known, rounds = scores(values[:, :2]), []
    while turns := next_round(known, "max", range(values.shape[1]), left):
        rounds.append(turns)
        for configuration, seed in turns:
            known[configuration][seed] = float(values[configuration, seed])
        left = None if left is None else left - len(turns)
    return known, rounds


def test_a_race_gives_seeds_in_their_order_to_contenders_alone_and_ends() -> None:
    values = draw(np.random.default_rng(3), np.linspace(0, 1, 20), 10)
    known, rounds = run_race(values)
    assert all(list(each) == list(range(len(each))) for each in known.values())
    assert len(rounds) <= 8
    runs = sorted((len(each), number) for number, each in known.items())
    assert runs[0][0] == 2
    assert {number for count, number in runs if count > 4} <= {15, 16, 17, 18, 19}
    assert contenders(known, "max")[0] >= 18


def test_equals_race_to_the_last_seed() -> None:
    known, rounds = run_race(np.tile([[0.0, 1.0, 0.5, 0.3, 0.9, 0.2]], (3, 1)))
    assert {len(each) for each in known.values()} == {6}
    assert [len(turns) for turns in rounds] == [3, 3, 3, 3]


@given(st.integers(0, 100), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_a_race_never_spends_more_than_is_left(seed: int, left: int) -> None:
    random = np.random.default_rng(seed)
    _, rounds = run_race(draw(random, random.normal(0, 0.1, 20), 10), left)
    assert sum(map(len, rounds)) <= left


def test_when_little_is_left_a_smaller_field_runs_longer() -> None:
    values = draw(np.random.default_rng(5), np.zeros(20), 10)
    free, rich = run_race(values)
    poor, scarce = run_race(values, left=40)
    assert len(rich[0]) == 20
    assert len(scarce[0]) < 20
    sizes = [len(turns) for turns in scarce]
    assert sizes == sorted(sizes, reverse=True)
    assert max(map(len, poor.values())) == max(map(len, free.values())) == 10


def test_a_race_is_over_when_one_is_left() -> None:
    values = scores(np.array([[5.0, 5.1], [0.1, 0.0], [0.05, 0.0], [0.0, 0.1]]))
    assert contenders(values, "max") == [0]
    assert next_round(values, "max", SEEDS) == []


def test_a_configuration_alone_needs_no_race() -> None:
    assert contenders({4: {0: 1.0, 1: 2.0}}, "min") == [4]
    assert next_round({4: {0: 1.0, 1: 2.0}}, "min", SEEDS) == []
    assert contenders({}, "min") == []
