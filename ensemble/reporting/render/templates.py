"""The report as page, Markdown and LaTeX: one function a format, each with its template `report.*.j2`.

Whatever a template puts out is escaped for its format unless it is `Markup`: a name from a run, be it a tag, a pipe or
a LaTeX command, is shown as it was written. jinja2 is loaded here and nowhere else.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from ensemble.errors import StorageError
from ensemble.reporting.contents import Picture, Report
from ensemble.reporting.table import Table
from ensemble.text import plural

_FEW = 10  # lost members of a search that the page lists at once
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "[": "{[}",  # after a line break it would be read as a length
    "\n": " ",
}
# LaTeX is full of braces; these delimiters do not occur in it.
_LATEX_DELIMITERS: dict[str, Any] = {
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "block_start_string": "<%",
    "block_end_string": "%>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}


def render_html(report: Report) -> str:
    """Return `report.html`, which loads nothing from anywhere; StorageError where a figure cannot be read back."""
    found = report.findings
    return _template("html").render(
        report=report,
        found=found,
        answer=[_bold(line) for line in (found.answer if found else ())],
        fold_lost=found is not None and len(report.failures) + len(report.missing) > _FEW,
        wide=[(picture, _image(report, picture)) for picture in report.pictures if not picture.half],
        narrow=[(picture, _image(report, picture)) for picture in report.pictures if picture.half],
        row_class=_row_class,
    )


def _row_class(table: Table, index: int) -> str:
    """Return the CSS class of a row: how it is folded and set."""
    row = table.rows[index]
    if table.is_folded(index):
        return "more"
    return "best" if row.get("highlight") else str(row.get("kind", "configuration"))


def _bold(line: str) -> Markup:
    """Set `**what Markdown sets bold**` bold; all else is escaped."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(line))))


def _image(report: Report, picture: Picture) -> str:
    """Return a figure as text: the page holds its pictures itself."""
    file: Path = report.run.path / picture.file
    try:
        return base64.b64encode(file.read_bytes()).decode("ascii")
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error}") from error


def render_markdown(report: Report) -> str:
    """Return `report.md`; nothing in it depends on when or where it was made."""
    return _template("md").render(report=report, found=report.findings, markdown_table=markdown_table)


def markdown_table(table: Table) -> Markup:
    """Return the rows that are shown, with how many more there are and where, and the notes."""
    header = [column.header for column in table.columns]
    rule = [":--" if column.align == "left" else "--:" for column in table.columns]
    cells = ([escape_cell(cell) for cell in row] for row in table.cells(table.shown))
    lines = [f"| {' | '.join(line)} |\n" for line in (header, rule, *cells)]
    more = f"\n.. and {len(table.rest)} more in `report.csv` and on the page.\n" if table.rest else ""
    notes = (f"\n{escape_cell(note)}\n" for note in table.notes)
    return Markup("".join([*lines, more, *notes]))


def render_latex(report: Report) -> str:
    """Return `report.tex`, to be read in with \\input: the table of a run, or the tables of a search."""
    if report.findings is None:
        tables = [replace(report.table, notes=report.reading)]
    else:
        tables = [table for table in report.findings.all_tables if not table.folded]
    return _template("tex").render(tables=[(table, Markup(table.key), _alignment(table)) for table in tables])


def _alignment(table: Table) -> Markup:
    """Return the columns of a `tabular`; names that may be long are broken into lines."""
    sides = ("p{5cm}" if column.lines > 1 and not i else column.align[0] for i, column in enumerate(table.columns))
    return Markup("".join(sides))


def escape_latex(text: str) -> str:
    """Return a text that LaTeX sets as it stands."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def escape_markdown(text: str) -> str:
    """Return a text that stays on its line of Markdown and opens no HTML tag."""
    return re.sub(r"<(?=[A-Za-z/!?])", r"\\<", text.replace("\n", " "))


def escape_cell(text: str) -> str:
    """Return a text that cannot break out of a Markdown table."""
    return escape_markdown(text.replace("\\", "\\\\").replace("|", "\\|"))


@cache
def _template(suffix: str) -> Template:
    """Return the template of a format, `html`, `md` or `tex`."""
    environment = Environment(
        loader=PackageLoader("ensemble.reporting", "render"),
        autoescape=suffix == "html",
        finalize=_finalize(suffix),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **(_LATEX_DELIMITERS if suffix == "tex" else {}),
    )
    environment.filters["plural"] = plural
    return environment.get_template(f"report.{suffix}.j2")


def _finalize(suffix: str) -> Callable[[object], object] | None:
    """Return what escapes every expression of a format for which jinja2 itself has no escaping."""
    escapes = {"md": escape_markdown, "tex": escape_latex}
    if suffix not in escapes:
        return None
    return lambda value: value if isinstance(value, Markup) else escapes[suffix](str(value))
