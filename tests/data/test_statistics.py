import numpy as np
import pytest

from ensemble.data import statistics
from ensemble.data.statistics import Moments, feature_moments, target_moments, wrap


def assert_equal(left: Moments, right: Moments) -> None:
    assert left.count == pytest.approx(right.count)
    for name in ("mean", "m2", "minimum", "maximum"):
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=1e-12, atol=1e-12)


def test_moments_of_merged_parts_equal_those_of_the_whole() -> None:
    x = np.random.default_rng(0).normal(1e4, 1e-2, (1000, 3))
    whole = Moments.of(x)
    merged = Moments.prior(3, count=0)
    for part in np.split(x, [1, 17, 400, 400]):
        merged = merged.merge(Moments.of(part))
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(merged.variance, x.var(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(merged.minimum, x.min(axis=0))
    np.testing.assert_array_equal(merged.maximum, x.max(axis=0))


def test_a_prior_of_tiny_weight_gives_the_running_mean_of_the_reference_system() -> None:
    batch = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 9]]], dtype=np.float32).reshape(-1, 2)
    running = Moments.prior(2, count=1e-4).merge(Moments.of(batch))
    np.testing.assert_allclose(running.mean, [3.9999, 5.2499], atol=5e-5)
    np.testing.assert_allclose(running.variance, [5.0003, 6.6880], atol=5e-5)
    assert running.count == pytest.approx(4.0001)


def test_merging_nothing_with_nothing_is_nothing_and_not_nan() -> None:
    empty = Moments.prior(2, count=0)
    assert empty.merge(Moments.of(np.empty((0, 2)))).variance.tolist() == [0, 0]


def test_a_control_does_not_count_at_the_last_point_of_an_episode(make_data) -> None:
    data = make_data([5, 3])
    rows = data.rows[[0, 1, 2, 3, 5, 6], 4:]
    assert_equal(feature_moments(data, data.episodes, "joint_acts", wrapped=True), Moments.of(rows))
    assert feature_moments(data, data.episodes, "states", wrapped=True).count == 8


def test_angles_of_a_feature_are_wrapped_only_on_request(make_data) -> None:
    data = make_data([50])
    wrapped = feature_moments(data, data.episodes, "states", wrapped=True)
    assert (np.abs(wrapped.maximum[:2]) <= np.pi).all()
    assert wrapped.maximum[2] == data.rows[:, 2].max()
    plain = feature_moments(data, data.episodes, "states", wrapped=False)
    assert_equal(plain, Moments.of(data.rows[:, :4]))


def test_a_relative_target_across_pi_is_a_small_step(make_data) -> None:
    data = make_data([3])
    data.rows.setflags(write=True)
    data.rows[:, 0] = [3.1, -3.1, 3.1 + 2 * np.pi]
    angles = np.array([True, False])
    target = target_moments(data, data.episodes, np.array([0, 2]), angles, "relative")
    step = 2 * np.pi - 6.2
    np.testing.assert_allclose([target.minimum[0], target.maximum[0]], [-step, step], atol=1e-5)
    assert target.maximum[1] == pytest.approx(np.diff(data.rows[:, 2].astype(float)).max())


def test_an_absolute_target_is_the_wrapped_next_point(make_data) -> None:
    data = make_data([4, 2])
    target = target_moments(data, data.episodes, np.array([1]), np.array([True]), "absolute")
    assert_equal(target, Moments.of(wrap(data.rows[[1, 2, 3, 5], 1:2].astype(float))))


def test_statistics_do_not_depend_on_the_size_of_chunks(make_data, monkeypatch) -> None:
    data = make_data([7, 1, 12, 2])
    whole = target_moments(data, data.episodes, np.arange(4), np.array([True, True, False, False]), "relative")
    monkeypatch.setattr(statistics, "CHUNK_ROWS", 4)
    parts = target_moments(data, data.episodes, np.arange(4), np.array([True, True, False, False]), "relative")
    assert whole.count == 18
    assert_equal(parts, whole)
