"""Intervals over members and starts: they cover as often as they say, on data whose truth is known."""

import math

import numpy as np
import pytest
from scipy.special import expit

from ensemble.closed_loop.intervals import Interval, interval, mean_variance
from ensemble.reporting.statistics import student_t
from ensemble.schema import Float64

REPEATS = 600


def coverage(draw: "np.ndarray", truth: float, is_rate: bool) -> tuple[float, float]:
    """Return how often intervals of (R, M, N) cover the truth, and how often Student's over members would."""
    found = [interval(values, float(values.mean()), is_rate) for values in draw]
    alone = [student_t(values.mean(axis=1), 0.95) for values in draw]
    return (
        float(np.mean([each.low <= truth <= each.high for each in found])),
        float(np.mean([low <= truth <= high for low, high in alone])),
    )


def normal(members: int, starts: int, of_members: float, of_starts: float) -> Float64:
    random = np.random.default_rng(members + starts)
    return (
        of_members * random.normal(size=(REPEATS, members, 1))
        + of_starts * random.normal(size=(REPEATS, 1, starts))
        + random.normal(size=(REPEATS, members, starts))
    )


@pytest.mark.parametrize(("of_members", "of_starts"), [(0.0, 0.0), (0.3, 0.0), (0.0, 1.0), (0.3, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize(("members", "starts"), [(5, 30), (10, 90)])
def test_whatever_varies_the_interval_covers_as_often_as_it_says(
    members: int, starts: int, of_members: float, of_starts: float
) -> None:
    covered, _ = coverage(normal(members, starts, of_members, of_starts), 0.0, is_rate=False)
    assert 0.92 <= covered <= 0.995


def test_an_interval_over_members_alone_would_not() -> None:
    _, alone = coverage(normal(10, 30, 0.0, 1.0), 0.0, is_rate=False)
    assert alone < 0.6


@pytest.mark.parametrize("centre", [0.5, 2.0, 3.5])
@pytest.mark.parametrize("of_starts", [1.0, 4.0])
def test_the_interval_of_a_rate_covers_near_one_as_well_and_stays_below_it(centre: float, of_starts: float) -> None:
    random = np.random.default_rng(3)
    chance = expit(
        centre + 0.5 * random.normal(size=(REPEATS, 5, 1)) + of_starts * random.normal(size=(REPEATS, 1, 60))
    )
    truth = float(expit(centre + math.hypot(0.5, of_starts) * random.normal(size=1_000_000)).mean())
    drawn = (random.uniform(size=chance.shape) < chance).astype(np.float64)
    covered, alone = coverage(drawn, truth, is_rate=True)
    assert 0.92 <= covered <= 0.995
    assert alone < covered
    assert all(0 <= each.low <= each.high <= 1 for each in (interval(y, float(y.mean()), True) for y in drawn[:100]))


def test_thirty_starts_and_ninety_others_of_the_same_members_agree() -> None:
    random = np.random.default_rng(0)
    hard = random.uniform(size=(1, 120)) < 0.2  # starts that hardly any member manages
    drawn = random.uniform(size=(10, 120)) < np.where(hard, 0.1, 0.98)
    few, many = (interval(y.astype(float), float(y.mean()), True) for y in (drawn[:, :30], drawn[:, 30:]))
    assert few.low < many.high
    assert many.low < few.high
    assert few.high - few.low > many.high - many.low > 0.1


def test_a_rate_that_came_out_alike_everywhere_is_no_point() -> None:
    low, high, over = interval(np.ones((10, 300)), 1.0, True)
    assert high == pytest.approx(1)
    assert 1 - low == pytest.approx(3.84 / 300, rel=0.1)  # about the rule of three, by Wilson
    assert over == "members and starts"
    assert interval(np.zeros((1, 30)), 0.0, True)[:2] == pytest.approx((0.0, 0.12), abs=0.03)


def test_one_controller_has_its_starts_and_one_start_its_members() -> None:
    values = np.random.default_rng(1).normal(size=(1, 40))
    found = interval(values, float(values.mean()), False)
    assert found == pytest.approx((*student_t(values[0], 0.95), "starts"))
    assert interval(values.T, float(values.mean()), False)[:2] == pytest.approx(student_t(values[0], 0.95))
    assert interval(values.T, float(values.mean()), False).over == "members"
    assert interval(values[:, :1], 0.0, False) == pytest.approx(Interval(math.nan, math.nan, "none"), nan_ok=True)


def test_members_without_luck_in_common_are_so_many_independent_cells() -> None:
    values = np.random.default_rng(2).normal(size=(40, 400))
    variance, _ = mean_variance(values)
    assert variance == pytest.approx(1 / values.size, rel=0.5)
