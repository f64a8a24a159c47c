"""Reading of HDF5 files: the only module that reads through h5py.

No other file is opened unless `follow_links` is set: links are listed before any is followed, and arrays with bytes in
other files are refused. Damage that h5py reports becomes a DataError with advice.

MATLAB's files of version 7.3 are HDF5 with all axes of an array in reverse order; they are read in MATLAB's own.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ensemble.data.layouts.container import ArrayInfo, Values, check_dtype, check_size
from ensemble.data.layouts.mat import as_vector
from ensemble.errors import DataError
from ensemble.text import byte_size, first_line

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Bytes per open array. Slices cross chunks, and a cached chunk is decompressed only once.
_CHUNK_CACHE = 64 << 20
_MATLAB_UNREAD = ("char", "cell", "struct", "function_handle", "string", "table", "datetime", "duration")
_ROOT_NAMES = 50  # names in the root that are asked for MATLAB's attribute
_MATLAB_OWN = ("#refs#", "#subsystem#")


class Hdf5File:
    """An HDF5 file as a Container."""

    def __init__(self, path: Path, follow_links: bool = False):
        self.path = path
        self._follow_links = follow_links
        self._file = _open(path)
        # Before anything else is read: a lookup of a name would already follow its link.
        try:
            if not follow_links:
                self._refuse_external_links()
            # Asked once: attributes of ten thousand arrays take seconds.
            self._matlab = self._is_of_matlab()
        except DataError:
            self._file.close()
            raise

    def names(self, group: str = "") -> list[str]:
        """Return the names inside a group; [] for anything else."""
        with self._as_data_error(group or "/"):
            found = self._file.get(group) if group else self._file
            # MATLAB keeps the contents of cells and objects there, under numbers.
            return [name for name in found if name not in _MATLAB_OWN] if isinstance(found, h5py.Group) else []

    def has(self, key: str) -> bool:
        """Return whether a group or an array has this name."""
        with self._as_data_error(key):
            return key in self._file

    def is_array(self, key: str) -> bool:
        """Return whether an array has this name."""
        with self._as_data_error(key):
            return self._file.get(key, getclass=True) is h5py.Dataset

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration of a numeric array; DataError when it must not or cannot be read."""
        dataset = self._dataset(key)
        info = self._info(key, dataset)
        check_dtype(self.path, info)
        check_size(self.path, key, info.bytes)
        # HDF5 would read such an array as zeros. Virtual and external arrays have their bytes elsewhere.
        if info.bytes and not dataset.is_virtual and not dataset.external and not dataset.id.get_storage_size():
            raise DataError(
                f"{self.path}: {key} declares {byte_size(info.bytes)} and holds 0 bytes; was its writer stopped?"
            )
        return info

    def read(self, key: str, *where: slice) -> Values:
        """Read an array or a part of it, one slice per axis; DataError when the file is damaged there."""
        dataset = self._dataset(key)
        if not self._matlab:
            with self._as_data_error(key):
                return np.asarray(dataset[where])
        shape = self._info(key, dataset).shape
        with self._as_data_error(key):
            if shape == (0, 0):
                return np.empty(shape, dataset.dtype)[where]
            if self._matlab_class(dataset):
                return np.asarray(dataset[()]).T.reshape(shape)[where]
            return np.asarray(dataset[where])

    def text(self, key: str) -> list[str]:
        """Read an array of names."""
        dataset = self._dataset(key)
        with self._as_data_error(key):
            if dataset.dtype.kind not in "OSU":
                raise DataError(f"{self.path}: {key} has dtype {dataset.dtype} where names are expected")
            return [name.decode() if isinstance(name, bytes) else str(name) for name in dataset[:].reshape(-1)]

    def attribute(self, group: str, name: str) -> Any:
        """Return an attribute as a Python value, or None."""
        with self._as_data_error(f"{group or '/'} (attribute {name})"):
            owner = self._file.get(group) if group else self._file
            value = None if owner is None else owner.attrs.get(name)
        # Writers store scalars as arrays of one element, too, and text as bytes.
        if isinstance(value, np.ndarray) and value.size != 1:
            return value.tolist()
        if isinstance(value, np.ndarray | np.generic):
            value = value.item()
        return value.decode() if isinstance(value, bytes) else value

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _info(self, key: str, dataset: h5py.Dataset) -> ArrayInfo:
        """Return the declaration with MATLAB's axes where MATLAB wrote it."""
        with self._as_data_error(key):
            shape, dtype, matlab = dataset.shape, dataset.dtype, self._matlab_class(dataset) if self._matlab else ""
            empty = bool(matlab) and "MATLAB_empty" in dataset.attrs
        if shape is None:
            raise DataError(f"{self.path}: {key} is an empty data set without a shape")
        if matlab in _MATLAB_UNREAD:
            raise DataError(f"{self.path}: {key} is of MATLAB's class {matlab}; only arrays of numbers are read")
        if empty:
            # The array holds the size of the one that is meant, which has no entries.
            return ArrayInfo(key, (0, 0), dtype)
        return ArrayInfo(key, as_vector(shape[::-1]) if matlab else shape, dtype)

    def _is_of_matlab(self) -> bool:
        """Return whether an array or group in the root carries MATLAB's attribute."""
        with self._as_data_error("its root"):
            members = [self._file.get(name) for name in itertools.islice(self._file, _ROOT_NAMES)]
            return any(member is not None and "MATLAB_class" in member.attrs for member in members)

    def _matlab_class(self, dataset: h5py.Dataset) -> str:
        value = dataset.attrs.get("MATLAB_class", b"")
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def _dataset(self, key: str) -> h5py.Dataset:
        with self._as_data_error(key):
            dataset = self._file.get(key)
            if not isinstance(dataset, h5py.Dataset):
                raise DataError(f"{self.path}: '{key}' is not an array")
            outside = bool(dataset.external) or dataset.is_virtual
        if outside and not self._follow_links:
            raise DataError(
                f"{self.path}: the bytes of {key} lie in another file (external storage or a virtual data set), "
                "which is not followed; data.follow_links: true allows it"
            )
        return dataset

    def _refuse_external_links(self) -> None:
        """Raise DataError for a link to another file; no link is followed."""
        external: list[str] = []

        def visit(name: bytes, info: Any) -> None:
            if info.type not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
                external.append(name.decode(errors="replace"))

        with self._as_data_error("its list of links"):
            self._file.id.links.visit(visit, info=True)
        if external:
            raise DataError(
                f"{self.path}: '{external[0]}' is a link to another file ({len(external)} in all), "
                "which is not followed; data.follow_links: true allows it"
            )

    @contextmanager
    def _as_data_error(self, what: str) -> Iterator[None]:
        """Turn h5py's exceptions on damaged files into DataError."""
        try:
            yield
        except (
            OSError,
            RuntimeError,
            KeyError,
            ValueError,
            TypeError,
            UnicodeError,
            OverflowError,
            MemoryError,
        ) as error:
            filtered = "filter returned failure" in str(error)
            cause = "a chunk fails its checksum or does not unpack" if filtered else "the file is damaged"
            raise DataError(f"{self.path}: cannot read {what}: {cause} ({first_line(error)})") from error


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {_why_not_opened(path, error)}") from error


def _why_not_opened(path: Path, error: Exception) -> str:
    """Translate h5py's message into a cause and advice."""
    # h5py has no error classes: the text of the HDF5 library is all there is.
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
        return f"truncated: {size} bytes are there ({first_line(error)})"
    if isinstance(error, PermissionError):
        return "not readable: permission denied"
    return f"not a readable HDF5 file of {size} bytes: damaged or truncated at its start ({first_line(error)})"
