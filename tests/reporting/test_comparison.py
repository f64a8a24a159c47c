import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ensemble.reporting.comparison import (
    Paired,
    holm,
    paired,
    power,
    probability_of_improvement,
    seeds_needed,
    unpaired,
)
from ensemble.schema import Float64

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def test_differences_pair_equal_seeds_and_no_others() -> None:
    found = paired({0: 1.0, 1: 2.0, 2: 9.0, 7: float("nan")}, {2: 8.0, 1: 4.0, 5: 0.0, 7: 1.0})
    assert found.seeds == (1, 2)
    assert found.found.mean == pytest.approx(-0.5)  # of -2 and 1


def test_the_paired_test_is_scipys() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, 8), random.normal(0.5, 2, 8)
    found = paired(dict(enumerate(a)), dict(enumerate(b)))
    expected = stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.found.ci_low, found.found.ci_high) == pytest.approx((interval.low, interval.high))


def test_pairing_sees_a_difference_that_the_spread_over_seeds_hides() -> None:
    random = np.random.default_rng(1)
    luck = random.normal(0, 1, 10)
    a, b = luck + random.normal(0, 0.05, 10), luck + 0.2 + random.normal(0, 0.05, 10)
    assert paired(dict(enumerate(a)), dict(enumerate(b))).p < 1e-3
    assert stats.ttest_ind(a, b).pvalue > 0.3


def test_one_pair_gives_no_p_value_and_equal_values_no_significance() -> None:
    assert math.isnan(paired({0: 1.0}, {0: 2.0}).p)
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1
    assert paired({0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0}).p == 0


def test_holm_of_a_hand_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.01, float("nan"), 0.04])
    assert (adjusted[0], adjusted[2]) == pytest.approx((0.02, 0.04))
    assert math.isnan(adjusted[1])


@given(P_VALUES)
def test_holm_lies_between_the_raw_value_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 and q <= min(1, p * len(p_values)) for p, q in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_holm_errs_at_most_five_times_in_a_hundred_families_without_any_difference() -> None:
    random = np.random.default_rng(2)
    draws = random.normal(0, 1, (2000, 6, 5))
    families = 2 * stats.t.sf(np.abs(draws.mean(2) / draws.std(2, ddof=1) * np.sqrt(5)), 4)
    assert np.mean([min(holm(list(family))) < 0.05 for family in families]) == pytest.approx(0.05, abs=0.012)


def test_the_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    a, b = np.array([1.0, 2.0]), np.array([2.0, 3.0, 0.0])
    assert probability_of_improvement(a, b, "min").value == pytest.approx((1 + 1 + 0 + 0.5 + 1 + 0) / 6)
    assert probability_of_improvement(a, b, "max").value == pytest.approx(1 - 3.5 / 6)
    assert math.isnan(probability_of_improvement(a, np.array([]), "min").value)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.lists(st.floats(-5, 5), min_size=1, max_size=9))
def test_the_probabilities_of_both_sides_add_to_one_within_their_intervals(x: list[float], y: list[float]) -> None:
    a, b = np.array(x), np.array(y)
    one, other = probability_of_improvement(a, b, "min"), probability_of_improvement(b, a, "min")
    assert one.value + other.value == pytest.approx(1)
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)
    assert one.value == pytest.approx(1 - stats.mannwhitneyu(a, b).statistic / (a.size * b.size))


def test_a_diverged_run_loses_against_every_other() -> None:
    a, b = np.array([1.0, 2.0, 3.0]), np.array([0.5, np.inf, np.inf])
    assert probability_of_improvement(a, b, "min").value == pytest.approx(6 / 9)


@pytest.mark.parametrize("n", [3, 10])
def test_the_interval_of_the_probability_covers_it_about_95_times_in_100(n: int) -> None:
    random, shift = np.random.default_rng(n), 1.0
    true = stats.norm.cdf(shift / math.sqrt(2))
    found = [probability_of_improvement(random.normal(0, 1, n), random.normal(shift, 1, n), "min") for _ in range(2000)]
    assert 0.93 <= np.mean([each.low <= true <= each.high for each in found]) <= 1


@pytest.mark.parametrize(("effect", "needed"), [(0.5, 34), (1.0, 10), (0.2, 199)])
def test_the_seeds_needed_are_those_of_the_textbooks(effect: float, needed: int) -> None:
    assert seeds_needed(-effect, 1.0) == needed  # paired t, two-sided, level 0.05, power 0.8


def test_with_the_seeds_needed_the_test_finds_the_difference_four_times_in_five() -> None:
    n = seeds_needed(0.7, 1.0)
    assert n is not None
    draws = np.random.default_rng(3).normal(0.7, 1.0, (4000, n))
    significant = np.mean([found.p < 0.05 for found in map(_against_zero, draws)])
    assert significant == pytest.approx(power(0.7, n), abs=0.025)
    assert significant > 0.78


def _against_zero(draw: Float64) -> Paired:
    return paired(dict(enumerate(draw)), dict.fromkeys(range(draw.size), 0.0))


def test_what_thousand_seeds_do_not_separate_is_not_given_a_number() -> None:
    assert seeds_needed(0.01, 1.0) is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(float("nan"), 1.0) is None
    assert seeds_needed(1.0, 0.0) == 2
    assert seeds_needed(1e6, 1.0) == 2


@given(st.floats(0.05, 100))
def test_the_seeds_needed_are_the_fewest_that_have_the_power(effect: float) -> None:
    n = seeds_needed(effect, 1.0)
    if n is None:
        assert power(effect, 1000) < 0.8
    elif n > 2:
        assert power(effect, n - 1) < 0.8 <= power(effect, n)


def test_unpaired_means_are_compared_by_welch() -> None:
    random = np.random.default_rng(4)
    a, b = random.normal(0, 1, 3), random.normal(1, 3, 10)
    difference, low, high = unpaired(a, b)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert difference == pytest.approx(a.mean() - b.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))
