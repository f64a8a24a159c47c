"""The report of closed loops: `evaluation.parquet` to a table, a verdict, `evaluation.md` and `evaluation.csv`.

A line of the table is a configuration (its members), an ensemble acting as one, a baseline or published figures, in one
setting. Everything that is shown met the same episodes, those of the last evaluation unless others are asked for.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.closed_loop.statistics import METRICS, Measured, Row, Setting, joint_sum, measure, read_published
from ensemble.closed_loop.verdict import Contender, verdict
from ensemble.errors import UsageError
from ensemble.reporting.checked_tables import checked_table
from ensemble.reporting.groups import group_members
from ensemble.reporting.number_format import interval, number, plus_minus, setting
from ensemble.reporting.run import read_run
from ensemble.reporting.sheets import Sheet, plain_text, sheet_markdown
from ensemble.reporting.table_text import csv_cell
from ensemble.reporting.tables import Column, differing_keys, label_groups
from ensemble.reporting.tables import Row as Line
from ensemble.run_directory import RunDirectory
from ensemble.schema import EVALUATION_COLUMNS
from ensemble.text import command, plural

JOINT = {"mean": "mean of chunks", "median": "nearest to the median"}
BASELINES = ("expert", "zero")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is shown of a run's closed loops."""

    path: Path
    name: str
    episodes: int
    episode_seed: int
    contenders: tuple[Contender, ...]
    lines: tuple[Line, ...]  # by noise, then replan
    hidden: tuple[str, ...]  # what else was measured, in words
    figures: tuple[Path, ...] = ()  # beneath the run directory

    @property
    def noises(self) -> tuple[float, ...]:
        """The noises of the table, least first."""
        return tuple(sorted({line["noise"] for line in self.lines}))

    @property
    def words(self) -> tuple[str, ...]:
        """What follows from the table."""
        return verdict(self.contenders)


def compose(
    path: Path, beside: Sequence[Path] = (), episodes: int | None = None, episode_seed: int | None = None
) -> Evaluation:
    """Read the evaluation of a run, and what is to stand beside it: tables of published figures, evaluated runs.

    `episodes` and `episode_seed` choose among episodes; by default those with the most rows. UsageError where nothing
    was evaluated or nothing matches, StorageError for a damaged file.
    """
    name, labels, rows, stale = _read(path)
    chosen = _choose(rows, episodes, episode_seed, path)
    hidden = [f"{plural(stale, 'row')} of other weights than the run has now: not shown"] if stale else []
    hidden += _others(rows, chosen)
    kept = [row for row in rows if _episodes_of(row) == chosen]
    published: dict[Setting, list[Line]] = {}
    for each in beside:
        if each.is_dir():
            other, more, theirs, _ = _read(each)
            labels |= {key: f"{other}: {label}" if label != other else other for key, label in more.items()}
            matching = [row for row in theirs if _episodes_of(row) == chosen]
            if not matching:
                raise UsageError(f"{each}: not evaluated on these episodes: --episodes {chosen[0]} --seed {chosen[1]}")
            kept = [*kept, *(row for row in matching if row["config_hash"] not in BASELINES)]
        else:
            for at, lines in read_published(each).items():
                published.setdefault(at, []).extend(lines)
    contenders = _contenders(kept, labels)
    laid = _lines(contenders, kept, published)
    return Evaluation(path, name, *chosen, contenders, laid, tuple(hidden))


def _read(path: Path) -> tuple[str, dict[str, str], list[Row], int]:
    """Return name, labels by config_hash, rows of the present weights, and how many others there are."""
    file = RunDirectory(path).evaluation_file
    if not file.is_file():
        raise UsageError(f"{path} was not evaluated yet: {command('ensemble', 'evaluate', path)}")
    rows = checked_table(file, EVALUATION_COLUMNS).to_pylist()
    if not RunDirectory(path).experiment_file.is_file():  # a member that was copied out of its run
        labels = {row["config_hash"]: f"{row['family']} {row['config_hash'][:6]}" for row in rows}
        return path.name, labels, rows, 0
    run = read_run(path)
    groups = group_members(run)
    first = [group.members[0] for group in groups if group.members]
    labels = label_groups(run, groups, differing_keys(first, run.hyperparameters))
    sums = {(m["config_hash"], m["seed"]): m["weights_sha256"] for m in run.members if m["status"] == "completed"}
    present = [row for row in rows if _is_present(row, sums)]
    return run.name, labels, present, len(rows) - len(present)


