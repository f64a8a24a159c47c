"""The files of a run in results/<experiment>, and the names of configurations and members.

Every file name of a run is defined here, but for the files inside a checkpoint (`training/checkpoint.py`).
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ensemble.config.experiment import EvaluationConfig, Experiment
from ensemble.errors import StorageError
from ensemble.lock import held
from ensemble.schema import CURVE_COLUMNS, MEMBER_COLUMNS
from ensemble.store import is_own_table, read_table, write_json, write_table
from ensemble.text import command, parse_json

MAKER = "ensemble"  # what the marker of a run says of who made it
_log = logging.getLogger(__name__)


def config_hash(experiment: Experiment) -> str:
    """Return the 12 hexadecimal digits that name a configuration without its seed.

    The hash covers what defines a result: data (without its path, layout and links), model, train, evaluation, threads.
    It leaves out the experiment's name, seeds, packs, workers, checkpoints and logging.
    """
    parts = experiment.model_dump(mode="json", include={"data", "model", "train"})
    parts["train"].pop("checkpoint_every")
    for name in ("path", "layout", "follow_links"):
        parts["data"].pop(name)
    # Names alone: they name metrics, while their paths may differ between machines.
    parts["data"]["validation"] = sorted(parts["data"]["validation"])
    # Left out where nothing is asked for, as in files from before there was such a section.
    if experiment.evaluation != EvaluationConfig():
        parts["evaluation"] = experiment.evaluation.model_dump(mode="json")
    # Threads change the order of sums, so results of other thread counts differ in the last digits.
    parts["resources"] = {"threads": experiment.resources.threads}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def member_id(config_hash: str, seed: int) -> str:
    """Return the name of a member's directory."""
    return f"{config_hash}-s{seed}"


