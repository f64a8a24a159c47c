"""Detection of a file's layout, by the share of the names that each layout needs.

To add a layout: a module with TITLE, `wanted` and `open_recording`, and a line in LAYOUTS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ensemble.config.data import DataConfig
from ensemble.data.layouts import (
    csv_file,
    d4rl,
    file_kinds,
    hdf5,
    mapped,
    mat,
    nerd,
    npz,
    pairs,
    robomimic,
    robosuite,
    table,
)
from ensemble.data.layouts.container import Container, check_size, missing_key, walk_arrays
from ensemble.data.layouts.folder import is_lerobot
from ensemble.data.layouts.lerobot import layout as lerobot
from ensemble.data.layouts.lerobot.folder import LeRobotFolder
from ensemble.data.layouts.names import chosen_features
from ensemble.data.layouts.recording import Recording, with_options
from ensemble.data.layouts.rollouts import maniskill, minari, mocapact, rollout
from ensemble.errors import DataError, UsageError
from ensemble.text import plural

_ASKED = 1000  # arrays of which one with numbers is looked for
_LISTED = 8  # arrays that the error for an unknown file names
_USER_BLOCKS = (0, 512, 1024, 2048, 4096)  # offsets of the signature: HDF5 allows a user block before it


@dataclass(frozen=True, slots=True)
class Layout:
    """One known layout."""

    name: str
    title: str
    wanted: Callable[[Container], dict[str, bool]]  # needed name: whether it exists
    open: Callable[[Container, DataConfig], Recording]


@dataclass(frozen=True, slots=True)
class Match:
    """The fit of a file to a layout."""

    layout: Layout
    present: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def score(self) -> float:
        """Share of the needed names that exist."""
        return len(self.present) / (len(self.present) + len(self.missing))


# In order of preference where two match: raw robosuite files have no actions, so the two never match the same file.
LAYOUTS = (
    Layout("nerd", nerd.TITLE, nerd.wanted, nerd.open_recording),
    Layout("robomimic", robomimic.TITLE, robomimic.wanted, robomimic.open_recording),
    Layout("robosuite", robosuite.TITLE, robosuite.wanted, robosuite.open_recording),
    Layout("lerobot", lerobot.TITLE, lerobot.wanted, lerobot.open_recording),
    Layout("minari", minari.TITLE, minari.wanted, minari.open_recording),
    Layout("maniskill", maniskill.TITLE, maniskill.wanted, maniskill.open_recording),
    Layout("aloha", rollout.ALOHA, rollout.aloha_wanted, rollout.open_aloha),
    Layout("mocapact", mocapact.TITLE, mocapact.wanted, mocapact.open_recording),
    Layout("d4rl", d4rl.TITLE, d4rl.wanted, d4rl.open_recording),
    Layout("npz", npz.TITLE, npz.wanted, npz.open_recording),
    Layout("pairs", pairs.TITLE, pairs.wanted, pairs.open_recording),
)


def open_container(path: Path, follow_links: bool = False) -> Container:
    """Open a file of arrays, distinguished by its first bytes; DataError for anything else, with the way out.

    Nothing is ever unpickled: pickles are refused by name and by content.
    """
    if is_lerobot(path):
        return LeRobotFolder(path)
    if not path.is_file():
        raise DataError(f"{path}: {'a directory' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as file:
            head = file.read(max(_USER_BLOCKS) + len(hdf5.SIGNATURE))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix.lower() in file_kinds.PICKLED and not head.startswith(file_kinds.POINTER):
        raise DataError(f"{path}: {file_kinds.why_pickled()}")
    if not head:
        raise DataError(f"{path}: empty file (0 bytes)")
    # By content, since suffixes of HDF5 files vary (.h5, .hdf5, .mat, none).
    if any(head[at : at + len(hdf5.SIGNATURE)] == hdf5.SIGNATURE for at in _USER_BLOCKS):
        return hdf5.Hdf5File(path, follow_links)
    if head.startswith(npz.SIGNATURE):
        return npz.NpzFile(path)
    if head.startswith(table.PARQUET_SIGNATURE):
        return table.open_parquet(path)
    if head.startswith(mat.SIGNATURE):
        return mat.open_mat(path)
    if path.suffix.lower() in csv_file.SUFFIXES and csv_file.looks_like_text(head):
        return csv_file.open_csv(path)
    raise DataError(f"{path}: {file_kinds.why_unreadable(path, head)}")


def detect(container: Container) -> list[Match]:
    """Score every layout, best first."""
    matches = []
    for layout in LAYOUTS:
        needed = layout.wanted(container)
        present = tuple(name for name, exists in needed.items() if exists)
        matches.append(Match(layout, present, tuple(name for name in needed if name not in present)))
    # A stable sort: the order of LAYOUTS decides between equal scores.
    return sorted(matches, key=lambda match: -match.score)


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file with the layout of the configuration, or with the detected one.

    Raises DataError with the best match and the nearest names when no layout fits, and when the declared size is above
    the limit; UsageError for `data.map` together with another layout.
    """
    if data.map and data.layout not in ("auto", "map"):
        raise UsageError(f"data.map is read with layout map or auto, not with layout {data.layout}")
    if data.map or data.layout == "map":
        recording = mapped.open_recording(container, data)
    else:
        given = [name for name in ("episode_column", "time_axis") if getattr(data, name) is not None]
        if given:
            raise UsageError(f"data.{given[0]} is for files that are read with data.map (--map)")
        layout, others = _layout(container, data)
        recording = layout.open(container, data)
        if others:
            notice = f"read as {layout.name}, though {' and '.join(others)} would fit as well (--layout chooses)"
            recording = replace(recording, notices=(notice, *recording.notices))
    declared = int(recording.points.sum()) * recording.width * 4
    check_size(container.path, "the data set", declared)
    recording = _with_shape_notices(with_options(recording, data, container), container)
    return chosen_features(recording, data.features, str(container.path)) if data.features else recording


