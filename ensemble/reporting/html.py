"""The report as one page: `report.html` opens by double click and loads nothing from anywhere."""

import base64
from html import escape
from pathlib import Path

from ensemble.errors import StorageError
from ensemble.reporting.contents import Failure, Picture, Report
from ensemble.reporting.digits import plus_minus
from ensemble.reporting.statistics import Statistics
from ensemble.reporting.tables import Column, Row

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7c; --line: #dfe4ea; --paper: #fff; --accent: #0072b2;
  --wash: #f4f7fa; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa7b6; --line: #323b46; --paper: #14181d;
  --accent: #56b4e9; --wash: #1d232a; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink);
  background: var(--paper); max-width: 1240px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; }
.question { color: var(--soft); white-space: pre-line; max-width: 75ch; margin: 0; }
.lead { font-size: 1.15rem; margin: 1.4rem 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .5rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
th { color: var(--soft); font-weight: 600; }
th button { all: unset; cursor: pointer; }
th button:hover, th button:focus-visible { color: var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tbody tr:hover { background: var(--wash); }
tr.best td { font-weight: 600; }
tr.best td:first-child { box-shadow: inset 3px 0 var(--accent); }
tr.baseline td { color: var(--soft); font-style: italic; }
.bad { color: var(--bad); }
ul { padding-left: 1.2rem; max-width: 85ch; } li { margin: .25rem 0; }
.reading { color: var(--soft); font-size: .93rem; }
figure { margin: 2.2rem 0; }
figure img { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
figcaption { color: var(--soft); font-size: .93rem; margin-top: .5rem; max-width: 85ch; }
figcaption b { color: var(--ink); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem; font-size: .93rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; }
"""

_SORT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0], i = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = row => row.cells[i].dataset.sort;
  const order = (a, b) => {
    const x = value(a), y = value(b);
    if (x === "" || y === "") return (x === "") - (y === "");
    const d = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return up ? d : -d;
  };
  body.append(...[...body.rows].sort(order));
};
"""


def render_html(report: Report) -> str:
    """Return `report.html`; StorageError where a figure cannot be read back."""
    body = [
        f"<h1>{escape(report.run.name)}</h1>",
        f'<p class="question">{escape(report.run.question)}</p>' if report.run.question else "",
        f'<p class="lead">{_lead(report)}</p>',
        f"<h2>Result by <code>{escape(report.metric)}</code></h2>",
        _table(report),
        _list([*map(_failure, report.failures), *map(escape, report.missing)], ""),
        _list([escape(line) for line in report.reading], "reading"),
        "<h2>Figures</h2>" if report.pictures else "",
        *(_figure(report.run.path, picture) for picture in report.pictures),
        "<h2>Where the numbers come from</h2>",
        "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report.provenance) + "</dl>",
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.run.name)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
    )
    return head + "\n".join(part for part in body if part) + f"\n<script>{_SORT}</script>\n</body></html>\n"


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
