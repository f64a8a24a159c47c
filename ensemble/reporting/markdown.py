"""The report as Markdown: `report.md`, readable as text and on any code host."""

from ensemble.reporting.contents import Failure, Report, joined
from ensemble.reporting.tables import to_markdown


def render_markdown(report: Report) -> str:
    """Return `report.md`; nothing in it depends on when or where it was made."""
    sections = [
        f"# {report.run.name}\n",
        joined(f"> {line}  " if line else ">" for line in report.run.question.splitlines()),
        f"## Result by `{report.metric}`\n",
        to_markdown(report.table),
        joined(_failure(failure) for failure in report.failures),
        joined(f"- {line}" for line in report.missing),
        "### How to read it\n",
        joined(f"- {line}" for line in report.reading),
        *(f"### {p.title}\n\n![{p.title}]({p.file.as_posix()})\n\n{p.caption}\n" for p in report.pictures),
        "## Where the numbers come from\n",
        joined(f"- {name}: {value}" for name, value in report.provenance),
        _FILES,
    ]
    return "\n".join(section for section in sections if section)


_FILES = (
    "Files: `experiment.yaml` (the experiment as resolved), `members.parquet` (a row per member), `summary.parquet` "
    "(a row per configuration, role and metric), `curves.parquet`, `report.csv`.\n"
)


def _failure(failure: Failure) -> str:
    error = failure.error.splitlines()[0].replace("`", "'")
    return f"- {failure.label}, seed {failure.seed} {failure.status}: {error} (log: `{failure.log.as_posix()}`)"
