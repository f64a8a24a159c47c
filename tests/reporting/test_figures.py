from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from synthetic_run import build_run, build_search, member, search_rows

from ensemble.reporting.figures.axes import ParameterAxis, declared_scale, parameter_axis
from ensemble.reporting.figures.curves import thin
from ensemble.reporting.figures.parameters import file_names
from ensemble.reporting.figures.rollouts import choose_windows, stack_rollouts
from ensemble.reporting.figures.style import Series, band_of, push_apart
from ensemble.reporting.report import write_report


def series(*values: float) -> Series:
    return Series(np.arange(len(values), dtype=np.float64), np.array(values))


def test_a_band_of_three_members_is_the_mean_and_one_deviation() -> None:
    band = band_of([series(1, 4), series(2, 5), series(3, 6)])
    assert band.mean.tolist() == [2, 5]
    assert band.low.tolist() == [1, 4]
    assert band.high.tolist() == [3, 6]


def test_a_band_of_two_members_reaches_from_the_least_to_the_greatest() -> None:
    band = band_of([series(1, 4), series(3, 8)])
    assert (band.low.tolist(), band.high.tolist()) == ([1, 4], [3, 8])


def test_a_band_never_reaches_below_zero_where_all_values_are_positive() -> None:
    assert band_of([series(0.1), series(0.1), series(9.0)]).low.tolist() == [0.1]


def test_a_member_that_stopped_early_leaves_the_band_to_the_others() -> None:
    band = band_of([series(1, 2, 3), series(3)])
    assert band.mean.tolist() == [2, 2, 3]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_labels_are_spread_to_the_gap_in_their_order_and_stay_inside(places: list[float]) -> None:
    moved = push_apart(places, 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(moved))
    assert moved[0] >= -1e-9
    assert moved[-1] <= 1 + 1e-9


def test_labels_that_have_room_are_not_moved() -> None:
    assert push_apart([0.9, 0.1, 0.5], 0.1) == pytest.approx([0.1, 0.5, 0.9])


def test_a_long_curve_is_averaged_without_losing_its_mean() -> None:
    long = Series(np.arange(1000, dtype=np.float64), np.arange(1000, dtype=np.float64))
    short = thin(long, 1000)
    assert short.x.size == 200
    assert short.y.mean() == pytest.approx(long.y.mean())


def rollouts(order: list[str], predicted: dict[str, list[float]], true: dict[str, list[float]]) -> pa.Table:
    rows = [
        {"split": "test", "window": 0, "step": step, "label": label, "true": t, "predicted": p}
        for label in order
        for step, (t, p) in enumerate(zip(true[label], predicted[label], strict=True))
    ]
    return pa.Table.from_pylist(rows)


def test_state_entries_keep_the_order_of_the_file() -> None:
    true = {"z": [1.0, 2.0], "a": [5.0, 6.0]}
    found = stack_rollouts([rollouts(["z", "a"], true, true)])
    assert found is not None
    assert found.labels == ("z", "a")
    assert found.true[0].tolist() == [[1, 5], [2, 6]]


def test_an_angle_that_wraps_is_unrolled_together_with_its_predictions() -> None:
    true, predicted = {"q": [3.0, -3.0, -2.8]}, {"q": [3.0, 3.1, -2.9]}
    found = stack_rollouts([rollouts(["q"], predicted, true)])
    assert found is not None
    turn = 2 * np.pi
    assert found.true[0, :, 0] == pytest.approx([3.0, turn - 3.0, turn - 2.8])
    assert found.predicted[0, 0, :, 0] == pytest.approx([3.0, 3.1, turn - 2.9])


def test_predictions_that_wrap_stay_on_the_turn_of_a_truth_that_does_not() -> None:
    true, predicted = {"q": [3.0, 3.3, 3.5]}, {"q": [3.0, 3.2 - 2 * np.pi, 3.6 - 2 * np.pi]}
    found = stack_rollouts([rollouts(["q"], predicted, true)])
    assert found is not None
    assert found.true[0, :, 0] == pytest.approx([3.0, 3.3, 3.5])
    assert found.predicted[0, 0, :, 0] == pytest.approx([3.0, 3.2, 3.6])


def test_a_velocity_that_jumps_is_left_alone() -> None:
    values = {"qd": [0.0, 9.0, 1.0]}
    found = stack_rollouts([rollouts(["qd"], values, values)])
    assert found is not None
    assert found.predicted[0, 0, :, 0].tolist() == [0.0, 9.0, 1.0]


def test_windows_are_chosen_by_their_error() -> None:
    rows = [
        {"split": "test", "window": w, "step": s, "label": "x", "true": float(s), "predicted": s + 0.1 * w * s}
        for w in range(11)
        for s in range(-1, 4)
    ]
    found = stack_rollouts([pa.Table.from_pylist(rows)])
    assert found is not None
    assert choose_windows(found) == [(1, "easy"), (5, "typical"), (9, "hard")]


def test_members_with_other_windows_are_not_laid_over_each_other() -> None:
    one = rollouts(["x"], {"x": [0.0, 1.0]}, {"x": [0.0, 1.0]})
    two = rollouts(["x"], {"x": [0.0]}, {"x": [0.0]})
    assert stack_rollouts([one, two]) is None


