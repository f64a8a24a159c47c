"""HDF5 files, opened with care: the only place that reads through h5py.

Nothing outside the file is touched unless asked for: the links are listed before any of them is followed, and arrays
whose bytes lie in other files are refused. What h5py reports of damage becomes a DataError that says what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ensemble.data.layouts.container import ArrayInfo, Values, check_dtype, check_size
from ensemble.errors import DataError
from ensemble.text import byte_size

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHUNK_CACHE = 64 << 20  # bytes for each open array: slabs cut across chunks, and each chunk is unpacked once


class Hdf5File:
    """An HDF5 file as a Container."""

    def __init__(self, path: Path, follow_links: bool = False):
        self.path = path
        self._follow_links = follow_links
        self._file = _open(path)
        try:
            if not follow_links:
                self._refuse_external_links()
        except DataError:
            self._file.close()
            raise

    def names(self, group: str = "") -> list[str]:
        """Return the names inside a group; [] when it is none."""
        with self._damage(group or "/"):
            found = self._file.get(group) if group else self._file
            return list(found) if isinstance(found, h5py.Group) else []

    def has(self, key: str) -> bool:
        """Say whether there is a group or an array of this name."""
        with self._damage(key):
            return key in self._file

    def is_array(self, key: str) -> bool:
        """Say whether the name is that of an array."""
        with self._damage(key):
            return self._file.get(key, getclass=True) is h5py.Dataset

    def array(self, key: str) -> ArrayInfo:
        """Return what the file declares of a numeric array; DataError when it may not or cannot be read."""
        found = self._dataset(key)
        info = ArrayInfo(key, found.shape, found.dtype)
        check_dtype(self.path, info)
        check_size(self.path, key, info.bytes)
        if info.bytes and not found.is_virtual and not found.external and not found.id.get_storage_size():
            raise DataError(
                f"{self.path}: {key} declares {byte_size(info.bytes)} and holds 0 bytes; was its writer stopped?"
            )
        return info

    def read(self, key: str, *where: slice) -> Values:
        """Read an array or a part of it, one slice an axis; DataError when the file is damaged there."""
        found = self._dataset(key)
        with self._damage(key):
            values = found[where]
        return np.asarray(values)

    def text(self, key: str) -> list[str]:
        """Read an array of names."""
        found = self._dataset(key)
        with self._damage(key):
            if found.dtype.kind not in "OSU":
                raise DataError(f"{self.path}: {key} has dtype {found.dtype} where names are expected")
            return [name.decode() if isinstance(name, bytes) else str(name) for name in found[:].reshape(-1)]

    def attribute(self, group: str, name: str) -> Any:
        """Return an attribute as a Python value, or None."""
        with self._damage(f"{group or '/'} (attribute {name})"):
            found = self._file.get(group) if group else self._file
            value = None if found is None else found.attrs.get(name)
        if isinstance(value, np.ndarray) and value.size != 1:
            return value.tolist()
        if isinstance(value, np.ndarray | np.generic):
            value = value.item()
        return value.decode() if isinstance(value, bytes) else value

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _dataset(self, key: str) -> h5py.Dataset:
        with self._damage(key):
            found = self._file.get(key)
            if not isinstance(found, h5py.Dataset):
                raise DataError(f"{self.path}: '{key}' is not an array")
            outside = bool(found.external) or found.is_virtual
        if outside and not self._follow_links:
            raise DataError(
                f"{self.path}: the bytes of {key} lie in another file (external storage or a virtual data set), "
                "which is not followed; data.follow_links: true allows it"
            )
        return found

    def _refuse_external_links(self) -> None:
        """List every link without opening what it points to."""
        external: list[str] = []

        def see(name: bytes, info: Any) -> None:
            if info.type not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
                external.append(name.decode(errors="replace"))

        with self._damage("its list of links"):
            self._file.id.links.visit(see, info=True)
        if external:
            raise DataError(
                f"{self.path}: '{external[0]}' is a link to another file ({len(external)} in all), "
                "which is not followed; data.follow_links: true allows it"
            )

    @contextmanager
    def _damage(self, what: str) -> Iterator[None]:
        """Turn what h5py raises on a damaged file into a DataError."""
        try:
            yield
        except (OSError, RuntimeError, KeyError, ValueError, UnicodeDecodeError) as error:
            filtered = "filter returned failure" in str(error)
            cause = "a chunk fails its checksum or does not unpack" if filtered else "the file is damaged"
            raise DataError(f"{self.path}: cannot read {what}: {cause} ({_first_line(error)})") from error


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {_why_not_opened(path, error)}") from error


def _why_not_opened(path: Path, error: Exception) -> str:
    """Say in words what h5py's message means."""
    text = str(error)
    if isinstance(error, BlockingIOError) or "unable to lock file" in text:
        return (
            "locked: another process writes this file (HDF5 file locking). Wait for it, or on a file system without "
            "locks, such as some NFS mounts, set HDF5_USE_FILE_LOCKING=FALSE"
        )
    if "already open for write" in text or "h5clear" in text:
        return (
            "not closed by its writer (it was stopped, or still writes). Try `h5clear -s` on a COPY of the file; "
            "that clears the mark and is no repair, so check the copy with `ensemble inspect`"
        )
    size = path.stat().st_size if path.exists() else 0
    if "truncated" in text or "eof" in text:
        return f"truncated: {size} bytes are there ({_first_line(error)})"
    if isinstance(error, PermissionError):
        return "not readable: permission denied"
    return f"not a readable HDF5 file of {size} bytes: damaged or truncated at its start ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
