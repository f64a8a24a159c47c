"""The report as Markdown: `report.md`, readable as text and on any code host."""

from collections.abc import Sequence

from ensemble.reporting.contents import Failure, Report, joined
from ensemble.reporting.findings import Findings
from ensemble.reporting.sheets import Sheet, sheet_markdown
from ensemble.reporting.table_text import to_markdown


def render_markdown(report: Report) -> str:
    """Return `report.md`; nothing in it depends on when or where it was made."""
    found = report.findings
    sections = [
        f"# {report.run.name}\n",
        joined(f"> {line}  " if line else ">" for line in report.run.question.splitlines()),
        *(_result(report) if found is None else _findings(found)),
        "## Members that did not finish\n" if found and (report.failures or report.missing) else "",
        joined(_failure(failure) for failure in report.failures),
        joined(f"- {line}" for line in report.missing),
        "### How to read it\n",
        joined(f"- {line}" for line in report.reading),
        *(f"### {p.title}\n\n![{p.title}]({p.file.as_posix()})\n\n{p.caption}\n" for p in report.pictures),
        *(_sheets(found.accounts) if found else ()),
        *(("## How the search went\n", joined(f"- {name}: {value}" for name, value in found.facts)) if found else ()),
        "## Where the numbers come from\n",
        joined(f"- {name}: {value}" for name, value in report.provenance),
        _FILES if found is None else _SEARCH_FILES,
    ]
    return "\n".join(section for section in sections if section)


def _result(report: Report) -> tuple[str, ...]:
    return f"## Result by `{report.metric}`\n", to_markdown(report.table)


def _findings(found: Findings) -> tuple[str, ...]:
    return joined(f"{line}  " for line in found.answer), *_sheets((found.leaderboard, *found.sheets))


def _sheets(sheets: Sequence[Sheet]) -> tuple[str, ...]:
    return tuple(part for sheet in sheets for part in (f"## {sheet.title}\n", sheet_markdown(sheet)))


_FILES = (
    "Files: `experiment.yaml` (the experiment as resolved), `members.parquet` (a row per member), `summary.parquet` "
    "(a row per configuration, role and metric), `curves.parquet`, `report.csv`.\n"
)


_SEARCH_FILES = (
    "Files: `experiment.yaml` (the experiment as resolved), `members.parquet` (a row per member), `trials.parquet` (a "
    "row per suggested configuration), `rungs.parquet` (what decided who was stopped), `importances.parquet`, "
    "`search.json`, `summary.parquet` (a row per configuration, role and metric), `curves.parquet`, `report.csv`, "
    "`comparisons.csv`, `report.tex`.\n"
)


def _failure(failure: Failure) -> str:
    error = failure.error.splitlines()[0].replace("`", "'")
    return f"- {failure.label}, seed {failure.seed} {failure.status}: {error} (log: `{failure.log.as_posix()}`)"
