"""What a report says, before it has a format: table, failures, how to read it, provenance.

Markdown, page, LaTeX and terminal render the same contents.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.reporting.groups import Group, group_members
from ensemble.reporting.number_format import setting
from ensemble.reporting.results import result_table
from ensemble.reporting.run import MemberRow, Run
from ensemble.reporting.search_report import SearchReport, report_search
from ensemble.reporting.table import Table, TableRow, spread_text
from ensemble.run_directory import member_id
from ensemble.schema import ACTION_MAE, ACTION_MSE


@dataclass(frozen=True, slots=True)
class Failure:
    """A member that counts in no mean, and where its log is."""

    label: str  # of its configuration
    member: str
    seed: int
    status: str
    error: str
    log: Path  # relative to the run directory

    @property
    def first_line(self) -> str:
        """The first line of its error."""
        return self.error.splitlines()[0]


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the report."""

    file: Path  # relative to the run directory
    title: str
    caption: str
    half: bool = False  # drawn next to another one


@dataclass(frozen=True, slots=True)
class Report:
    """All that is said about a run, by one metric."""

    run: Run
    metric: str
    table: Table
    failures: tuple[Failure, ...]
    missing: tuple[str, ...]  # seeds that were planned and never ended, one line a configuration
    doubts: tuple[str, ...]  # why numbers may not mean what they seem to
    reading: tuple[str, ...]  # how to read the table, the doubts first
    provenance: tuple[tuple[str, str], ...]
    pictures: tuple[Picture, ...] = ()
    findings: SearchReport | None = None  # of a search
    written: bool = False  # whether the run's page holds it

    @property
    def finished(self) -> bool:
        """Whether any member completed."""
        return any(member["status"] == "completed" for member in self.run.members)

    @property
    def best(self) -> TableRow | None:
        """The best configuration; None where nothing finished."""
        return self.table.highlighted

    @property
    def best_value(self) -> str:
        """The mean of the best configuration, with its spread."""
        return spread_text(self.best["statistics"] if self.best else None)

    @property
    def configurations(self) -> list[TableRow]:
        """The rows of the table that are no baselines."""
        return [row for row in self.table.rows if row["kind"] == "configuration"]


def compose_report(run: Run, metric: str | None) -> Report:
    """Put together the report of a run by `metric` (None: the test error); UsageError for a metric it does not have."""
    chosen = run.check_metric(metric)
    table = result_table(run, chosen)
    labels = {row["config_hash"]: row["label"] for row in table.rows if row["kind"] == "configuration"}
    groups = group_members(run)
    doubts = tuple(_agreement(group, seeds, labels) for group in groups for seeds in _equal_seeds(group))
    return Report(
        run=run,
        metric=chosen,
        table=table,
        failures=tuple(_failure(run, member, labels) for member in run.members if is_lost(member)),
        missing=tuple(_missing(group, labels) for group in groups if group.missing),
        doubts=doubts,
        reading=(*doubts, *_reading(run, chosen, table)),
        provenance=_provenance(run),
        findings=report_search(run, run.search, table, chosen) if run.search else None,
    )


def is_lost(member: MemberRow) -> bool:
    """Tell whether a member ended by an error or by divergence."""
    return member["status"] in ("diverged", "failed")


def smallest_rate(run: Run) -> float | None:
    """Return the smallest learning rate that was tried."""
    keys = [key for key in run.hyperparameters if key.endswith(".lr")]
    rates = [member[key] for member in run.members for key in keys if member[key] is not None]
    return min(rates, default=None)


def _failure(run: Run, member: MemberRow, labels: dict[str, str]) -> Failure:
    return Failure(
        label=labels[member["config_hash"]],
        member=member_id(member["config_hash"], member["seed"]),
        seed=member["seed"],
        status=member["status"],
        error=(member["error"] or "").strip() or "no message",
        log=run.log_file(member).relative_to(run.path),
    )


def _missing(group: Group, labels: dict[str, str]) -> str:
    seeds = ", ".join(str(seed) for seed in group.missing)
    plural = "s" if len(group.missing) > 1 else ""
    return f"{labels[group.config_hash]} ({group.role}): seed{plural} {seeds} not finished"


def _equal_seeds(group: Group) -> list[list[int]]:
    """Return the seeds of a configuration whose members have the same weights to the bit, if there are any."""
    by_weights: dict[str, list[int]] = {}
    for member in group.completed:
        if member["weights_sha256"]:
            by_weights.setdefault(member["weights_sha256"], []).append(int(member["seed"]))
    return [seeds for seeds in by_weights.values() if len(seeds) > 1]


def _agreement(group: Group, seeds: list[int], labels: dict[str, str]) -> str:
    return (
        f"{labels[group.config_hash]} ({group.role}): the members of seeds {', '.join(map(str, seeds))} agree to the "
        "bit: their seed changes nothing, so they are one measurement, and spread and interval say too little."
    )


