import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from ensemble.reporting.number_format import interval, plus_minus, setting, times
from ensemble.reporting.statistics import best_index, describe, natural_mode
from ensemble.text import duration

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


@given(VALUES)
def test_mean_and_deviation_are_numpys_and_the_interval_is_scipys(values: list[float]) -> None:
    found = describe(np.array(values))
    assert found.mean == np.mean(values)
    assert found.std == np.std(values, ddof=1)
    assert (found.median, found.min, found.max) == (np.median(values), min(values), max(values))
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.ci_high - found.mean == pytest.approx(half, rel=1e-9, abs=1e-9)
    assert found.mean - found.ci_low == pytest.approx(half, rel=1e-9, abs=1e-9)


def test_the_t_interval_of_three_normal_values_covers_the_true_mean_95_times_in_100() -> None:
    draws = np.random.default_rng(1).normal(5, 2, (4000, 3))
    inside = [found.ci_low <= 5 <= found.ci_high for found in map(describe, draws)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)


def test_a_single_seed_has_a_mean_but_neither_spread_nor_interval() -> None:
    found = describe(np.array([0.25]))
    assert (found.n, found.mean, found.ci_method) == (1, 0.25, "none")
    assert all(math.isnan(value) for value in (found.std, found.ci_low, found.ci_high))


def test_values_that_are_not_finite_are_refused_rather_than_averaged() -> None:
    with pytest.raises(ValueError, match="not finite"):
        describe(np.array([1.0, np.nan]))


def test_the_best_is_the_least_error_and_the_greatest_success() -> None:
    values = np.array([0.3, 0.1, 0.9])
    assert best_index(values, natural_mode("test/rollout_rmse")) == 1
    assert best_index(values, natural_mode("eval/success")) == 2


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.081234, 0.00431, "0.0812 ± 0.0043"),
        (0.1, 0.0996, "0.10 ± 0.10"),
        (12.3456, 1.5, "12.3 ± 1.5"),
        (1234.5, 210.0, "1234 ± 210"),
        (1.234e-6, 4.2e-8, "(1.234 ± 0.042)e-06"),
        (0.5, 0.0, "0.5000 ± 0.0000"),
        (0.081234, float("nan"), "0.08123"),
        (float("nan"), float("nan"), "-"),
    ],
)
def test_a_mean_ends_where_its_deviation_does(mean: float, std: float, text: str) -> None:
    assert plus_minus(mean, std) == text


@given(st.floats(-1e8, 1e8), st.floats(0, 1e8))
@example(0.0, 5e-324)
@example(0.0, 0.0)
@example(1e-305, 1e-320)
def test_any_mean_and_deviation_can_be_written(mean: float, std: float) -> None:
    assert "±" in plus_minus(mean, std)
    assert interval(mean - std, mean + std, mean, std, "t").endswith(" t")


def test_settings_times_and_ratios_read_as_a_person_writes_them() -> None:
    assert [setting(v) for v in (1e-3, 3e-5, 0.01, 192, True, "adam", 0.0)] == [
        "1e-3", "3e-5", "0.01", "192", "true", "adam", "0",
    ]  # fmt: skip
    assert [duration(s) for s in (0.84, 42.0, 723.0, 12_000.0)] == ["0.8 s", "42 s", "12 min 03 s", "3 h 20 min"]
    assert [times(r) for r in (12.3, 3.41, 0.823, None)] == ["12x", "3.4x", "0.82x", "-"]
