"""How the page looks and how its tables are sorted; everything stands in the page itself."""

STYLE = """
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

SORT = """
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

SEARCH_STYLE = """
.sheet table { font-size: .82rem; }
.sheet th, .sheet td { padding: .35rem .45rem; }
.sheet td:first-child { white-space: normal; min-width: 17rem; line-height: 1.35; }
.sheet td:first-child span { white-space: nowrap; }
.sheet th { white-space: normal; vertical-align: bottom; line-height: 1.25; }
.answer { max-width: 85ch; margin: .5rem 0 0; }
.sheet + .reading { margin-top: .6rem; }
p.reading { max-width: 85ch; margin: .35rem 0; }
.fold { margin: .6rem 0; font-size: .93rem; color: var(--accent); cursor: pointer; }
.fold input { margin-right: .4rem; }
tr.more { display: none; }
.fold:has(:checked) + .scroll tr.more { display: table-row; }
tr.sum td { font-weight: 600; }
details { margin: 2.6rem 0 0; }
summary { font-size: 1.1rem; font-weight: 600; cursor: pointer; margin-bottom: .6rem; }
.halves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem; }
"""
