"""The tables as LaTeX: `report.tex`, to be read in with \\input; it needs \\usepackage{booktabs} and nothing else."""

from collections.abc import Sequence

from ensemble.reporting.contents import Report
from ensemble.reporting.sheets import Sheet

_SPECIAL = {
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
_HEAD = "% Made by `ensemble report`; needs \\usepackage{booktabs}, and \\usepackage[T1]{fontenc}.\n"


def render_latex(report: Report) -> str:
    """Return `report.tex`: the table of a run, or the sheets of a search."""
    if report.findings is None:
        title = f"{report.run.name}, by {report.metric}"
        headers = [column.header for column in report.table.columns]
        return _HEAD + tabular("result", title, headers, report.table.cells(), report.reading)
    sheets = (report.findings.leaderboard, *report.findings.sheets, *report.findings.accounts)
    return _HEAD + "\n".join(_sheet(sheet) for sheet in sheets if not sheet.folded)


def _sheet(sheet: Sheet) -> str:
    more = (f"{len(sheet.rest)} more in report.csv.",) if sheet.rest else ()
    headers = [column.header for column in sheet.visible_columns]
    return tabular(sheet.key, sheet.title, headers, sheet.texts(sheet.shown), (*more, *sheet.notes))


def tabular(key: str, title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Return a table with booktabs' rules; the first column is broken into lines, the last aligned to the left."""
    sides = "p{5cm}" + "r" * max(len(headers) - 2, 0) + ("l" if len(headers) > 1 else "")
    lines = [" & ".join(map(escape_latex, cells)) + r" \\" for cells in (headers, *rows)]
    body = "\n".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
    beneath = "".join(f"\\par\\smallskip\\footnotesize {escape_latex(note)}\n" for note in notes)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{escape_latex(title)}}}\n\\label{{tab:{key}}}\n"
        f"\\begin{{tabular}}{{{sides}}}\n{body}\n\\end{{tabular}}\n{beneath}\\end{{table}}\n"
    )


def escape_latex(text: str) -> str:
    """Return a text that LaTeX sets as it stands."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
