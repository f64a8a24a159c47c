"""The report as one page: `report.html` opens by double click and loads nothing from anywhere."""

import base64
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from ensemble.errors import StorageError
from ensemble.reporting.contents import Failure, Picture, Report
from ensemble.reporting.findings import Findings
from ensemble.reporting.number_format import plus_minus
from ensemble.reporting.render.page_style import SEARCH_STYLE, SORT, STYLE
from ensemble.reporting.sheets import Sheet, sort_value
from ensemble.reporting.statistics import Statistics
from ensemble.reporting.tables import Column, Row

_FEW = 10  # lost members that are listed at once


def render_html(report: Report) -> str:
    """Return `report.html`; StorageError where a figure cannot be read back."""
    found = report.findings
    body = [
        f"<h1>{escape(report.run.name)}</h1>",
        f'<p class="question">{escape(report.run.question)}</p>' if report.run.question else "",
        *(_result(report) if found is None else _answer(found)),
        *_lost(report),
        _list([escape(line) for line in report.reading], "reading"),
        "<h2>Figures</h2>" if report.pictures else "",
        *_figures(report),
        *(_sheet(sheet) for sheet in (found.accounts if found else ())),
        *(("<h2>How the search went</h2>", _facts(found.facts)) if found else ()),
        "<h2>Where the numbers come from</h2>",
        _facts(report.provenance),
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.run.name)}</title>\n"
        f"<style>{STYLE}{SEARCH_STYLE if found else ''}</style></head>\n<body>\n"
    )
    return head + "\n".join(part for part in body if part) + f"\n<script>{SORT}</script>\n</body></html>\n"


def _result(report: Report) -> tuple[str, ...]:
    return (
        f'<p class="lead">{_lead(report)}</p>',
        f"<h2>Result by <code>{escape(report.metric)}</code></h2>",
        _table(report),
    )


def _answer(found: Findings) -> tuple[str, ...]:
    """Say what a search found, then the sheets that say it in numbers."""
    first, *others = (re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(line)) for line in found.answer)
    sheets = (_sheet(sheet) for sheet in (found.leaderboard, *found.sheets))
    return f'<p class="lead">{first}</p>', *(f'<p class="answer">{line}</p>' for line in others), *sheets


def _sheet(sheet: Sheet) -> str:
    rest = {id(row) for row in sheet.rest}
    head = "".join(
        f'<th scope="col"><button type="button">{escape(c.header)}</button></th>' for c in sheet.visible_columns
    )
    lines = []
    for row, cells in zip(sheet.rows, sheet.texts(sheet.rows), strict=True):
        kind = "more" if id(row) in rest else row.get("kind", "configuration")
        cells[0] = ", ".join(f"<span>{escape(part)}</span>" for part in cells[0].split(", "))  # broken at commas only
        cells[1:] = map(escape, cells[1:])
        inner = "".join(
            f'<td data-sort="{escape(sort_value(row.get(column.key)))}">{cell}</td>'
            for column, cell in zip(sheet.visible_columns, cells, strict=True)
        )
        lines.append(f'<tr class="{kind}">{inner}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table>"
    fold = f'<label class="fold"><input type="checkbox">show {len(rest)} more</label>' if rest else ""
    notes = "".join(f'<p class="reading">{escape(note)}</p>' for note in sheet.notes)
    body = f'{fold}<div class="scroll sheet">{table}</div>{notes}'
    title = escape(sheet.title)
    return f"<details><summary>{title}</summary>{body}</details>" if sheet.folded else f"<h2>{title}</h2>{body}"


def _lost(report: Report) -> tuple[str, ...]:
    """List the members that did not finish; those of a search, which may be many, are folded."""
    items = [*map(_failure, report.failures), *map(escape, report.missing)]
    if report.findings is None or len(items) <= _FEW:
        return (_list(items, ""),)
    return (
        f"<details><summary>{len(items)} members or seeds that did not finish</summary>{_list(items, '')}</details>",
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts) + "</dl>"


def _figures(report: Report) -> tuple[str, ...]:
    """Lay out the pictures, narrow ones side by side."""
    wide = [_figure(report.run.path, picture) for picture in report.pictures if not picture.half]
    narrow = [_figure(report.run.path, picture) for picture in report.pictures if picture.half]
    return (*wide, f'<div class="halves">{"".join(narrow)}</div>') if narrow else tuple(wide)


def _lead(report: Report) -> str:
    """Say the answer in one sentence."""
    best = report.table.best
    if best is None:
        return '<span class="bad">No member finished.</span>'
    one = sum(row["kind"] == "configuration" for row in report.table.rows) == 1
    name = "" if one else f"Best: <b>{escape(best['label'])}</b>, "
    n, value = best["statistics"].n, plus_minus(best["statistics"].mean, best["statistics"].std)
    return f"{name}<b>{escape(value)}</b> over {n} seed{'s' if n > 1 else ''}."


def _table(report: Report) -> str:
    columns = report.table.columns
    head = "".join(f'<th scope="col"><button type="button">{escape(c.header)}</button></th>' for c in columns)
    rows = []
    for row, cells in zip(report.table.rows, report.table.cells(), strict=True):
        kind = "best" if row is report.table.best else row["kind"]
        inner = "".join(
            f'<td data-sort="{escape(_sort_key(row, column))}">{escape(cell)}</td>'
            for column, cell in zip(columns, cells, strict=True)
        )
        rows.append(f'<tr class="{kind}">{inner}</tr>')
    lines = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def _sort_key(row: Row, column: Column) -> str:
    """Return what a cell sorts by; empty sorts last."""
    value = row.get(column.key)
    if isinstance(value, Statistics):
        value = value.mean if column.header.startswith("mean") else value.ci_low
    if column.key == "n":
        value = row.get("n_ok")
    return "" if value is None or value != value else str(value)


def _failure(failure: Failure) -> str:
    error = escape(failure.error.splitlines()[0])
    log = escape(failure.log.as_posix())
    who = escape(f"{failure.label}, seed {failure.seed} {failure.status}")
    return f'<span class="bad">{who}</span>: {error} (<a href="{log}">log</a>)'


def _list(items: list[str], kind: str) -> str:
    return f'<ul class="{kind}">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>" if items else ""


def _figure(run: Path, picture: Picture) -> str:
    try:
        image = base64.b64encode((run / picture.file).read_bytes()).decode("ascii")
    except OSError as error:
        raise StorageError(f"{run / picture.file} cannot be read: {error}") from error
    title, caption = escape(picture.title), escape(picture.caption)
    return (
        f'<figure><img alt="{title}" src="data:image/png;base64,{image}">'
        f"<figcaption><b>{title}.</b> {caption}</figcaption></figure>"
    )
