"""Where things lie in results/, and the only way they get there: whole or not at all.

Everything is written under a temporary name in the same directory, synced and renamed, so that a reader, a full disk or
a killed process meets the old file or the new one. It knows paths, rows and identities; it decides nothing.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.config.experiment import Experiment
from ensemble.config.tree import flatten as flatten
from ensemble.errors import StorageError
from ensemble.schema import CURVE_COLUMNS, MEMBER_COLUMNS


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it is gone.

    Missing directories are made. Raises StorageError, naming path, needed and free bytes, where the system refuses;
    errors of the body that are not about writing (a source that cannot be read) pass unchanged.
    """
    with _refusals(path):
        temporary = _beside(path)
    try:
        with _refusals(path, temporary, _WRITE_ERRORS):
            yield temporary
        with _refusals(path, temporary):
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


@contextmanager
def _refusals(path: Path, temporary: Path | None = None, only: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn the system's refusals, all or only some, into StorageError."""
    try:
        yield
    except OSError as error:
        if only and error.errno not in only and "No space left" not in str(error):
            raise
        raise _storage_error(path, temporary, error) from error


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.fchmod(handle, 0o666 & ~_UMASK)
    os.close(handle)
    return Path(name)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes."""
    with atomic_file(path) as temporary, _needing(len(content)):
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; StorageError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StorageError(f"{path}: damaged: {error}") from error


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet; equal tables give equal bytes."""
    with atomic_file(path) as temporary, _needing(table.nbytes):
        pq.write_table(table, temporary, **_PARQUET)


_PARQUET: dict[str, Any] = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "write_statistics": True,
    "data_page_version": "1.0",
    "write_page_checksum": True,
    "row_group_size": 1 << 20,
}


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read Parquet with its checksums, those of `columns` that it has; StorageError where it is missing or damaged."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read(columns)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def config_hash(experiment: Experiment) -> str:
    """Return the 12 hexadecimal digits that name a configuration without its seed.

    Hashed are the parts that define a result: data (not where it lies nor how it is read), model, train, threads. Not
    the experiment's name, seeds, packs, workers, checkpoints or logging.
    """
    parts = experiment.model_dump(mode="json", include={"data", "model", "train"})
    parts["train"].pop("checkpoint_every")
    for name in ("path", "layout", "follow_links"):
        parts["data"].pop(name)
    parts["data"]["validation"] = sorted(parts["data"]["validation"])
    parts["resources"] = {"threads": experiment.resources.threads}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def member_id(config_hash: str, seed: int) -> str:
    """Return the name of a member's directory."""
    return f"{config_hash}-s{seed}"


@dataclass(frozen=True, slots=True)
class MemberDirectory:
    """What one member leaves."""

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
    def rollouts_file(self) -> Path:
        """Its rollouts on the test split."""
        return self.path / "rollouts.parquet"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """What an experiment leaves: results/<experiment>."""

    path: Path

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

    @property
    def figures(self) -> Path:
        """Directory of figures."""
        return self.path / "figures"

    @property
    def ray(self) -> Path:
        """Ray's own directory; nothing of ours reads it."""
        return self.path / "ray"

    @property
    def members(self) -> Path:
        """Directory of the members' directories."""
        return self.path / "members"

    def member(self, identity: str) -> MemberDirectory:
        """Return the directory of one member."""
        return MemberDirectory(self.members / identity)

    def collect(self) -> None:
        """Merge the members' own tables into `members.parquet` and `curves.parquet`, one row per (config_hash, seed).

        A member without a row has not finished and is left out, its curves too. Columns that some lack are null there.
        """
        directories = [self.member(path.name) for path in sorted(self.members.glob("*")) if path.is_dir()]
        finished = [each for each in directories if each.row_file.is_file()]
        rows = _merge([read_table(each.row_file) for each in finished], MEMBER_COLUMNS)
        curves = [read_table(each.curves_file) for each in finished if each.curves_file.is_file()]
        write_table(self.members_file, _unique(rows, ("config_hash", "seed")))
        write_table(self.curves_file, _unique(_merge(curves, CURVE_COLUMNS), ("config_hash", "seed", "step", "metric")))


def _merge(tables: list[pa.Table], columns: pa.Schema) -> pa.Table:
    """Stack tables; the fixed columns come first, the others by name. A column of numbers and texts becomes text."""
    extra = sorted({name for table in tables for name in table.column_names} - set(columns.names))
    for name in extra:
        kinds = {table.schema.field(name).type for table in tables if name in table.column_names} - {pa.null()}
        if len(kinds) > 1 and not kinds <= {pa.int64(), pa.float64()}:
            tables = [_as_text(table, name) for table in tables]
    whole = pa.concat_tables([columns.empty_table(), *tables], promote_options="permissive")
    return whole.select([*columns.names, *extra])


def _as_text(table: pa.Table, name: str) -> pa.Table:
    if name not in table.column_names:
        return table
    return table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))


def _unique(table: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Keep the last row of each key, sorted by key."""
    last = dict(zip(zip(*(table[name].to_pylist() for name in key), strict=True), range(table.num_rows), strict=True))
    return table.take(pa.array([last[each] for each in sorted(last)], pa.int64())).combine_chunks()


def table_of(rows: Iterable[Mapping[str, Any]], columns: pa.Schema) -> pa.Table:
    """Build a table of rows: the fixed columns by their types, further ones by their values."""
    rows = list(rows)
    extra = sorted({name for row in rows for name in row} - set(columns.names))
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in columns]
    arrays += [pa.array([row.get(name) for row in rows]) for name in extra]
    return pa.table(arrays, names=[*columns.names, *extra])


class _OutOfSpaceError(OSError):
    needed: int = 0


@contextmanager
def _needing(size: int) -> Iterator[None]:
    """Remember how many bytes a write asked for, should it fail."""
    try:
        yield
    except OSError as error:
        wrapped = _OutOfSpaceError(error.errno, error.strerror or str(error))
        wrapped.needed = size
        raise wrapped from error


def _storage_error(path: Path, temporary: Path | None, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        written = temporary.stat().st_size if temporary is not None and temporary.exists() else 0
        needed = max(getattr(error, "needed", 0), written)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
        return StorageError(f"{path}: the disk is full: needed about {needed:,} bytes, free {free:,} bytes")
    return StorageError(f"{path}: cannot be written: {error.strerror or error}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """Read the mask, which can only be done by setting it: once, before there are threads."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()
