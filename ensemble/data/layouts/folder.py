"""Folders as sources: a LeRobot data set is one source, any other folder is the files in it.

Nothing is opened here. A source has the identity of its files' bytes, whether it is one file or a folder.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ensemble.data import notes
from ensemble.data.layouts.recording import natural_order
from ensemble.errors import DataError
from ensemble.store import sha256_file
from ensemble.text import no_text, plural

LEROBOT_INFO = "meta/info.json"
SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".npz", ".mat", ".csv", ".tsv", ".parquet")
_INNER = "data"  # the folder that Minari keeps its file in, beside nothing else


def is_lerobot(path: Path) -> bool:
    """Return whether a folder is a LeRobot data set."""
    return (path / LEROBOT_INFO).is_file()


def is_shards(path: Path) -> bool:
    """Return whether a folder is one that a conversion made, or began to make."""
    return any(notes.existing_path(path, name).is_file() for name in (notes.MANIFEST, notes.EPISODES))


def expanded(paths: Sequence[Path]) -> list[Path]:
    """Return the sources that some paths name: files and LeRobot folders as they are, other folders as their files.

    The files of a folder come in natural order, those inside further folders are not looked at. Raises DataError for a
    folder without a file of a known suffix.
    """
    return [source for path in paths for source in (_files(path) if _is_plain(path) else [path])]


def contents(folder: Path) -> str:
    """Return what a folder is as a source, in a few words."""
    if is_lerobot(folder):
        return "a LeRobot data set"
    if is_shards(folder):
        return "a directory of shards"
    files = _files(folder)
    return f"{plural(len(files), 'file')}, {files[0].name}" + (f" to {files[-1].name}" if len(files) > 1 else "")


def parts_of(source: Path) -> list[Path]:
    """Return the files that a source's data lie in: itself, or the tables and descriptions of a LeRobot folder."""
    if not source.is_dir():
        return [source]
    found = [path for folder in ("meta", "data") for path in sorted((source / folder).rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix in (".json", ".jsonl", ".parquet")]


def source_bytes(source: Path) -> int:
    """Return the size of a source's files in bytes."""
    return sum(path.stat().st_size for path in parts_of(source))


def source_sha256(source: Path) -> str:
    """Return the identity of a source: the sha256 of a file, or of the names and sums of a folder's files."""
    if not source.is_dir():
        return sha256_file(source)
    digest = hashlib.sha256()
    for path in parts_of(source):
        digest.update(f"{path.relative_to(source).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _is_plain(path: Path) -> bool:
    return path.is_dir() and not is_lerobot(path)


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder that may hold episodes, episode_2 before episode_10."""
    if is_shards(folder):
        raise DataError(f"{folder}: converted already, a data set of its own")
    files = {path.name: path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES}
    if wrong := next(filter(None, (no_text(path) for path in files.values())), None):
        raise DataError(f"{folder}: the name {wrong} is no text in UTF-8; rename that file")
    if files:
        return [files[name] for name in natural_order(list(files))]
    if (folder / _INNER).is_dir() and not is_lerobot(folder / _INNER):
        return _files(folder / _INNER)
    raise DataError(f"{folder}: a folder without {LEROBOT_INFO} (LeRobot) and without files {', '.join(SUFFIXES)}")