def _is_present(row: Row, sums: dict[tuple[str, int], str]) -> bool:
    if row["config_hash"] in BASELINES:
        return True
    if row["controller"] == "member":
        return bool(sums.get((row["config_hash"], row["seed"])) == row["weights_sha256"])
    own = sorted((seed, sha) for (name, seed), sha in sums.items() if name == row["config_hash"])
    return bool(row["weights_sha256"] == joint_sum(sha for _, sha in own))


def _episodes_of(row: Row) -> tuple[int, int]:
    return row["episodes"], row["episode_seed"]


def _choose(rows: Sequence[Row], episodes: int | None, seed: int | None, path: Path) -> tuple[int, int]:
    there = [_episodes_of(row) for row in rows]
    fitting = [each for each in there if episodes in (None, each[0]) and seed in (None, each[1])]
    if not fitting:
        known = ", ".join(f"{count} of seed {number}" for count, number in sorted(set(there)))
        raise UsageError(f"{path}: nothing was evaluated on these episodes; there are {known or 'none'}")
    return max(sorted(set(fitting), reverse=True), key=lambda each: (fitting.count(each), each[0]))


def _others(rows: Sequence[Row], chosen: tuple[int, int]) -> list[str]:
    others = sorted({_episodes_of(row) for row in rows} - {chosen})
    return [f"also in evaluation.parquet: {plural(count, 'episode')} of seed {seed}" for count, seed in others]


def _contenders(rows: Sequence[Row], labels: dict[str, str]) -> tuple[Contender, ...]:
    """Sort rows into configurations, in the order of their labels."""
    found: dict[str, Contender] = {}
    for row in sorted(rows, key=lambda row: (row["noise"], row["replan"], row["seed"] or 0)):
        name = row["config_hash"]
        if name not in BASELINES:
            contender = found.setdefault(name, Contender(name, labels.get(name) or name, str(row["family"]), {}, {}))
            at = Setting(row["noise"], row["replan"])
            if row["controller"] == "member":
                contender.members.setdefault(at, []).append(row)
            else:
                contender.joint.setdefault(row["controller"], {}).setdefault(at, []).append(row)
    return tuple(sorted(found.values(), key=lambda each: each.label))


def _lines(
    contenders: Sequence[Contender], rows: Sequence[Row], published: dict[Setting, list[Line]]
) -> tuple[Line, ...]:
    settings = sorted({Setting(row["noise"], row["replan"]) for row in rows if row["config_hash"] not in BASELINES})
    lines: list[Line] = []
    for at in settings:
        for each in contenders:
            lines += _lines_of(each, at, f"{each.label}: " if len(contenders) > 1 else "")
        lines += published.get(at, [])
        if at == max(other for other in settings if other.noise == at.noise):
            lines += [_line([row], row["config_hash"], "baseline") for row in rows if _is_baseline(row, at.noise)]
    return tuple(lines)


def _is_baseline(row: Row, noise: float) -> bool:
    return row["config_hash"] in BASELINES and row["noise"] == noise


def _lines_of(each: Contender, at: Setting, of: str) -> Iterable[Line]:
    if at in each.members:
        yield _line(each.members[at], each.label, "configuration")
    for name, words in JOINT.items():
        if at in each.joint.get(name, {}):
            yield _line(each.joint[name][at], f"{of}{words}", "ensemble")


def _line(rows: Sequence[Row], label: str, kind: str) -> Line:
    first = rows[0]
    same = ("config_hash", "family", "noise", "replan", "episodes", "episode_seed", "chunk_seconds", "controller")
    facts = {name: first[name] for name in same}
    facts["chunk_seconds"] = None if kind == "baseline" else facts["chunk_seconds"]
    metrics = {metric: measure(rows, metric) for metric in METRICS}
    return {**facts, "label": label, "kind": kind, "n": len(rows), **metrics}


def spread(found: Measured | None) -> str:
    """Write mean ± std over members (error over episodes): `0.933 ± 0.054 (0.014)`."""
    if found is None:
        return "-"
    text = plus_minus(found.found.mean, found.found.std)
    return text if math.isnan(found.error) or text == "-" else f"{text} ({number(found.error, 2)})"


def rate(found: Measured | None) -> str:
    """Write a rate with three decimals throughout: `0.933 ± 0.054 (0.014)`, `1.000 ± 0.000 (0)`."""
    if found is None or not found.found.n:
        return "-"
    text = f"{found.found.mean:.3f}" + ("" if math.isnan(found.found.std) else f" ± {found.found.std:.3f}")
    return text if math.isnan(found.error) else f"{text} ({f'{found.error:.3f}' if found.error else '0'})"