def _reading(run: Run, metric: str, table: Table) -> tuple[str, ...]:
    """Explain the table, mentioning only what is in it."""
    better = "lower" if run.mode(metric) == "min" else "higher"
    lines = [f"{metric}: {_meaning(run, metric)} {better.capitalize()} is better."]
    rows = [row for row in table.rows if row["kind"] == "configuration"]
    if any(row["statistics"].n > 1 for row in rows):
        lines.append(
            "mean ± std: over the seeds that completed, each with its best weights by validation; "
            "standard deviation with n - 1. The interval is for the mean; t is Student's t over seeds."
        )
    if any(row["statistics"].n == 1 for row in rows):
        lines.append("A single seed has no spread: the difference to another configuration may be luck.")
    if any(row["status"] != "completed" for row in rows):
        counts = "ok, planned" if run.search else "n ok/planned"
        lines.append(f"{counts}: seeds that did not complete are in no mean.")
    if any(row["diverged"] for row in rows) and len(rows) > 1:
        lines.append("Configurations with a diverged seed rank below those without, whatever their mean.")
    if any(row["kind"] == "baseline" for row in table.rows):
        lines.append(f"x better: how many times {better} the ensemble's mean is than the baseline on the same windows.")
    return tuple(lines)


def _meaning_of_free_run(run: Run, split: str, measured: str, label: str) -> str:
    warmup = (_nested(run.experiment, "evaluation") or {}).get("warmup")
    where = (
        f"free runs to the end of each episode of the {split} split, the first {warmup} points given and not counted"
    )
    if measured == "fit":
        return (
            f"FIT of {label} in {where}: 100 (1 - |y - predicted| / |y - mean|) %; 100 is exact, 0 the best constant."
        )
    if label:
        return f"root-mean-square error of {label} in {where}, in its own unit."
    return f"root-mean-square error in {where}; each state entry in training standard deviations."


def _meaning(run: Run, metric: str) -> str:
    split, _, rest = metric.removeprefix("last/").removeprefix("best_rollout/").partition("/")
    asked = _nested(run.experiment, "train", "rollout") or {}
    horizon = (asked.get("test_horizon") if split == "test" else None) or asked.get("horizon")
    steps = f"over {horizon} steps" if horizon else "over the horizon"
    if rest == "rollout_rmse":
        return (
            f"open-loop prediction on the {split} split {steps}, differences (angles wrapped) divided by the training "
            "standard deviation of each state entry, root mean square; 1 is one standard deviation."
        )
    if rest.startswith("rollout_rmse@"):
        return f"normalized open-loop error on the {split} split at step {rest.partition('@')[2]} of the horizon."
    if rest.startswith("rollout_rmse/"):
        return f"open-loop error of {rest.partition('/')[2]} on the {split} split {steps}, in its own unit."
    if rest.startswith(("free_run_rmse", "fit/")):
        return _meaning_of_free_run(run, split, *rest.partition("/")[::2])
    if rest in (ACTION_MAE, ACTION_MSE):
        kind = "absolute" if rest == ACTION_MAE else "squared"
        return f"mean {kind} error of sampled action chunks on the {split} split, over steps and entries, in raw units."
    if rest == "loss":
        return f"the training objective on the {split} split."
    return f"measured on the {split} split."


def _provenance(run: Run) -> tuple[tuple[str, str], ...]:
    """List where the numbers come from; several values where members differ."""
    # Members of a resumed run may come from different machines and versions: all are listed.
    facts = [
        ("data fingerprint", _values(run, "data_fingerprint")),
        ("split", _split(run)),
        ("device", _values(run, "device")),
        ("threads", _values(run, "threads")),
        ("members per pack", _values(run, "pack")),
        ("processes per member", _values(run, "world_size")),
        ("git commit", _values(run, "git_commit")),
        ("versions", "; ".join(sorted({_versions(m["versions"]) for m in run.members if m["versions"]}))),
    ]
    notices = [("notice", str(text)) for text in run.notes.get("notices") or []]
    notices += [
        ("notice", f"{member_id(m['config_hash'], m['seed'])}: {m['notice']}") for m in run.members if m.get("notice")
    ]
    return tuple((name, value) for name, value in [*facts, *notices] if value)


def _values(run: Run, column: str) -> str:
    return ", ".join(str(value) for value in sorted({m[column] for m in run.members if m[column] is not None}))


def _versions(text: str) -> str:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return ", ".join(f"{name} {value[name]}" for name in sorted(value)) if isinstance(value, dict) else text


def _split(run: Run) -> str:
    """Describe the split: as the run noted it, else as the experiment asks for it."""
    if "split" in run.notes:
        return str(run.notes["split"])
    shares: dict[str, Any] = _nested(run.experiment, "data", "split") or {}
    return ", ".join(f"{name} {_share(shares[name])}" for name in ("train", "validation", "test") if name in shares)


def _share(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} named episodes"
    return f"{value:.0%}" if isinstance(value, float) else f"{setting(value)} episodes"


def _nested(tree: dict[str, Any], *keys: str) -> Any:
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
