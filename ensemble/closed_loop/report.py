"""What is reported of closed loops: `evaluation.parquet` to lines of a table and a verdict; `show` lays them out.

A line of the table is a configuration (its members), an ensemble acting as one, a baseline or published figures, in one
setting. Everything that is shown met the same episodes, those of the last evaluation unless others are asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.closed_loop.statistics import METRICS, EvaluationRow, Setting, joint_sum, measure, read_published
from ensemble.closed_loop.verdict import Contender, verdict
from ensemble.errors import UsageError
from ensemble.reporting.checked_tables import checked_table
from ensemble.reporting.groups import group_members
from ensemble.reporting.results import differing_keys, label_groups
from ensemble.reporting.run import read_run
from ensemble.reporting.table import TableRow
from ensemble.run_directory import RunDirectory
from ensemble.schema import EVALUATION_COLUMNS, EVALUATION_KEY
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
    lines: tuple[TableRow, ...]  # by noise, then replan
    hidden: tuple[str, ...]  # what else was measured, in words
    figures: tuple[Path, ...] = ()  # relative to the run directory

    @property
    def noises(self) -> tuple[float, ...]:
        """The noises of the table, least first."""
        return tuple(sorted({line["noise"] for line in self.lines}))

    @property
    def words(self) -> tuple[str, ...]:
        """What follows from the table."""
        return verdict(self.contenders)


def compose_evaluation(
    path: Path, beside: Sequence[Path] = (), episodes: int | None = None, episode_seed: int | None = None
) -> Evaluation:
    """Read the evaluation of a run, and what is compared with it: tables of published figures, evaluated runs.

    `episodes` and `episode_seed` choose among episodes; by default those with the most rows. UsageError where nothing
    was evaluated or nothing matches, StorageError for a damaged file.
    """
    # Episodes of this run: those that most rows have in common, unless they are asked for
    name, labels, rows, stale = _read(path)
    chosen = _choose(rows, episodes, episode_seed, path)
    hidden = [f"{plural(stale, 'row')} of other weights than the run has now: not shown"] if stale else []
    hidden += _others(rows, chosen)
    kept = [row for row in rows if _episodes_of(row) == chosen]
    # What is compared with it: runs on the same episodes, and published figures
    published: dict[Setting, list[TableRow]] = {}
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
    # Lines
    contenders = _contenders(kept, labels)
    laid = _lines(contenders, kept, published)
    return Evaluation(path, name, *chosen, contenders, laid, tuple(hidden))


def _read(path: Path) -> tuple[str, dict[str, str], list[EvaluationRow], int]:
    """Return name, labels by config_hash, rows of the present weights, and how many others there are."""
    file = RunDirectory(path).evaluation_file
    if not file.is_file():
        raise UsageError(f"{path} was not evaluated yet: {command('ensemble', 'evaluate', path)}")
    optional = {*EVALUATION_COLUMNS.names} - {*EVALUATION_KEY} | {"seed"}  # a baseline has no seed
    rows = checked_table(file, EVALUATION_COLUMNS, tuple(optional)).to_pylist()
    if not RunDirectory(path).experiment_file.is_file():  # a member that was copied out of its run
        labels = {row["config_hash"]: f"{row['family']} {row['config_hash'][:6]}" for row in rows}
        return path.name, labels, rows, 0
    run = read_run(path)
    # Labels as in the report of the run
    groups = group_members(run)
    first = [group.members[0] for group in groups if group.members]
    labels = label_groups(run, groups, differing_keys(first, run.hyperparameters))
    # Rows of weights that were trained again since are not shown.
    sums = {(m["config_hash"], m["seed"]): m["weights_sha256"] for m in run.members if m["status"] == "completed"}
    present = [row for row in rows if _is_present(row, sums)]
    return run.name, labels, present, len(rows) - len(present)


def _is_present(row: EvaluationRow, sums: dict[tuple[str, int], str]) -> bool:
    if row["config_hash"] in BASELINES:
        return True
    if row["controller"] == "member":
        return bool(sums.get((row["config_hash"], row["seed"])) == row["weights_sha256"])
    own = sorted((seed, sha) for (name, seed), sha in sums.items() if name == row["config_hash"])
    return bool(row["weights_sha256"] == joint_sum(sha for _, sha in own))


def _episodes_of(row: EvaluationRow) -> tuple[int, int]:
    return row["episodes"], row["episode_seed"]


def _choose(rows: Sequence[EvaluationRow], episodes: int | None, seed: int | None, path: Path) -> tuple[int, int]:
    there = [_episodes_of(row) for row in rows]
    fitting = [each for each in there if episodes in (None, each[0]) and seed in (None, each[1])]
    if not fitting:
        known = ", ".join(f"{count} of seed {number}" for count, number in sorted(set(there)))
        raise UsageError(f"{path}: nothing was evaluated on these episodes; there are {known or 'none'}")
    return max(sorted(set(fitting), reverse=True), key=lambda each: (fitting.count(each), each[0]))


def _others(rows: Sequence[EvaluationRow], chosen: tuple[int, int]) -> list[str]:
    others = sorted({_episodes_of(row) for row in rows} - {chosen})
    return [f"also in evaluation.parquet: {plural(count, 'episode')} of seed {seed}" for count, seed in others]


def _contenders(rows: Sequence[EvaluationRow], labels: dict[str, str]) -> tuple[Contender, ...]:
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
    contenders: Sequence[Contender], rows: Sequence[EvaluationRow], published: dict[Setting, list[TableRow]]
) -> tuple[TableRow, ...]:
    settings = sorted({Setting(row["noise"], row["replan"]) for row in rows if row["config_hash"] not in BASELINES})
    lines: list[TableRow] = []
    for at in settings:
        for each in contenders:
            lines += _lines_of(each, at, f"{each.label}: " if len(contenders) > 1 else "")
        lines += published.get(at, [])
        # Baselines act at every step, so that replan does not matter: they come once, after the last one.
        if at == max(other for other in settings if other.noise == at.noise):
            lines += [_line([row], row["config_hash"], "baseline") for row in rows if _is_baseline(row, at.noise)]
    return tuple(lines)


def _is_baseline(row: EvaluationRow, noise: float) -> bool:
    return row["config_hash"] in BASELINES and row["noise"] == noise


def _lines_of(each: Contender, at: Setting, of: str) -> Iterable[TableRow]:
    if at in each.members:
        yield _line(each.members[at], each.label, "configuration")
    for name, words in JOINT.items():
        if at in each.joint.get(name, {}):
            yield _line(each.joint[name][at], f"{of}{words}", "ensemble")


def _line(rows: Sequence[EvaluationRow], label: str, kind: str) -> TableRow:
    first = rows[0]
    same = ("config_hash", "family", "noise", "replan", "episodes", "episode_seed", "chunk_seconds", "controller")
    facts = {name: first[name] for name in same}
    facts["chunk_seconds"] = None if kind == "baseline" else facts["chunk_seconds"]
    metrics = {metric: measure(rows, metric) for metric in METRICS}
    return {**facts, "label": label, "kind": kind, "n": len(rows), "highlight": kind == "configuration", **metrics}