@dataclass(frozen=True, slots=True)
class MemberDirectory:
    """The files of one member."""

    path: Path

    @property
    def log_file(self) -> Path:
        """Its log."""
        return self.path / "train.log"

    @property
    def row_file(self) -> Path:
        """Its row of `members.parquet`."""
        return self.path / "member.parquet"

    @property
    def curves_file(self) -> Path:
        """Its rows of `curves.parquet`."""
        return self.path / "curves.parquet"

    @property
    def checkpoints(self) -> Path:
        """Directory of its checkpoints."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """Weights of its best validation."""
        return self.path / "best.safetensors"

    @property
    def rollout_weights(self) -> Path:
        """Weights of its best validation rollout."""
        return self.path / "best_rollout.safetensors"

    @property
    def model_file(self) -> Path:
        """Description of its weights: architecture, features, normalization, layout."""
        return self.path / "model.json"

    @property
    def tokenizer_file(self) -> Path:
        """Action tokenizer of its training."""
        return self.path / "tokenizer.json"

    @property
    def tracking_file(self) -> Path:
        """The runs of this member at Weights & Biases and MLflow."""
        return self.path / "tracking.json"

    @property
    def rollouts_file(self) -> Path:
        """Its rollouts on the test split."""
        return self.path / "rollouts.parquet"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one experiment: results/<experiment>."""

    path: Path

    @property
    def marker_file(self) -> Path:
        """What says that this program made the directory: its first file."""
        return self.path / "run.json"

    @property
    def is_run(self) -> bool:
        """Whether this program made the directory: it has the marker, or the files of earlier versions together."""
        if _holds(self.marker_file, "made_by", MAKER):
            return True
        known = self.planned_file.is_file() or _holds(self.notes_file, "versions")
        return self.experiment_file.is_file() and known

    def mark(self) -> None:
        """Write the marker of a new run; an earlier version's run stays without, and so do its tables."""
        if not self.experiment_file.is_file():
            write_json(self.marker_file, {"made_by": MAKER})

    @property
    def experiment_file(self) -> Path:
        """The experiment as resolved."""
        return self.path / "experiment.yaml"

    @property
    def members_file(self) -> Path:
        """One row per member."""
        return self.path / "members.parquet"

    @property
    def curves_file(self) -> Path:
        """One row per member, step and metric."""
        return self.path / "curves.parquet"

    @property
    def summary_file(self) -> Path:
        """One row per configuration, role and metric."""
        return self.path / "summary.parquet"

    def report_file(self, suffix: str) -> Path:
        """Return where the report lies in a format: `report.html`, `.md`, `.csv`, `.tex`."""
        return self.path / f"report.{suffix}"

    @property
    def comparisons_file(self) -> Path:
        """One row per comparison of two configurations of a search."""
        return self.path / "comparisons.csv"

    def evaluation_report(self, suffix: str, name: str = "evaluation") -> Path:
        """Return where a report of closed loops lies in a format: `evaluation.md`, `evaluation_90_of_seed_1.csv`."""
        return self.path / f"{name}.{suffix}"

    @property
    def figures(self) -> Path:
        """Directory of figures."""
        return self.path / "figures"

    @property
    def space_file(self) -> Path:
        """The experiment file as given."""
        return self.path / "space.yaml"

    @property
    def notes_file(self) -> Path:
        """Notes on the run's data, versions and start."""
        return self.path / "data.json"

    @property
    def planned_file(self) -> Path:
        """One row per planned member."""
        return self.path / "planned.parquet"

    @property
    def baselines_file(self) -> Path:
        """One row per baseline, configuration and metric."""
        return self.path / "baselines.parquet"

    @property
    def search_log(self) -> Path:
        """Log of a search (`ensemble/search_log.py`)."""
        return self.path / "search.log"

    @property
    def search_file(self) -> Path:
        """Description of a search: sampler, pruner, finalists, whether it is finished."""
        return self.path / "search.json"

    @property
    def trials_file(self) -> Path:
        """One row per suggested configuration."""
        return self.path / "trials.parquet"

    @property
    def rungs_file(self) -> Path:
        """One row per configuration, step and seed that a pruner judged."""
        return self.path / "rungs.parquet"

    @property
    def importances_file(self) -> Path:
        """One row per searched parameter."""
        return self.path / "importances.parquet"

    @property
    def journal_file(self) -> Path:
        """A copy of the Optuna study, for optuna-dashboard."""
        return self.path / "optuna.journal"

    @property
    def evaluation_file(self) -> Path:
        """One row per controller, seed and setting of a closed loop."""
        return self.path / "evaluation.parquet"

    @property
    def ray(self) -> Path:
        """Ray's own directory, never read here."""
        return self.path / "ray"

    @property
    def trained(self) -> list[MemberDirectory]:
        """Directories of all members with weights."""
        return [MemberDirectory(file.parent) for file in sorted(self.members.glob("*/model.json"))]

    @property
    def row_files(self) -> list[Path]:
        """Row files of all members that have ended."""
        return sorted(self.members.glob("*/member.parquet"))

    @property
    def members(self) -> Path:
        """Directory of the members' directories."""
        return self.path / "members"

    def member(self, identity: str) -> MemberDirectory:
        """Return the directory of one member."""
        return MemberDirectory(self.members / identity)

    def collect(self) -> None:
        """Merge the members' own tables into `members.parquet` and `curves.parquet`, one row per (config_hash, seed).

        A member without a row has not finished and is left out, with its curves. A column that a member lacks is null.
        Raises StorageError, naming the file, where a member's own table is damaged.
        """
        with held(self.path / ".collect.lock"):
            directories = [MemberDirectory(file.parent) for file in self.row_files]
            # The row is a member's last file: without it the curves belong to a training that a resume repeats.
            finished = [each for each in directories if each.row_file.is_file()]
            keys = ("config_hash", "seed")
            rows = [_member_table(each.row_file, MEMBER_COLUMNS, keys) for each in finished]
            curves = [
                _member_table(each.curves_file, CURVE_COLUMNS, (*keys, "step", "metric"))
                for each in finished
                if each.curves_file.is_file()
            ]
            write_table(self.members_file, _unique(_merge(self.members_file, rows, MEMBER_COLUMNS), keys))
            points = _merge(self.curves_file, curves, CURVE_COLUMNS)
            write_table(self.curves_file, _unique(points, (*keys, "step", "metric")))

    def collected(self, file: Path, columns: Sequence[str] | None = None) -> pa.Table:
        """Read `members.parquet` or `curves.parquet`; a damaged one is kept aside and made again from the members' own.

        Raises StorageError where that is not possible, or where another program has written the file: what somebody
        changed there is not thrown away.
        """
        try:
            table = read_table(file, columns)
        except StorageError as error:
            if not self.row_files or not file.is_file():
                raise
            aside = file.with_name(f"{file.name}.damaged")
            try:
                file.replace(aside)
            except OSError:
                raise error from None
            self.collect()
            _log.warning("%s; it is made again from members/, and kept as %s", error, aside.name)
            return read_table(file, columns)
        if _holds(self.marker_file, "made_by", MAKER) and not is_own_table(file):
            raise StorageError(
                f"{file} was written by another program; give that file another name, and "
                f"`{command('ensemble', 'report', self.path)}` makes this one again from members/"
            )
        return table