def test_pictures_are_1200_pixels_wide_for_any_number_of_configurations(tmp_path: Path) -> None:
    rows = [member(f"{i:02x}", s, role="search", **{"model.n_embd": i}) for i in range(22) for s in range(2)]
    report = write_report(build_run(tmp_path / "wide", rows))
    assert {imread(report.run.path / picture.file).shape[1] for picture in report.pictures} == {1200}


def axis(name: str, values: list[object], experiment: dict[str, object] | None = None) -> ParameterAxis:
    return parameter_axis(name, [{} if value is None else {name: value} for value in values], experiment or {})


SPACE = {
    "train": {
        "lr": {"log_uniform": [1e-5, 1e-2]},
        "optimizer": {"choice": [{"name": "adamw"}, {"name": "sgd", "momentum": {"uniform": [0.0, 1.0]}}]},
        "layers": [{"width": {"int": [1, 100]}}],
    }
}


def test_the_scale_of_a_parameter_is_that_of_its_distribution_also_inside_an_option() -> None:
    assert declared_scale(SPACE, "train.lr") == "log"
    assert declared_scale(SPACE, "train.optimizer") == "options"
    assert declared_scale(SPACE, "train.optimizer[sgd].momentum") == "linear"
    assert declared_scale(SPACE, "train.optimizer[1].momentum") == "linear"
    assert declared_scale(SPACE, "train.layers.0.width") == "linear"
    assert declared_scale(SPACE, "train.optimizer[adam].lr") is None
    assert declared_scale(SPACE, "train.batch") is None


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis() -> None:
    found = axis("train.lr", [1e-5, 1e-4, 1e-3], SPACE)
    assert [found.place({"train.lr": v}) for v in (1e-5, 1e-4, 1e-3)] == pytest.approx([0, 0.5, 1])


def test_values_without_a_known_distribution_are_a_list_when_few_and_logarithmic_when_they_span_decades() -> None:
    assert axis("a", [32, 64, 128, 64]).options == (32, 64, 128)
    assert axis("a", [10.0**-k for k in range(8)]).scale == "log"
    assert axis("a", [float(k) for k in range(8)]).scale == "linear"
    assert axis("a", ["x", True, None, "b"]).options == (True, "b", "x")


def test_a_parameter_that_a_trial_does_not_use_has_a_place_of_its_own() -> None:
    found = axis("a", [1.0, None, 2.0])
    assert found.place({}) < 0
    assert found.ticks()[0][1] == "not used"
    assert "not used" not in dict(axis("a", [1.0, 2.0]).ticks()).values()


@given(st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=12))
def test_every_value_lies_on_its_axis_and_so_do_the_ticks(values: list[float]) -> None:
    found = axis("a", list(values))
    places = [found.place({"a": value}) for value in values] + [place for place, _ in found.ticks()]
    assert all(-1e-6 <= place <= 1 + 1e-6 for place in places)


def test_a_search_has_its_history_courses_importances_parallel_coordinates_and_one_figure_a_parameter(
    tmp_path: Path,
) -> None:
    report = write_report(build_search(tmp_path / "searched"))
    names = [picture.file.name for picture in report.pictures]
    assert names[:3] == ["history.png", "courses.png", "parallel.png"]
    assert "importances.png" in names
    assert sum(name.startswith("parameter_") for name in names) == 8
    assert {"members.png", "curves.png", "horizon.png"} <= set(names)
    widths = {picture.half: imread(report.run.path / picture.file).shape[1] for picture in report.pictures}
    assert widths == {False: 1200, True: 600}
    page = (report.run.path / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == len(names)


def test_several_objectives_have_a_figure_of_their_front(tmp_path: Path) -> None:
    rows = search_rows()
    for row in rows["trials"]:
        if row["state"] == "completed":
            row["objectives"] = f'{{"validation/rollout_rmse": {row["value"]}, "parameters": {row["number"] + 1}}}'
    report = write_report(build_search(tmp_path / "s", rows, complete=False, also={"parameters": "min"}))
    assert "pareto.png" in [picture.file.name for picture in report.pictures]


def test_a_search_of_one_parameter_where_nearly_all_were_stopped_is_drawn_without_a_warning(tmp_path: Path) -> None:
    rows = search_rows(trials=3, finalists=0)
    for row in rows["trials"]:
        row["parameters"] = f'{{"model.n_embd": {32 * (row["number"] + 1)}}}'
    rows["importances"].clear()
    names = [p.file.name for p in write_report(build_search(tmp_path / "s", rows, complete=False)).pictures]
    assert "parameter_model_n_embd.png" in names
    assert "importances.png" not in names
    assert "parallel.png" not in names


def test_names_of_parameters_make_names_of_files() -> None:
    axes = [axis(name, [1]) for name in ("a.b[c].lr", "a/b/../c lr", "a b c lr")]
    names = list(file_names(axes).values())
    assert len(set(names)) == 3
    assert all("/" not in name and name.startswith("parameter_a_b_c_lr") for name in names)