def without_arrays(container: Container, unread: Sequence[str], reasons: Sequence[str] = ()) -> DataError:
    """Return the error for a file without an array of numbers; `unread` are its other arrays."""
    text = f"{container.path}: holds no arrays of numbers"
    if unread:
        why = reasons or [_why_unread(container, unread[0])]
        text += f"; it has {', '.join(unread[:_LISTED])} ({'; '.join(why)})"
    elif container.has(robomimic.GROUP) and not container.names(robomimic.GROUP):
        text += f": its group '{robomimic.GROUP}' is empty, a recording of 0 demonstrations"
    return DataError(text)


def _readable(container: Container) -> bool:
    """Return whether any array of a file holds numbers; of many, the first thousand are asked."""
    return any(not _why_unread(container, key) for key in walk_arrays(container, _ASKED))


def _why_unread(container: Container, key: str) -> str:
    try:
        container.array(key)
    except DataError as error:
        return str(error).removeprefix(f"{container.path}: ")
    return ""


def _with_shape_notices(recording: Recording, container: Container) -> Recording:
    """Say where axes may be swapped; DataError where no feature has a column."""
    if not recording.features:
        raise DataError(f"{container.path}: holds no feature with a column")
    longest = int(recording.points.max(initial=0))
    notices = [
        f"{feature.name} has {feature.width} columns and at most {plural(longest, 'point')} an episode: does time run "
        "along the other axis? (--time-axis last, with --map; second where the first axis is that of episodes)"
        for feature in recording.features
        if feature.width > longest
    ]
    return replace(recording, notices=(*recording.notices, *notices))


def _layout(container: Container, data: DataConfig) -> tuple[Layout, list[str]]:
    """Return the configured layout, or the first whose names all exist, and the names of others that fit as well.

    Raises DataError with the best match where none fits.
    """
    if data.layout != "auto":
        return next(layout for layout in LAYOUTS if layout.name == data.layout), []
    matches = detect(container)
    best = matches[0]
    if not best.missing:
        return best.layout, [match.layout.name for match in matches[1:] if not match.missing]
    other = f"files of another layout are read with a map: `ensemble inspect {container.path}` proposes one"
    if not best.present:
        arrays = ", ".join(walk_arrays(container, _LISTED))
        if not _readable(container):
            raise without_arrays(container, walk_arrays(container, _LISTED))
        raise DataError(f"{container.path}: of no known layout; it holds {arrays}; {other}")
    error = missing_key(container, best.missing[0], f"{best.layout.name} ({best.layout.title})")
    total = len(best.present) + len(best.missing)
    raise DataError(f"{error}; no known layout fits, this one best ({len(best.present)} of {total} names); {other}")
