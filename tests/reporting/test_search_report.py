"""The report of a search: its tables, its answer, its ledger, on synthetic run directories."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from scipy import stats
from synthetic_run import SEARCH, build_search, hash_of, search_rows

from ensemble.errors import StorageError
from ensemble.reporting.contents import Report
from ensemble.reporting.leaderboard import non_dominated
from ensemble.reporting.report import show, write_report
from ensemble.reporting.search_report import SearchReport
from ensemble.reporting.table import Table
from ensemble.schema import IMPORTANCE_COLUMNS, RUNG_COLUMNS, TRIAL_COLUMNS

Rows = dict[str, list[dict[str, Any]]]
METRIC = "validation/rollout_rmse"


def report_of(run: Path, **options: Any) -> Report:
    return write_report(run, figures=False, **options)


def findings(run: Path) -> SearchReport:
    found = report_of(run).findings
    assert found is not None
    return found


def table(found: SearchReport, key: str) -> Table:
    return next(each for each in found.all_tables if each.key == key)


def keys(found: SearchReport) -> list[str]:
    return [each.key for each in found.all_tables]


def printed(run: Path, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    show([run], console, figures=False)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def changed(change: Callable[[Rows], None], **options: Any) -> Rows:
    rows = search_rows(**options)
    change(rows)
    return rows


def without_finalists() -> str:
    return SEARCH.replace("finalists: 3", "finalists: 0")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_search(tmp_path_factory.mktemp("search") / "searched", complete=False)


def test_finalists_lead_and_every_configuration_follows(searched: Path) -> None:
    found = findings(searched)
    assert keys(found)[0] == "finalists"
    board = found.leaderboard.rows
    means = [row["statistics"].mean for row in board]
    assert [row["role"] for row in board] == ["finalist"] * 3
    assert means == sorted(means)
    assert all(row["statistics"].n == 10 and row["statistics"].ci_method == "t" for row in board)
    assert len(table(found, "leaderboard").rows) == 24


def test_every_row_counts_how_its_seeds_ended(searched: Path) -> None:
    rows = table(findings(searched), "leaderboard").rows
    for row in rows:
        counted = sum(row[key] for key in ("n_ok", "n_pruned", "n_diverged", "n_failed", "n_missing"))
        assert counted == row["n_planned"] == 3
    assert sum(row["n_pruned"] for row in rows) == 3 * 14
    assert [row["n_diverged"] for row in rows if row["state"] == "diverged"] == [1]
    assert [row["n_failed"] for row in rows if row["state"] == "failed"] == [1]


def test_stopped_configurations_stand_behind_without_a_mean_with_their_step_and_what_they_showed_last(
    searched: Path,
) -> None:
    rows = table(findings(searched), "leaderboard").rows
    states = [row["state"] for row in rows]
    assert states[:8] == ["completed"] * 8
    assert set(states[8:10]) == {"diverged", "failed"}  # their survivors' mean is no mean of the configuration
    stopped = rows[10:]
    assert {row["state"] for row in stopped} == {"pruned"}
    assert [row["stopped_at"] for row in stopped] == [600] * 4 + [200] * 10
    assert all(np.isnan(row["search_statistics"].mean) for row in stopped)
    rungs = pq.read_table(searched / "rungs.parquet").to_pandas()
    last = rungs[(rungs.number == stopped[0]["number"]) & (rungs.step == 600)].value.mean()
    assert stopped[0]["stopped"] == (pytest.approx(last), 600)


def test_a_configuration_that_lost_a_seed_is_never_the_best_however_good_its_survivors(tmp_path: Path) -> None:
    def flatter(rows: Rows) -> None:
        lost = {row["config_hash"] for row in rows["trials"] if row["state"] in ("diverged", "failed")}
        for member in rows["members"]:
            if member["config_hash"] in lost and member["status"] == "completed":
                member[METRIC] = 1e-6

    run = build_search(tmp_path / "s", changed(flatter, finalists=0), False, experiment=without_finalists())
    found = findings(run)
    best = found.leaderboard.rows[0]
    assert best["state"] == "completed"
    assert best["config_hash"] == found.best


def test_a_configuration_without_any_member_still_has_its_row(tmp_path: Path) -> None:
    def begin(rows: Rows) -> None:
        row = dict(rows["trials"][0], number=24, config_hash="ffffffffffff", state="running", value=None)
        rows["trials"].append(row)

    last = table(findings(build_search(tmp_path / "s", changed(begin), False)), "leaderboard").rows[-1]
    assert (last["number"], last["state"], last["n_ok"]) == (24, "running", 0)
    assert last["status_text"] == "no member has ended"


def test_differences_are_paired_by_seed_and_corrected_together(searched: Path) -> None:
    members = pq.read_table(searched / "members.parquet").to_pandas()
    fresh = members[members.role == "finalist"].pivot_table(
        index="seed", columns="config_hash", values="test/rollout_rmse"
    )
    lines = list(csv.DictReader(io.StringIO((searched / "comparisons.csv").read_text())))
    found = [line for line in lines if line["role"] == "finalist" and line["reference_is"] == "best"]
    assert len(found) == 2
    raw = []
    for line in found:
        expected = stats.ttest_rel(fresh[line["config_hash"]], fresh[line["reference_hash"]])
        assert float(line["p"]) == pytest.approx(expected.pvalue)
        assert int(line["pairs"]) == 10
        interval = expected.confidence_interval()
        assert (float(line["ci_low"]), float(line["ci_high"])) == pytest.approx((interval.low, interval.high))
        raw.append(expected.pvalue)
    assert float(found[int(np.argmin(raw))]["p_holm"]) == pytest.approx(2 * min(raw))


def test_the_baseline_is_the_first_trial_and_is_named_with_the_reason(tmp_path: Path) -> None:
    def complete_the_first(rows: Rows) -> None:
        best = rows["finalists"][0]["hash"]
        first, best_trial = rows["trials"][0], next(t for t in rows["trials"] if t["config_hash"] == best)
        first["number"], best_trial["number"] = best_trial["number"], 0
        other = next(t for t in rows["trials"] if t["state"] == "completed" and t["config_hash"] != best)
        other["number"], best_trial["number"] = 0, other["number"]

    run = build_search(tmp_path / "s", changed(complete_the_first), False)
    text = " ".join(findings(run).answer)
    assert "Against the baseline configuration, #0 (the first that was suggested): better by" in text
    given = SEARCH.replace("  trials: 24", "  trials: 24\n  points: [{model.n_embd: 32}]")
    text = " ".join(findings(build_search(tmp_path / "t", changed(complete_the_first), False, experiment=given)).answer)
    assert "#0 (the first of search.points)" in text


def test_a_baseline_that_was_stopped_is_said_to_be_no_comparison(searched: Path) -> None:
    text = " ".join(findings(searched).answer)
    assert "The baseline configuration, #0 (the first that was suggested), was stopped at step 200" in text


def test_the_answer_says_how_many_seeds_would_separate_two_that_are_alike(tmp_path: Path) -> None:
    def draw_level(rows: Rows) -> None:
        fresh = [member for member in rows["members"] if member["role"] == "finalist"]
        for i, member in enumerate(fresh):
            luck = np.random.default_rng(i).normal(0, 0.01)
            member["test/rollout_rmse"] = 0.1 + luck + 0.001 * (i // 10)

    text = " ".join(findings(build_search(tmp_path / "s", changed(draw_level), False)).answer)
    assert "**The two are not separated**" in text
    assert re.search(r"(about \d{2,}|more than 1000) paired seeds are needed to tell them apart", text)


def test_both_scores_and_the_optimism_of_each_finalist_are_shown(searched: Path) -> None:
    members = pq.read_table(searched / "members.parquet").to_pandas()
    means = members[members.status == "completed"].groupby(["role", "config_hash"])[METRIC].mean()
    report = report_of(searched)
    assert report.findings is not None
    rows = table(report.findings, "optimism").rows
    assert len(rows) == 3
    board = [row["config_hash"] for row in report.findings.leaderboard.rows]
    for row, config_hash in zip(rows, board, strict=True):
        old, new = means["search", config_hash], means["finalist", config_hash]
        assert (row["search"].mean, row["fresh"].mean) == pytest.approx((old, new))
        assert row["difference"] == pytest.approx(old - new)
        assert (row["n_search"], row["n_fresh"]) == ((3, 3), (10, 10))
    assert "optimism" in printed(searched)


def test_without_finalists_the_configurations_lead_and_the_flattery_is_told(tmp_path: Path) -> None:
    run = build_search(tmp_path / "s", search_rows(finalists=0), False, experiment=without_finalists())
    found = findings(run)
    assert keys(found)[0] == "leaderboard"
    assert "optimism" not in keys(found)
    assert "No finalist was trained on fresh seeds" in found.answer[-1]
    text = printed(run)
    assert "14 more configurations" in text
    assert "ledger: " in text


def test_the_ledger_adds_up_to_all_member_steps_and_seconds(searched: Path) -> None:
    members = pq.read_table(searched / "members.parquet").to_pandas()
    rows = {row["phase"]: row for row in table(findings(searched), "ledger").rows}
    assert rows["all"]["steps"] == members.steps.sum() == rows["search"]["steps"] + rows["finalists"]["steps"]
    assert rows["all"]["hours"] == pytest.approx(members.seconds.sum())
    pruned = members[members.status == "pruned"]
    assert rows["search"]["stopped early steps"] == (pruned.steps.sum(), rows["search"]["steps"])
    kinds = [sum(rows["all"][f"{kind} steps"][0] for kind in ("useful", "stopped early", "failed"))]
    assert kinds == [rows["all"]["steps"]]


def test_several_objectives_give_the_pareto_front(tmp_path: Path) -> None:
    def add_size(rows: Rows) -> None:
        for row in rows["trials"]:
            if row["state"] == "completed":
                row["objectives"] = f'{{"{METRIC}": {row["value"]}, "parameters": {1000 + 10 * row["number"]}}}'

    run = build_search(tmp_path / "s", changed(add_size), False, also={"parameters": "min"})
    found = findings(run)
    done = [(row["number"], row["value"]) for row in search_rows()["trials"] if row["state"] == "completed"]
    front = {n for n, v in done if not any(m <= n and w <= v and (m, w) != (n, v) for m, w in done)}
    shown = [int(row["label"].partition(" ")[0][1:]) for row in table(found, "pareto").rows]
    assert set(shown) == front
    assert 1 < len(front) < 8
    marked = {row["number"] for row in table(found, "leaderboard").rows if row["on_front"]}
    assert marked == front


def test_a_row_is_on_the_front_unless_another_is_as_good_everywhere_and_better_somewhere() -> None:
    values = np.array([[1.0, 5.0], [2.0, 6.0], [2.0, 6.0], [3.0, 6.0], [0.5, 1.0]])
    assert non_dominated(values, ("min", "max")).tolist() == [True, True, True, False, True]
    assert non_dominated(values, ("min", "min")).tolist() == [False, False, False, False, True]


def test_the_csv_names_every_configuration_in_every_role_with_its_counts(searched: Path) -> None:
    report_of(searched)
    lines = list(csv.DictReader(io.StringIO((searched / "report.csv").read_text())))
    assert len(lines) == 24 + 3
    assert {line["config_hash"] for line in lines} == {hash_of(number) for number in range(24)}
    stopped = [line for line in lines if line["state"] == "pruned"]
    assert len(stopped) == 14
    assert all(line["n_pruned"] == "3" and line["stopped_at"] in ("200", "600") for line in stopped)


def test_the_page_folds_what_is_long_and_hides_nothing(searched: Path) -> None:
    report_of(searched)
    page = (searched / "report.html").read_text()
    assert '<p class="lead">Best: <b>#22 ' in page
    assert page.count('<tr class="best">') == 2  # of the finalists, and of all configurations
    assert page.count('<tr class="more">') == 4
    assert "show 4 more" in page
    for number in range(24):
        assert f"#{number} n_embd=" in page
    assert "http://" not in page
    assert "https://" not in page
    assert ".. and 4 more in `report.csv`" in (searched / "report.md").read_text()


def test_the_report_of_a_search_made_twice_is_the_same_to_the_byte(tmp_path: Path) -> None:
    run = build_search(tmp_path / "s")
    write_report(run)
    made = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    assert {"report.tex", "comparisons.csv", "report.html", "report.md", "report.csv"} <= {p.name for p in made}
    write_report(run)
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == made


def test_latex_sets_what_was_written(searched: Path) -> None:
    report_of(searched)
    text = (searched / "report.tex").read_text()
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}")
    assert all(re.search(r"(?<!\\)[_#%^~<>|±]", line) is None for line in body)


def test_a_narrow_terminal_keeps_the_mean_and_breaks_the_settings(searched: Path) -> None:
    text = printed(searched, width=80)
    assert "0.0867 ± 0.0050" in text
    assert all(len(line) <= 80 for line in text.splitlines() if "log:" not in line and "report:" not in line)


@pytest.mark.parametrize("width", [40, 60, 100])
def test_a_terminal_of_any_width_shows_number_mean_and_settings(searched: Path, width: int) -> None:
    table = printed(searched, width).partition("Best: ")[0].splitlines()
    assert all(len(line) <= width for line in table)
    (best,) = (line for line in table if "0.0867 ± 0.0050" in line)
    assert best.split()[0] == "#22"
    assert "n_embd=128" in best


def test_names_from_a_search_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    note = {"model.note": '</td><script>alert("1")</script>|x\n# y \\input{z}', "model.none": None}

    def rename(rows: Rows) -> None:
        for row in rows["trials"]:
            row["parameters"] = json.dumps(note)

    run = build_search(tmp_path / "s", changed(rename), False)
    report_of(run)
    page, markdown, latex = ((run / f"report.{suffix}").read_text() for suffix in ("html", "md", "tex"))
    assert "<script>alert" not in page
    assert page.count("</script>") == 1  # our own
    assert re.search(r"(?<!\\)</?(td|script)", markdown) is None
    assert "\\</script>\\|x # y \\\\input{z}, none=null |" in markdown
    assert "\\input{" not in latex.replace("\\textbackslash{}", "")
    assert r"\textless{}/script\textgreater{}\textbar{}x \# y \textbackslash{}input\{z\}, none=null" in latex


def test_a_search_that_never_finished_anything_still_has_a_report(tmp_path: Path) -> None:
    def fail(rows: Rows) -> None:
        for member in rows["members"]:
            member |= {"status": "failed", METRIC: None, "test/rollout_rmse": None}
        for row in rows["trials"]:
            row |= {"state": "failed", "value": None, "objectives": "{}"}
        rows["rungs"].clear()
        rows["importances"].clear()

    found = report_of(build_search(tmp_path / "s", changed(fail, finalists=0), False)).findings
    assert found is not None
    assert found.answer == ("**No configuration finished.**",)
    assert "importances" not in keys(found)


@pytest.mark.parametrize("name", ["trials.parquet", "rungs.parquet", "importances.parquet", "search.json"])
def test_a_damaged_file_of_the_search_is_named(tmp_path: Path, name: str) -> None:
    run = build_search(tmp_path / "s", complete=False)
    (run / name).write_bytes(b"PAR1 torn")
    with pytest.raises(StorageError, match=name):
        report_of(run)


def test_a_search_that_was_interrupted_before_its_facts_is_read_by_its_experiment(tmp_path: Path) -> None:
    run = build_search(tmp_path / "s", complete=False)
    for name in ("search.json", "rungs.parquet", "importances.parquet"):
        (run / name).unlink()
    assert keys(findings(run))[0] == "finalists"


def test_the_report_of_a_search_needs_neither_torch_nor_ray_nor_optuna(searched: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ensemble.reporting.report import write_report;"
        "write_report(Path(sys.argv[1]), figures=False);"
        "print([m for m in ('torch', 'ray', 'h5py', 'optuna', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(searched)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("chapter", "columns"),
    [
        ("trials.parquet", TRIAL_COLUMNS.names),
        ("rungs.parquet", RUNG_COLUMNS.names),
        ("importances.parquet", IMPORTANCE_COLUMNS.names),
    ],
)
def test_every_column_of_a_search_is_documented_on_the_page_of_results(chapter: str, columns: list[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    section = next(part for part in text.split("\n## ") if part.startswith(f"`{chapter}`"))
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert [name for name in columns if not any(f"`{name}`" in cell for cell in cells)] == []
