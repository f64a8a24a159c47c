import csv
import io
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from synthetic_run import EXPERIMENT, NARROW, WIDE, build_run, member, two_configurations, write_members

from ensemble.errors import NothingFinishedError, StorageError, UsageError
from ensemble.reporting.number_format import short_names
from ensemble.reporting.report import Report, joint_table, show, write_report
from ensemble.reporting.results import COLUMNS
from ensemble.reporting.table import Column
from ensemble.schema import CURVE_COLUMNS, MEMBER_COLUMNS, SUMMARY_COLUMNS

Rows = list[dict[str, Any]]


def labels(report: Report) -> list[str]:
    return [row["label"] for row in report.table.rows if row["kind"] == "configuration"]


def printed(runs: list[Path], width: int = 200, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(runs, console, figures=False, **options)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_summary_holds_numpys_statistics_over_the_completed_seeds(tmp_path: Path) -> None:
    rows = two_configurations()
    run = build_run(tmp_path / "wide", rows, complete=False)
    write_report(run, figures=False)
    summary = pq.read_table(run / "summary.parquet")
    assert summary.schema.equals(SUMMARY_COLUMNS)
    found = {(r["config_hash"], r["metric"]): r for r in summary.to_pylist()}
    for config_hash in (NARROW, WIDE):
        completed = [r for r in rows if r["config_hash"] == config_hash and r["status"] == "completed"]
        values = [r["test/loss"] for r in completed]
        line = found[config_hash, "test/loss"]
        assert (line["mean"], line["std"]) == (np.mean(values), np.std(values, ddof=1))
        assert (line["n_ok"], line["n_planned"], line["ci_method"]) == (len(values), 3, "t")
        assert line["best_seed"] == completed[int(np.argmin(values))]["seed"]
    metrics = {name for row in rows for name in row if "/" in name}
    assert len(summary) == 2 * len(metrics)


def test_the_order_of_rows_in_the_files_does_not_matter(tmp_path: Path) -> None:
    rows = two_configurations()
    first, second = (build_run(tmp_path / name / "wide", r) for name, r in (("a", rows), ("b", rows[::-1])))
    for run in (first, second):
        write_report(run, figures=False)
    for name in ("summary.parquet", "report.md", "report.csv", "report.html"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


FIGURES = ("curves.png", "horizon.png", "members.png", "rollouts.png")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report(build_run(tmp_path_factory.mktemp("drawn") / "wide"))


def test_a_report_made_twice_is_the_same_to_the_byte(drawn: Report) -> None:
    run = drawn.run.path
    made = ("summary.parquet", "report.md", "report.csv", "report.html", *(f"figures/{n}" for n in FIGURES))
    before = {name: (run / name).read_bytes() for name in made}
    write_report(run)
    assert {name: (run / name).read_bytes() for name in made} == before
    assert str(run.parent) not in (run / "report.md").read_text() + (run / "report.html").read_text()


def test_every_figure_of_the_page_lies_in_the_page(drawn: Report) -> None:
    run = drawn.run.path
    page = (run / "report.html").read_text()
    assert sorted(picture.file.name for picture in drawn.pictures) == sorted(FIGURES)
    assert page.count('src="data:image/png;base64,') == len(FIGURES)
    assert "http://" not in page
    assert "https://" not in page
    text = (run / "report.md").read_text()
    assert all((run / "figures" / name).is_file() and f"](figures/{name})" in text for name in FIGURES)


def test_a_run_without_curves_and_rollouts_has_a_report_without_their_figures(tmp_path: Path) -> None:
    report = write_report(build_run(tmp_path / "wide", complete=False))
    assert [picture.file.name for picture in report.pictures] == ["members.png", "horizon.png"]


def test_the_best_configuration_stands_first_and_is_named_by_what_was_searched(tmp_path: Path) -> None:
    rows = [member("a1", s, error_level=0.2, **{"model.n_embd": 8, "model.bias": True}) for s in range(3)]
    rows += [member("b2", s, error_level=0.1, **{"model.n_embd": 16, "model.bias": True}) for s in range(3)]
    report = write_report(build_run(tmp_path / "wide", rows, complete=False), figures=False)
    assert labels(report) == ["n_embd=16", "n_embd=8"]


def test_a_metric_that_is_better_when_high_is_sorted_the_other_way(tmp_path: Path) -> None:
    rows = [member(h, s, **{"eval/success": x + s / 50, "model.n_embd": n}) for h, x, n in SUCCESS for s in range(2)]
    run = build_run(tmp_path / "wide", rows, complete=False)
    report = write_report(run, "eval/success", figures=False)
    assert labels(report) == ["n_embd=2", "n_embd=1"]
    assert report.table.rows[0]["best_seed"] == 1


SUCCESS = (("a1", 0.3, 1), ("b2", 0.8, 2))


def test_a_diverged_seed_is_in_no_mean_ranks_its_configuration_behind_and_is_told_with_its_log(tmp_path: Path) -> None:
    run = build_run(tmp_path / "wide")
    text = printed([run])
    report = write_report(run, figures=False)
    assert labels(report) == ["n_embd=192", "n_embd=384"]  # 384 has the lower mean, of two survivors
    second = report.table.rows[1]
    assert (second["n"], second["status"]) == ((2, 3), "1 diverged")
    assert second["statistics"].mean < report.table.rows[0]["statistics"].mean
    assert "n_embd=384, seed 2 diverged: loss is NaN at step 420" in text
    assert str(run / "members" / f"{WIDE}-s2" / "train.log") in text
    assert f"members/{WIDE}-s2/train.log" in (run / "report.md").read_text()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_a_member_without_a_finite_value_is_never_best(tmp_path: Path, value: float | None) -> None:
    rows = [member("a1", s, **{"test/rollout_rmse": value if s == 1 else 0.1 + s}) for s in range(3)]
    report = write_report(build_run(tmp_path / "wide", rows, complete=False), figures=False)
    best = report.table.rows[0]
    status = "1 not measured" if value is None else "1 not finite"
    assert (best["best_seed"], best["n"], best["status"]) == (0, (2, 3), status)
    assert math.isfinite(best["statistics"].mean)


def test_one_failed_of_ten_leaves_nine_and_is_listed(tmp_path: Path) -> None:
    rows = [member("a1", s, status="failed" if s == 4 else "completed") for s in range(10)]
    rows[4]["error"] = "RuntimeError: boom\nsecond line"
    text = printed([build_run(tmp_path / "wide", rows, complete=False)])
    assert "9/10" in text
    assert "1 failed" in text
    assert "wide, seed 4 failed: RuntimeError: boom" in text


def test_seeds_that_were_planned_and_never_ended_are_counted_and_named(tmp_path: Path) -> None:
    run = build_run(tmp_path / "wide", [member("a1", s) for s in range(3)], complete=False)
    planned = [{"config_hash": "a1", "role": "ensemble", "seed": s} for s in range(5)]
    pq.write_table(pa.Table.from_pylist(planned), run / "planned.parquet")
    text = printed([run])
    assert "3/5" in text
    assert "2 missing" in text
    assert "seeds 3, 4 not finished" in text


def test_members_that_agree_to_the_bit_are_said_to_be_one_measurement(tmp_path: Path) -> None:
    rows = [member(NARROW, seed, weights_sha256="ab" * 32 if seed < 3 else "cd" * 32) for seed in range(4)]
    run = build_run(tmp_path / "wide", rows)
    said = "wide (ensemble): the members of seeds 0, 1, 2 agree to the bit"
    assert said in printed([run])
    write_report(run, figures=False)
    for name in ("report.md", "report.html"):
        assert said in (run / name).read_text()
    distinct = build_run(tmp_path / "other", two_configurations())
    assert "agree to the bit" not in printed([distinct])


def test_when_nothing_finished_the_table_is_printed_before_the_error(tmp_path: Path) -> None:
    rows = [member("a1", s, status="diverged", **{"train.optimizer.lr": 10.0 ** (-s - 1)}) for s in range(3)]
    run = build_run(tmp_path / "wide", rows)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(NothingFinishedError, match="no member finished; smallest learning rate tried 1e-3") as caught:
        show([run], console)
    assert caught.value.exit_code == 3
    assert "0/3" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "No member finished" in (run / "report.html").read_text()


def test_a_mistyped_metric_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    run = build_run(tmp_path / "wide", complete=False)
    with pytest.raises(UsageError, match="no metric 'test/rolout_rmse'; did you mean 'test/rollout_rmse'"):
        write_report(run, "test/rolout_rmse")
    assert not (run / "report.md").exists()


def test_without_rollouts_the_test_loss_is_compared(tmp_path: Path) -> None:
    rows = [member("a1", s, **{"test/rollout_rmse": None}) for s in range(3)]
    assert write_report(build_run(tmp_path / "wide", rows, complete=False), figures=False).metric == "test/loss"


def test_the_horizon_of_the_test_is_told_where_it_is_another(tmp_path: Path) -> None:
    longer = EXPERIMENT.replace("{horizon: 10}", "{horizon: 10, test_horizon: 25}")
    run = build_run(tmp_path / "wide", experiment=longer, complete=False)
    assert "on the test split over 25 steps" in " ".join(write_report(run, figures=False).reading)
    assert "on the validation split over 10 steps" in " ".join(
        write_report(run, "validation/rollout_rmse", figures=False).reading
    )


def test_the_split_and_the_notices_of_the_data_are_told_as_the_run_noted_them(tmp_path: Path) -> None:
    run = build_run(tmp_path / "wide", complete=False)
    (run / "data.json").write_text('{"split": "blocks of time", "notices": ["states: float64 read as float32"]}')
    write_report(run, figures=False)
    text = (run / "report.md").read_text()
    assert "- split: blocks of time" in text
    assert "- notice: states: float64 read as float32" in text


def test_a_tracker_that_failed_while_members_trained_is_a_notice_of_the_run(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", two_configurations())
    for name, text in (
        ("a-s0", '{"lost": {"mlflow": "mlflow is not opened: no route"}}'),
        ("a-s1", "{"),
        ("a-s2", '{"lost": 3}'),
    ):
        (run / "members" / name).mkdir(parents=True, exist_ok=True)
        (run / "members" / name / "tracking.json").write_text(text)
    write_report(run, figures=False)
    text = (run / "report.md").read_text()
    assert "- notice: mlflow failed in 1 member, first in a-s0: mlflow is not opened: no route" in text


def test_baselines_stand_beneath_with_how_many_times_the_ensemble_is_better(tmp_path: Path) -> None:
    rows = [member("a1", s, **{"test/rollout_rmse": 0.1}) for s in range(3)]
    report = write_report(build_run(tmp_path / "wide", rows), figures=False)
    beneath = [(row["label"], row["x_better"]) for row in report.table.rows[1:]]
    assert beneath == [("linear least squares", pytest.approx(1.62)), ("no change", pytest.approx(9.1))]
    assert "| no change | - | 0.9100 |" in (report.run.path / "report.md").read_text()


def test_roles_are_told_apart_and_fresh_seeds_come_first(tmp_path: Path) -> None:
    rows = [member("a1", s, role="search", **{"model.n_embd": 8}) for s in range(3)]
    rows += [member("a1", s, role="finalist", error_level=0.3, **{"model.n_embd": 8}) for s in range(100, 103)]
    rows += [member("b2", s, role="search", error_level=0.01, **{"model.n_embd": 16}) for s in range(3)]
    report = write_report(build_run(tmp_path / "wide", rows, complete=False), figures=False)
    assert [row["role"] for row in report.table.rows] == ["finalist", "search", "search"]
    assert "role" in [column.header for column in report.table.columns]


def test_several_runs_are_joined_into_one_table_best_first(tmp_path: Path) -> None:
    good = build_run(tmp_path / "good", [member("a1", s, error_level=0.01) for s in range(3)], renamed("good"))
    poor = build_run(tmp_path / "poor", two_configurations(), renamed("poor"))
    text = printed([poor, good])
    joint = text[text.index("all 2 runs") :]
    assert joint.index("good") < joint.index("poor: n_embd=192") < joint.index("poor: n_embd=384")
    reports = [write_report(run, figures=False) for run in (poor, good)]
    assert len(joint_table(reports).rows) == sum(len(report.table.rows) for report in reports)


def renamed(name: str) -> str:
    return EXPERIMENT.replace("experiment: wide", f"experiment: {name}")


def test_runs_on_different_data_are_said_not_to_compare(tmp_path: Path) -> None:
    runs = [
        build_run(tmp_path / name, [member("a1", s, data_fingerprint=name) for s in range(2)], renamed(name), False)
        for name in ("one", "two")
    ]
    assert "different data" in printed(runs)


def test_the_csv_keeps_every_digit_and_leaves_empty_what_is_unknown(tmp_path: Path) -> None:
    report = write_report(build_run(tmp_path / "wide"), figures=False)
    lines = list(csv.DictReader(io.StringIO((report.run.path / "report.csv").read_text())))
    assert float(lines[0]["mean"]) == report.table.rows[0]["statistics"].mean
    assert lines[0]["model.n_embd"] == "192"
    assert lines[-1]["std"] == ""


def test_text_from_a_run_cannot_break_out_of_a_table_or_the_page(tmp_path: Path) -> None:
    rows = [member(h, 0, **{"model.note": note}) for h, note in (("a1", "a|b"), ("b2", "<script>alert(1)</script>"))]
    rows[0] |= {"status": "failed", "error": "[red]x[/red] <b>"}
    run = build_run(tmp_path / "wide", rows, complete=False)
    assert "[red]x[/red] <b>" in printed([run])
    write_report(run, figures=False)
    assert "<script>alert" not in (run / "report.html").read_text()
    assert "note=a\\|b" in (run / "report.md").read_text()


@pytest.mark.parametrize("options", [{"metric": "test/loss"}, {"figures": False}, {"beside": True}])
def test_a_look_at_a_run_takes_nothing_of_its_page_away(tmp_path: Path, options: dict[str, Any]) -> None:
    run, other = build_run(tmp_path / "wide"), build_run(tmp_path / "other", complete=False)
    console = Console(file=io.StringIO(), width=200)
    show([run], console)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert run / "report.html" in before
    assert run / "figures" / "curves.png" in before
    runs = [run, other] if options.pop("beside", False) else [run]
    show(runs, console, **options)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert not (other / "report.html").exists()
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"report: printed only; {run / 'report.html'} stays as it is" in printed


def test_a_run_of_somebody_else_is_printed_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, console = build_run(tmp_path / "theirs"), Console(file=io.StringIO(), width=200)
    monkeypatch.setattr("os.access", lambda path, mode: not (Path(path) == run and mode == os.W_OK))  # root may all
    show([run], console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"report: printed only; {run} is read-only" in printed
    assert "theirs" in printed
    assert not (run / "report.html").exists()


QUESTION = """\
# yaml-language-server: $schema=schema.json
# Question: does a wider network predict the double pendulum better, and
#           would anybody notice?
# Or is it the seeds?
# Command:  ensemble train --config wide.yaml
# Cost:     an hour
#           (`ensemble plan wide`).
#
# Written on a train; the answer is
# awaited. Not by all.
# ensemble train --config wide.yaml
"""
PARAGRAPHS = (
    "Question: does a wider network predict the double pendulum better, and would anybody notice? Or is it the seeds?",
    "Command: ensemble train --config wide.yaml",
    "Cost: an hour (`ensemble plan wide`).",
    "",
    "Written on a train; the answer is awaited. Not by all.",
    "ensemble train --config wide.yaml",
)


def test_the_lines_of_a_question_flow_as_paragraphs(tmp_path: Path) -> None:
    run = build_run(tmp_path / "wide", complete=False)
    file = run / "experiment.yaml"
    body = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    file.write_text(QUESTION + "\n".join(body))
    write_report(run, figures=False)
    shown = "\n".join(PARAGRAPHS)
    assert f'<p class="question">{shown}</p>' in (run / "report.html").read_text()
    quoted = "".join(f"> {line}  \n" if line else ">\n" for line in PARAGRAPHS)
    assert quoted in (run / "report.md").read_text()


def test_a_narrow_terminal_leaves_out_columns_and_says_so(tmp_path: Path) -> None:
    text = printed([build_run(tmp_path / "wide")], width=80)
    assert "in report.csv: " in text
    assert "0.123 ± 0.011" in text
    assert all(len(line) <= 80 for line in text.splitlines() if "log:" not in line and "report:" not in line)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120])
def test_a_terminal_of_any_width_says_which_row_is_which(tmp_path: Path, width: int) -> None:
    shown = printed([build_run(tmp_path / "wide")], width)
    table = shown.partition("seed 2 diverged")[0].splitlines()
    assert all(len(line) <= width for line in table)
    for words in (("n_embd=192", "0.123 ± 0.011"), ("n_embd=384", "0.0814 ± 0.0024"), ("no change", "0.9100")):
        assert any(all(word in line for word in words) for line in table), shown
    assert any("[0.095, 0.151] t" in line for line in table) == (width >= 80)


def test_the_unit_of_a_metric_is_printed(tmp_path: Path) -> None:
    text = printed([build_run(tmp_path / "wide")], metric="test/rollout_rmse/q0 [rad]")
    assert "wide, by test/rollout_rmse/q0 [rad]" in text


def test_a_further_column_is_one_tuple(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build_run(tmp_path / "wide", complete=False)
    assert "| width |" not in write_report(run, figures=False).run.path.joinpath("report.md").read_text()
    monkeypatch.setattr("ensemble.reporting.results.COLUMNS", (*COLUMNS, Column("width", "model.n_embd", str)))
    report = write_report(run, figures=False)
    assert [cells[-1] for cells in report.table.cells(report.table.rows)] == ["192", "384"]
    assert "| width |" in (run / "report.md").read_text()


def test_names_of_hyperparameters_are_as_short_as_they_may_be() -> None:
    keys = ("train.optimizer.lr", "model.inputs.a.lr", "train.optimizer.name", "model.family", "model.n_embd")
    assert list(short_names(keys).values()) == ["optimizer.lr", "a.lr", "optimizer", "model", "n_embd"]


@pytest.mark.parametrize("name", ["members.parquet", "curves.parquet", "baselines.parquet", "planned.parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    run = build_run(tmp_path / "wide")
    (run / name).write_bytes(b"PAR1 torn")
    with pytest.raises(StorageError, match=name):
        write_report(run)


def test_a_column_that_is_missing_or_of_another_kind_is_named(tmp_path: Path) -> None:
    run = build_run(tmp_path / "wide", complete=False)
    table = pq.read_table(run / "members.parquet")
    pq.write_table(table.drop_columns(["status"]), run / "members.parquet")
    with pytest.raises(StorageError, match=r"members\.parquet lacks the column 'status'"):
        write_report(run)
    texts = table.set_column(table.schema.get_field_index("test/loss"), "test/loss", pa.array(["x"] * len(table)))
    pq.write_table(texts, run / "members.parquet")
    with pytest.raises(StorageError, match=r"members\.parquet: column 'test/loss' is string"):
        write_report(run)


def test_a_member_that_stands_twice_is_refused_rather_than_counted_twice(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="two rows of member a1-s0"):
        write_report(build_run(tmp_path / "wide", [member("a1", 0), member("a1", 0)], complete=False))


def test_what_is_no_run_directory_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    build_run(tmp_path / "pendulum", complete=False)
    with pytest.raises(UsageError, match=r"no run directory .*pendulm; did you mean '.*pendulum'\?"):
        write_report(tmp_path / "pendulm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"it has no experiment\.yaml"):
        write_report(tmp_path / "empty")
    (tmp_path / "pendulum" / "members.parquet").unlink()
    with pytest.raises(UsageError, match="no member of this run has ended yet"):
        write_report(tmp_path / "pendulum")


def test_members_of_an_interrupted_run_are_collected_from_their_own_rows(tmp_path: Path) -> None:
    run = build_run(tmp_path / "wide", complete=False)
    for row in two_configurations():
        folder = run / "members" / f"{row['config_hash']}-s{row['seed']}"
        folder.mkdir(parents=True)
        write_members(folder, [row])
        (folder / "members.parquet").rename(folder / "member.parquet")
    (run / "members.parquet").unlink()
    assert labels(write_report(run, figures=False)) == ["n_embd=192", "n_embd=384"]


def test_tables_need_neither_torch_nor_ray_nor_matplotlib(tmp_path: Path) -> None:
    run = build_run(tmp_path / "wide")
    code = (
        "import sys; from pathlib import Path; from ensemble.reporting.report import write_report;"
        "write_report(Path(sys.argv[1]), figures=False);"
        "print([m for m in ('torch', 'ray', 'h5py', 'optuna', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_column_is_documented_on_the_page_of_results() -> None:
    from ensemble.reporting.run import BASELINE_COLUMNS, PLANNED_COLUMNS, ROLLOUT_COLUMNS

    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    parts = text.split("\n## ")
    chapters = {name: next(part for part in parts if name in part.splitlines()[0]) for name in CHAPTERS}
    schemas = (MEMBER_COLUMNS, CURVE_COLUMNS, SUMMARY_COLUMNS, BASELINE_COLUMNS, PLANNED_COLUMNS, ROLLOUT_COLUMNS)
    for chapter, schema in zip(CHAPTERS, schemas, strict=True):
        assert chapter in chapters[chapter].splitlines()[0]
        cells = [line.split("|")[1] for line in chapters[chapter].splitlines() if line.startswith("| `")]
        assert [name for name in schema.names if not any(f"`{name}`" in cell for cell in cells)] == []


CHAPTERS = (
    "members.parquet",
    "curves.parquet",
    "summary.parquet",
    "baselines.parquet",
    "planned.parquet",
    "rollouts.parquet",
)
