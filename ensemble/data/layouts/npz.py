"""npz archives, read without pickle, and the flat rollouts that Stable-Baselines stores in them.

The layout is `obs`, `actions` and `episode_starts`, the flags of first rows; the last observation has no successor.
`imitation` stores `obs`, `acts` and `indices`, the rows of `acts` at which trajectories are divided: each has one row
of `obs` more. The same names in an HDF5 file are the same layout.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import (
    ArrayInfo,
    Container,
    NotNumericError,
    Values,
    check_dtype,
    check_size,
    require,
)
from ensemble.data.layouts.file_kinds import why_no_npz
from ensemble.data.layouts.flat import FlatColumn, flags, flat_recording
from ensemble.data.layouts.grouped import lengths_text, matrix
from ensemble.data.layouts.recording import Recording, append_last, raw_feature, same_rows
from ensemble.errors import DataError
from ensemble.text import plural

SIGNATURE = b"PK"
_SUFFIX = ".npy"


class NpzFile:
    """An npz archive as a Container: arrays in the root group, no attributes."""

    def __init__(self, path: Path):
        self.path = path
        self._read: dict[str, Values] = {}
        with self._as_data_error("its list of arrays"):
            self._archive = zipfile.ZipFile(path)
        # torch.save writes zip archives, too, so the signature does not exclude them.
        if any(name.endswith("data.pkl") for name in self._archive.namelist()):
            self._archive.close()
            raise DataError(f"{path}: a PyTorch archive; pickled data is not read, write its tensors with numpy.savez")
        if not any(name.endswith(_SUFFIX) for name in self._archive.namelist()):
            names = self._archive.namelist()
            self._archive.close()
            raise DataError(f"{path}: {why_no_npz(names)}")
        self._names = [n.removesuffix(_SUFFIX) for n in self._archive.namelist() if n.endswith(_SUFFIX)]

    def names(self, group: str = "") -> list[str]:
        """Return the names of the arrays; [] for any group but the root."""
        return list(self._names) if not group else []

    def has(self, key: str) -> bool:
        """Return whether an array has this name."""
        return key in self._names

    def is_array(self, key: str) -> bool:
        """Return whether an array has this name."""
        return key in self._names

    def array(self, key: str) -> ArrayInfo:
        """Return the declaration in an array's header; DataError when the array must not or cannot be read."""
        info = self._header(key)
        check_dtype(self.path, info)
        check_size(self.path, key, info.bytes)
        return info

    def read(self, key: str, *where: slice) -> Values:
        """Return a read-only array or a part of it; DataError when the archive is damaged there."""
        # Kept, since a member of an archive can only be decompressed as a whole; the header is checked before.
        if key not in self._read:
            self.array(key)
            with self._as_data_error(key), self._archive.open(key + _SUFFIX) as file:
                values: Values = np.lib.format.read_array(file, allow_pickle=False)
            values.setflags(write=False)
            self._read[key] = values
        return self._read[key][where]

    def text(self, key: str) -> list[str]:
        """Raise DataError: npz files have no arrays of names."""
        raise DataError(f"{self.path}: no array of names '{key}'")

    def attribute(self, group: str, name: str) -> Any:
        """Return None: npz files have no attributes."""
        return None

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def _header(self, key: str) -> ArrayInfo:
        if key not in self._names:
            raise DataError(f"{self.path}: '{key}' is not an array")
        with self._as_data_error(key), self._archive.open(key + _SUFFIX) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        return ArrayInfo(key, shape, dtype)

    @contextmanager
    def _as_data_error(self, what: str) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, NotImplementedError) as error:
            raise DataError(f"{self.path}: cannot read {what}: the file is damaged or truncated ({error})") from error


TITLE = "flat rollouts"
_STARTS = "episode_starts"
_REQUIRED = ("obs", "actions", _STARTS)
_DIVIDED = ("obs", "acts", "indices")
_DIVIDED_TITLE = "imitation trajectories"


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists; those of `imitation` replace the others."""
    names = _DIVIDED if all(container.is_array(key) for key in _DIVIDED) else _REQUIRED
    return {key: container.has(key) for key in names}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent."""
    if not container.has(_STARTS) and all(container.is_array(key) for key in _DIVIDED):
        return _open_divided(container)
    require(container, _REQUIRED, "npz")
    infos = {key: container.array(key) for key in ("obs", "actions")}
    rows = same_rows(container, {key: info.shape[0] for key, info in infos.items()})
    if not rows:
        raise DataError(f"{container.path}: holds 0 episodes: obs has 0 rows")
    columns = [
        FlatColumn(raw_feature(key, info.width(), info.dtype, "state" if key == "obs" else "control"), key)
        for key, info in infos.items()
    ]
    begins = np.flatnonzero(_starts(container, rows)).astype(np.int64)
    # The first row begins an episode whatever its flag says: a buffer may start in the middle of one.
    starts = np.unique(np.append(0, begins))
    unmarked = len(starts) > len(begins)
    notices = [f"the first row begins an episode, though {_STARTS}[0] is false"] if unmarked else []
    return flat_recording(container, "npz", TITLE, columns, starts, rows, notices)


def _starts(container: Container, rows: int) -> npt.NDArray[np.bool_]:
    """Read the flags of first rows; DataError with the way to the other arrays where they are pickled."""
    try:
        container.array(_STARTS)
    except NotNumericError as error:
        way = "--map state=obs --map control=actions reads the others, as one episode"
        raise DataError(f"{error}; {way} (--cut-at-jumps divides it)") from error
    return flags(container, _STARTS, rows)


def _open_divided(container: Container) -> Recording:
    """Open trajectories of `imitation`; DataError where the rows of `obs` are not those of `acts` and one for each."""
    obs, acts = container.array("obs"), container.array("acts")
    cuts = container.read("indices").reshape(-1).astype(np.int64)
    bounds = np.concatenate([[0], cuts, [acts.shape[0]]])
    counts = np.diff(bounds)
    if len(counts[counts < 1]):
        number = int(np.flatnonzero(counts < 1)[0])
        raise DataError(
            f"{container.path}: indices do not ascend within the {acts.shape[0]} rows of acts (trajectory {number})"
        )
    points = counts + 1
    if obs.shape[0] != points.sum():
        raise DataError(
            f"{container.path}: obs has {obs.shape[0]} rows; acts has {acts.shape[0]} in {len(counts)} trajectories, "
            f"which need {points.sum()}"
        )
    ends = np.append(0, np.cumsum(points))

    def read(first: int, last: int) -> dict[str, Values]:
        actions = matrix(container.read("acts", slice(int(bounds[first]), int(bounds[last]))))
        return {
            "obs": matrix(container.read("obs", slice(int(ends[first]), int(ends[last])))),
            "acts": append_last(actions, counts[first:last]),
        }

    return Recording(
        layout="npz",
        summary=f"{_DIVIDED_TITLE}: {plural(len(counts), 'episode')} of {lengths_text(points)}",
        features=(
            raw_feature("obs", obs.width(), obs.dtype, "state"),
            raw_feature("acts", acts.width(), acts.dtype, "control", successor=False),
        ),
        keys=tuple(f"episode-{i}" for i in range(len(counts))),
        points=points,
        given=(None,) * len(counts),
        dt=None,
        notices=(),
        read=read,
    )
