"""Files of Parquet, JSON and text, written whole or not at all.

Every file is written under a temporary name in the same directory, synced and renamed, so that after a kill or on a
full disk a reader sees either the old file or the new one. `run_directory` has the paths of a run's files.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.errors import StorageError
from ensemble.text import first_line, parse_json


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the directory of `path`; on success it becomes `path`, on failure it is removed.

    Missing directories are made. Raises StorageError, with path, needed and free bytes, where the system cannot write;
    other errors of the body (a source that cannot be read) pass unchanged.
    """
    with _as_storage_errors(path):
        temporary = _temporary(path)
    try:
        with _as_storage_errors(path, temporary, _WRITE_ERRORS):
            yield temporary
        with _as_storage_errors(path, temporary):
            # The content before the name, then the name: after a power cut a synced name must not lead to empty data.
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


_LONGEST_PREFIX = 200  # bytes of a temporary name
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


@contextmanager
def _as_storage_errors(path: Path, temporary: Path | None = None, only: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn OSErrors, all or those with a number in `only`, into StorageError."""
    try:
        yield
    except OSError as error:
        # HDF5 and Arrow raise OSError without a number when the disk is full.
        if only and error.errno not in only and "No space left" not in str(error):
            raise
        raise _storage_error(path, temporary, error) from error


def _temporary(path: Path) -> Path:
    """Make an empty file in the same directory, since a rename is atomic only within a file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut, since a name that is possible may be too long with the additions.
    prefix = os.fsdecode(os.fsencode(f".{path.name}")[:_LONGEST_PREFIX])
    handle, name = tempfile.mkstemp(prefix=f"{prefix}.", suffix=".tmp", dir=path.parent)
    # mkstemp gives 0600; results are shared between users as other files are.
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


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, with the checksum of its content as `sha256`."""
    plain = json.loads(json.dumps(record))  # as it will be read: keys of JSON are text
    write_json(path, {**plain, "sha256": record_sha256(plain)})


def record_sha256(record: Mapping[str, Any]) -> str:
    """Return the checksum of a mapping of JSON values: that of its compact JSON with sorted keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """Read JSON; StorageError where it is missing or damaged."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StorageError(f"{path}: damaged: {error}") from error


def read_record(path: Path, kinds: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Read a JSON file that holds a mapping, without its `sha256`; empty where there is no file.

    Raises StorageError where it is damaged, or where a key of `kinds` has a value of another type (null is none). A
    file of an earlier version has no checksum.
    """
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise StorageError(f"{path}: damaged: it holds no mapping")
    if "sha256" in value and value.pop("sha256") != record_sha256(value):
        raise StorageError(f"{path}: damaged: its checksum is wrong")
    for key, kind in (kinds or {}).items():
        if value.get(key) is not None and not isinstance(value[key], kind):
            raise StorageError(f"{path}: damaged: '{key}' is {value[key]!r:.60}, not a {kind.__name__}")
    return value


def write_table(path: Path, table: pa.Table) -> None:
    """Write Parquet with a checksum of the whole file in its footer; equal tables give equal bytes."""
    plain = table.replace_schema_metadata(None)
    with atomic_file(path) as temporary, _needing(table.nbytes):
        with pq.ParquetWriter(temporary, plain.schema, **_PARQUET) as writer:
            writer.write_table(plain, row_group_size=_ROW_GROUP)
            writer.add_key_value_metadata({_CHECKED.decode(): "sha256", _SUM_KEY.decode(): "0" * _SUM_LENGTH})
        content = temporary.read_bytes()
        start = content.rfind(_SUM) + len(_SUM)
        with temporary.open("r+b") as file:
            file.seek(start)
            file.write(hashlib.sha256(content).hexdigest().encode())


_PARQUET: dict[str, Any] = {
    "version": "2.6",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "write_statistics": True,
    "data_page_version": "1.0",
    "write_page_checksum": True,
}
_ROW_GROUP = 1 << 20  # rows

# The checksum is an entry of the footer, and counts as zeros in its own sum. A second entry says that there is one: a
# flipped bit in the name of the first does not make the file one without a checksum.
_SUM_LENGTH = 64
_CHECKED, _SUM_KEY = b"ensemble.checksum", b"ensemble.sha256"
_SUM = _SUM_KEY + b"\x18" + bytes([_SUM_LENGTH])  # Thrift: a field with a text of this length


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read Parquet and verify its checksums; StorageError where it is missing or damaged.

    Files of other programs and of earlier versions have no checksum of the whole file. Of `columns`, those that the
    file lacks are left out.
    """
    try:
        content = path.read_bytes()
        if _has_checksum(content) and not _is_intact(content):
            raise StorageError(f"{path}: cannot be read: damaged, its checksum is wrong")
        table = pq.ParquetFile(arrow_file(content), page_checksum_verification=True).read(columns)
    except (OSError, pa.ArrowException) as error:
        reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
        raise StorageError(f"{path}: cannot be read: {reason}") from error
    return table.replace_schema_metadata(None)


def arrow_file(content: bytes) -> pa.BufferReader:
    """Return bytes as a file for Arrow, in memory of its own."""
    # Arrow's threads drop a file after the read has returned. Where that is an object of Python's they take its lock,
    # and at the end of the process they abort it: about one of 60.
    buffer = pa.allocate_buffer(len(content))
    memoryview(buffer).cast("B")[:] = content
    return pa.BufferReader(buffer)


def is_own_table(path: Path) -> bool:
    """Return whether a Parquet file has the checksum of `write_table`: another program leaves none."""
    try:
        return _has_checksum(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def _has_checksum(content: bytes) -> bool:
    return _CHECKED in content or _SUM in content


def _is_intact(content: bytes) -> bool:
    """Return whether the checksum in a file is that of the file."""
    at = content.rfind(_SUM)
    start, end = at + len(_SUM), at + len(_SUM) + _SUM_LENGTH
    digest = hashlib.sha256(memoryview(content)[:start])
    digest.update(b"0" * _SUM_LENGTH)
    digest.update(memoryview(content)[end:])
    return at >= 0 and content[start:end] == digest.hexdigest().encode()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def table_of(rows: Iterable[Mapping[str, Any]], columns: pa.Schema) -> pa.Table:
    """Build a table of rows: fixed columns with their types, further ones with inferred types."""
    rows = list(rows)
    extra = sorted({name for row in rows for name in row} - set(columns.names))
    arrays = [pa.array([row.get(field.name) for row in rows], field.type) for field in columns]
    arrays += [pa.array([row.get(name) for row in rows]) for name in extra]
    return pa.table(arrays, names=[*columns.names, *extra])


class _OutOfSpaceError(OSError):
    needed: int = 0


@contextmanager
def _needing(size: int) -> Iterator[None]:
    """Attach the size of a write in bytes to its OSError."""
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
        # Removed first, so that the message reports the space that is free for the next try.
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
        more = f": {needed - free:,} more" if needed > free else ""
        return StorageError(f"{path}: the disk is full: needed about {needed:,} bytes, free {free:,} bytes{more}")
    return StorageError(f"{path}: cannot be written: {error.strerror or error}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """Return the process's mask of file permissions."""
    # It can only be read by setting it, which races with other threads: once, at import.
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()
