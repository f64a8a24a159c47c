"""The parser, the timer and the front of the benchmarks."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.command import Parser, announce, row
from benchmarks.timing import alternate, ratio, spread, take_turns


def parser() -> Parser:
    made = Parser("", quick={"rows": 10})
    made.add_argument("--rows", type=int, default=1000)
    return made


@pytest.mark.parametrize(
    ("words", "rows"), [([], 1000), (["--quick"], 10), (["--quick", "--rows", "3"], 3), (["--rows", "4"], 4)]
)
def test_quick_changes_what_is_not_given(words: list[str], rows: int) -> None:
    assert parser().parse(words).rows == rows


def test_quick_sets_options_that_exist() -> None:
    with pytest.raises(AssertionError, match="missing"):
        Parser("", quick={"missing": 1}).parse([])


def test_the_first_line_says_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    announce(parser().parse([]), "Ten rows", 3)
    announce(parser().parse(["--quick"]), "Ten rows", 3)
    full, quick = capsys.readouterr().out.splitlines()
    assert full == "Ten rows (about 3 min on two quiet cores with the default sizes)"
    assert "--quick: seconds" in quick


def test_a_row_keeps_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    row("a", "1", "22", width=4)
    row("bb", "333", "4", width=4)
    first, second = capsys.readouterr().out.splitlines()
    assert len(first) == len(second)
    assert first.split() == ["a", "1", "22"]


@pytest.mark.parametrize("shuffled", [False, True])
def test_candidates_take_turns_after_the_warm_up(shuffled: bool) -> None:
    seen: list[str] = []
    turns = take_turns({name: lambda name=name: seen.append(name) or name for name in "abc"}, 3, 2, shuffled)  # type: ignore[misc]
    rounds = [seen[start : start + 3] for start in range(0, 15, 3)]
    assert len(seen) == 15
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert (len({tuple(each) for each in rounds}) > 1) == shuffled
    assert {name: [turn.value for turn in each] for name, each in turns.items()} == {n: [n] * 3 for n in "abc"}


def test_each_round_is_printed_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = alternate({"a": lambda: None, "b": lambda: None}, rounds=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0].strip() for line in lines] == ["warm-up", "round 1 of 2", "round 2 of 2"]
    assert all(" a " in line and "; b " in line for line in lines)
    assert [len(each) for each in seconds.values()] == [2, 2]


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio([2.0, 6.0, 8.0], [1.0, 2.0, 2.0]) == "3.00x (2.00 - 4.00)"
    assert spread([1.0, 3.0, 2.0], ".1f", " s") == "2.0 s (1.0 - 3.0)"


def test_an_unknown_name_is_refused_before_anything_runs() -> None:
    with pytest.raises(SystemExit, match="no benchmark 'nothing'; there are conversion, windows"):
        main(["windows", "nothing"])


def test_a_failure_is_named_and_decides_the_exit_code(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks", "windows", "--no-such-option"]
    root = str(Path(__file__).parents[2])
    run = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert run.returncode == 1
    assert "failed: windows" in run.stdout
