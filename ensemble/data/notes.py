"""What a directory of shards says about itself: texts in Parquet files without rows, in its folder `_meta`.

Programs that open a directory of Parquet as one table read every file in it: some skip names that begin with an
underscore, some want one suffix and one schema everywhere. A note has the schema of the shards and no row, so all of
them open the directory and get the shards alone; its text is in the file's own metadata, with a checksum. Directories
from before, with `manifest.json`, `episodes.parquet` and `source-*.json` beside the shards, are read as well.
"""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.errors import DataError
from ensemble.store import atomic_file

FOLDER = "_meta"
MANIFEST = "manifest"
EPISODES = "episodes"
EARLIER = {MANIFEST: "manifest.json", EPISODES: "episodes.parquet"}  # names of these beside the shards
_TEXT = "ensemble"
_CHECKSUM = "ensemble.sha256"
_LIMIT = (1 << 31) - 1  # bytes of a text: pyarrow's own limit is lower


def note_path(directory: Path, name: str) -> Path:
    """Return the path of a note."""
    return directory / FOLDER / f"{name}.parquet"


def earlier_path(directory: Path, name: str) -> Path:
    """Return the path of the same in directories from before there were notes."""
    return directory / EARLIER.get(name, f"{name}.json")


def existing_path(directory: Path, name: str) -> Path:
    """Return the path of a note, or the earlier one where only that is there."""
    note, earlier = note_path(directory, name), earlier_path(directory, name)
    return earlier if earlier.is_file() and not note.is_file() else note


def has_manifest(directory: Path) -> bool:
    """Return whether a directory is a data set: its manifest is written last."""
    return existing_path(directory, MANIFEST).is_file()


def write_note(directory: Path, name: str, text: str, schema: pa.Schema) -> Path:
    """Write a text into a file without rows, with the schema of the shards; return its path."""
    path = note_path(directory, name)
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        writer.add_key_value_metadata({_TEXT: text, _CHECKSUM: hashlib.sha256(text.encode()).hexdigest()})
    return path


def read_note(path: Path) -> str:
    """Return the text of a note, or of an earlier file of text; DataError where it is damaged.

    Raises OSError where the file cannot be read.
    """
    if path.suffix != ".parquet":
        return path.read_text()
    try:
        with pq.ParquetFile(path, thrift_string_size_limit=_LIMIT, thrift_container_size_limit=_LIMIT) as file:
            found = file.metadata.metadata or {}
    except pa.ArrowException as error:
        raise DataError(f"{path}: damaged: {error}") from error
    text = found.get(_TEXT.encode(), b"")
    if hashlib.sha256(text).hexdigest() != found.get(_CHECKSUM.encode(), b"").decode(errors="replace"):
        raise DataError(f"{path}: damaged: its checksum is wrong")
    return str(text, "utf-8")


def remove_note(directory: Path, name: str) -> None:
    """Remove a note, in either place."""
    note_path(directory, name).unlink(missing_ok=True)
    earlier_path(directory, name).unlink(missing_ok=True)