def _holds(file: Path, key: str, value: str | None = None) -> bool:
    """Return whether a JSON file holds a key, with this value where one is given."""
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and key in found and value in (None, found[key])


def _member_table(file: Path, columns: pa.Schema, required: tuple[str, ...]) -> pa.Table:
    """Read a member's own table and cast its fixed columns; StorageError with what to do where that is not possible."""
    advice = f"remove it, and `{command('ensemble', 'resume', file.parents[2])}` trains that member again"
    try:
        table = read_table(file)
    except StorageError as error:
        raise StorageError(f"{error}; {advice}") from error
    lacking = [name for name in required if name not in table.column_names]
    if lacking:
        raise StorageError(f"{file}: damaged: it lacks the column '{lacking[0]}'; {advice}")
    if empty := [name for name in required if table[name].null_count]:
        raise StorageError(f"{file}: damaged: its column '{empty[0]}' has empty values; {advice}")
    return cast_columns(file, table, columns, advice)


def cast_columns(file: Path, table: pa.Table, columns: pa.Schema, advice: str = "") -> pa.Table:
    """Return a table with the types of `columns`; StorageError names a column of another kind."""
    for name in set(columns.names) & set(table.column_names):
        kind, found = columns.field(name).type, table[name]
        try:
            table = table.set_column(table.column_names.index(name), name, found.cast(kind))
        except pa.ArrowException as error:
            more = f"; {advice}" if advice else ""
            raise StorageError(f"{file}: column '{name}' is {found.type}, not {kind}: {error}{more}") from error
    return table


def _merge(target: Path, tables: list[pa.Table], columns: pa.Schema) -> pa.Table:
    """Stack tables; the fixed columns come first, the others by name. Columns of kinds that differ become text."""
    extra = sorted({name for table in tables for name in table.column_names} - set(columns.names))
    try:
        # A searched parameter may be a number in one configuration and text in another; Arrow refuses to stack them.
        for name in extra:
            kinds = {table.schema.field(name).type for table in tables if name in table.column_names} - {pa.null()}
            if len(kinds) > 1 and not kinds <= {pa.int64(), pa.float64()}:
                tables = [_as_text(table, name) for table in tables]
        whole = pa.concat_tables([columns.empty_table(), *tables], promote_options="permissive")
        return whole.select([*columns.names, *extra])
    except pa.ArrowException as error:
        raise StorageError(f"{target} cannot be made of the tables in members/: {error}") from error


def _as_text(table: pa.Table, name: str) -> pa.Table:
    if name not in table.column_names:
        return table
    return table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))


def _unique(table: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Keep the last row of each key, sorted by key."""
    # The last one wins: a repeated measurement at a step replaces the earlier one.
    last = dict(zip(zip(*(table[name].to_pylist() for name in key), strict=True), range(table.num_rows), strict=True))
    return table.take(pa.array([last[each] for each in sorted(last)], pa.int64())).combine_chunks()
