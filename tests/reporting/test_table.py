"""The one table of every report, and its renderers: what is shown, folded, sorted, broken into lines and left out."""

import csv
import io
import math

import numpy as np
import pytest
from rich.console import Console

from ensemble.reporting.render.csv import render_csv
from ensemble.reporting.render.templates import escape_cell, escape_latex, escape_markdown, markdown_table
from ensemble.reporting.render.terminal import fit_columns, render_table
from ensemble.reporting.statistics import describe
from ensemble.reporting.table import Column, Table, filled_columns, interval_text, lower_bound, spread_text

COLUMNS = (
    Column("configuration", "label", str, "left", lines=3),
    Column("mean ± std", "statistics", spread_text),
    Column("95 % interval", "statistics", interval_text, priority=2, sort=lower_bound),
    Column("best seed", "seed", priority=1),
)
FOUND = describe(np.array([0.1, 0.2, 0.3]))
ROWS = (
    {"label": "lr=1e-3, n_embd=192, optimizer=adamw", "statistics": FOUND, "seed": 2, "highlight": True},
    {"label": "lr=2e-3, n_embd=64, optimizer=adam", "statistics": FOUND, "seed": None},
    {"label": "mean", "statistics": FOUND, "kind": "baseline"},
)
TABLE = Table("result", "wide [rad]", COLUMNS, ROWS, ("A | note.",), most=1)


def printed(table: Table, width: int, most: int = 30) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_table(table, table.title, width, "report.csv", most))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_rows_beyond_the_first_are_folded_and_baselines_never() -> None:
    assert [row["label"][:4] for row in TABLE.shown] == ["lr=1", "mean"]
    assert [row["label"][:4] for row in TABLE.rest] == ["lr=2"]
    assert TABLE.highlighted is ROWS[0]


def test_a_cell_sorts_by_what_it_shows_and_an_empty_one_last() -> None:
    keys = [column.sort_key(ROWS[0]) for column in COLUMNS]
    assert keys == ["lr=1e-3, n_embd=192, optimizer=adamw", str(FOUND.mean), str(FOUND.ci_low), "2"]
    assert COLUMNS[3].sort_key(ROWS[1]) == ""
    assert Column("x", "x").sort_key({"x": math.nan}) == ""
    assert Column("n", "n").sort_key({"n": (2, 3)}) == "2"


def test_columns_without_any_value_are_left_out_unless_they_are_kept() -> None:
    empty = ({"label": "a", "seed": None},)
    assert [column.key for column in filled_columns(COLUMNS, empty)] == ["label"]
    assert [column.key for column in filled_columns(COLUMNS, empty, keep={"seed"})] == ["label", "seed"]


def test_a_narrow_terminal_drops_columns_by_priority_before_it_shortens_names() -> None:
    dropped = [len(COLUMNS) - len(fit_columns(TABLE, ROWS, width)) for width in (100, 60, 45, 10)]
    assert dropped[0] == 0
    assert dropped == sorted(dropped)
    assert [column.header for column in fit_columns(TABLE, ROWS, 10)] == ["configuration", "mean ± std"]
    wide = fit_columns(TABLE, ROWS, 100)
    assert wide[COLUMNS[0]] == len(ROWS[0]["label"])  # room that is left goes to the name


@pytest.mark.parametrize("width", [40, 50, 70, 120])
def test_a_terminal_says_what_had_no_room_and_breaks_between_words(width: int) -> None:
    text = printed(TABLE, width, most=1)
    assert "wide [rad]" in text
    assert all(len(line) <= width for line in text.splitlines())
    caption = " ".join(text[text.index("in report.csv: ") :].split())
    shown = text[: text.index("in report.csv: ")]
    assert "1 more configuration" in caption
    assert ("best seed" in caption) == (width < 70)
    assert "optimizer=adamw" in shown
    assert "lr=2e-3" not in shown


def test_a_header_wider_than_its_cells_is_broken_before_its_last_word() -> None:
    head = [line.split() for line in printed(TABLE, 120).splitlines()[1:4]]
    assert ["best"] in head  # above `seed`
    assert any("interval" in line and "mean" in line for line in head)  # its cells are as wide


def test_markdown_aligns_text_left_and_numbers_right_and_escapes_pipes() -> None:
    lines = markdown_table(TABLE).splitlines()
    assert lines[:2] == [
        "| configuration | mean ± std | 95 % interval | best seed |",
        "| :-- | --: | --: | --: |",
    ]
    assert "A \\| note." in lines
    assert ".. and 1 more in `report.csv` and on the page." in lines


def test_names_are_escaped_for_their_format() -> None:
    assert escape_markdown("a <b>\nc < d") == "a \\<b> c < d"
    assert escape_cell("a\\|b") == "a\\\\\\|b"
    assert escape_latex("a_b & 50 % ± {x}\\") == r"a\_b \& 50 \% $\pm$ \{x\}\textbackslash{}"


def test_csv_keeps_every_digit_and_leaves_empty_what_is_unknown() -> None:
    third = 1 / 3
    text = render_csv(("a", "b", "c"), [{"a": third, "b": None}, {"a": math.nan, "b": 'x,"y"', "further": 1}])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert float(rows[0]["a"]) == third
    assert (rows[0]["b"], rows[0]["c"], rows[1]["a"], rows[1]["b"]) == ("", "", "", 'x,"y"')