def _rate_interval(found: Measured | None) -> str:
    if found is None or math.isnan(found.found.ci_low):
        return "-"
    low, high = max(found.found.ci_low, 0.0), min(found.found.ci_high, 1.0)  # of a rate: there is nothing beyond
    return f"[{low:.3f}, {high:.3f}] {found.found.ci_method}"


def _interval(found: Measured | None) -> str:
    if found is None or found.found.n < 2:
        return "-"
    stats = found.found
    return interval(stats.ci_low, stats.ci_high, stats.mean, stats.std, stats.ci_method)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else number(1e3 * seconds, 2)


COLUMNS: tuple[Column, ...] = (
    Column("controller", "label", str),
    Column("replan", "replan", plain_text),
    Column("n", "n", plain_text),
    Column("success", "success", rate),
    Column("converge rate", "converge_rate", rate),
    Column("95 % interval", "converge_rate", _rate_interval),
    Column("converge step", "converge_step", spread),
    Column("velocity std [m/s]", "cart_velocity_std", spread),
    Column("95 % interval", "cart_velocity_std", _interval),
    Column("length", "episode_length", spread),
    Column("ms a chunk", "chunk_seconds", _milliseconds),
)

READING = (
    "mean ± std over the n members of a configuration (n - 1); in brackets the sampling error of that mean had other "
    "episodes been drawn, all members meeting the same ones. The interval is Student's t over members: other seeds, "
    "these episodes; that of a rate is cut at 0 and 1.",
    "success: all 100 steps without a fall. Converged: |theta| < 0.02 rad over 10 steps in a row; converge step: the "
    "first of them, over the episodes that converged. velocity std: of the cart, over all steps; lower is smoother, "
    "but who falls early is also slow.",
    "A rate with the error (0) came out alike in all N episodes: up to about 3/N either way is possible all the same.",
    "mean of chunks, nearest to the median: all members act as one controller. expert and zero control are baselines, "
    "asked at each step.",
    "ms a chunk: time of the policy divided by the chunks it gave, all members and episodes in one batch; a share, not "
    "the delay of a single answer.",
)


def sheets(found: Evaluation) -> list[Sheet]:
    """Lay the table out, a sheet for each noise; columns that no line fills are left out."""
    laid = []
    for noise in found.noises:
        rows = tuple(line for line in found.lines if line["noise"] == noise)
        columns = tuple(c for c in COLUMNS if any(c.format(row.get(c.key)) != "-" for row in found.lines))
        title = f"Action noise {setting(noise)}"
        laid.append(Sheet(f"noise_{setting(noise)}", title, columns, rows, most=len(rows)))
    return laid


def to_markdown(found: Evaluation) -> str:
    """Return `evaluation.md`; nothing in it depends on when or where it was made."""
    parts = [f"# Closed loop: {found.name}\n"]
    parts.append(f"{plural(found.episodes, 'episode')} of seed {found.episode_seed}, the same for every controller.\n")
    parts += ["## Verdict\n", "".join(f"- {line}\n" for line in found.words)] if found.words else []
    for sheet in sheets(found):
        parts += [f"## {sheet.title}\n", sheet_markdown(sheet)]
    parts += [f"![Converge rate and velocity]({figure.as_posix()})\n" for figure in found.figures]
    parts += ["## How to read it\n", "".join(f"- {line}\n" for line in (*READING, *sources(found), *found.hidden))]
    return "\n".join(parts)


def sources(found: Evaluation) -> list[str]:
    """Say where published lines come from."""
    named = {line["source"]: None for line in found.lines if line["kind"] == "published" and line.get("source")}
    return [f"published: {source}" for source in named if source != "as above"]


def to_csv(found: Evaluation) -> str:
    """Return every line in full precision, with deviation, interval and error over episodes of every metric."""
    keys = ["label", "kind", "config_hash", "family", "noise", "replan", "episodes", "episode_seed", "n"]
    tails = ("", "_std", "_ci_low", "_ci_high", "_ci_method", "_episode_error")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*keys, *(f"{m}{tail}" for m in METRICS for tail in tails), "chunk_seconds", "source"])
    for line in found.lines:
        cells = [line.get(key) for key in keys]
        for metric in METRICS:
            each: Measured | None = line.get(metric)
            s = each.found if each else None
            known = [s.mean, s.std, s.ci_low, s.ci_high, s.ci_method, each.error] if s and each else [None] * 6
            cells += known
        writer.writerow([csv_cell(cell) for cell in [*cells, line.get("chunk_seconds"), line.get("source")]])
    return out.getvalue()
