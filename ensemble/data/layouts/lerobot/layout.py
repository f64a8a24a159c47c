"""LeRobot, versions 2 and 3: a folder with `meta/info.json` and Parquet tables of one row a frame.

`observation.*` are states, `action` is the control, or `state` and `actions` where a data set has no such names.
Numbers of other names are auxiliary, except rewards and flags of the next frame. The names in `info.json` are labels,
1 / fps is the time step, and its splits are given splits. Videos and pictures are left out. Missing files, and frames
that differ from what `meta/` counts, are reported by episode.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import ArrayInfo, Container, NotNumericError, Values
from ensemble.data.layouts.described import KEY, Described, redescribed
from ensemble.data.layouts.folder import LEROBOT_INFO
from ensemble.data.layouts.grouped import lengths_text
from ensemble.data.layouts.lerobot.folder import EPISODE, EpisodeEntry, LeRobotFolder
from ensemble.data.layouts.names import distinct_names
from ensemble.data.layouts.recording import SPLIT_NAMES, Recording, period, raw_feature
from ensemble.data.layouts.refused import MISCOUNTED, UNREADABLE, Refused, refusal
from ensemble.errors import DataError
from ensemble.schema import FeatureRole, Int64
from ensemble.text import plural

TITLE = "LeRobot"
INDEX_COLUMNS = ("index", EPISODE, "frame_index", "timestamp", "task_index")
STATE, ACTION = "observation.state", "action"
_OBSERVED, _NEXT = "observation", "next."
_OTHER_STATES, _OTHER_ACTIONS = {"state", "states"}, {"actions"}
_PICTURES = ("image", "video")


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    return {LEROBOT_INFO: container.has(LEROBOT_INFO)}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a folder of this layout; DataError where it is inconsistent."""
    if not isinstance(container, LeRobotFolder):
        raise DataError(f"{container.path}: no folder with {LEROBOT_INFO}, which the layout lerobot needs")

    # Episodes
    entries, bounds, refused = _usable_episodes(container)
    points = bounds[1] - bounds[0]

    # Features
    infos, notices = _numeric_columns(container)
    labels = _labels(container, infos)
    roles = _roles([info.key for info in infos])
    plain = [raw_feature(info.key, info.width(), info.dtype, roles[info.key], labels[info.key]) for info in infos]
    features, renamed = distinct_names(plain, [info.key for info in infos])

    def read(first: int, last: int) -> dict[str, Values]:
        return {
            feature.name: _rows(container, info.key, bounds[:, first:last])
            for feature, info in zip(features, infos, strict=True)
        }

    # Description
    tasks = {task for entry in entries for task in entry.tasks}
    if len(tasks) > 1:
        notices.append(f"{len(tasks)} tasks, whose texts are not read")
    recording = Recording(
        layout="lerobot",
        summary=f"{TITLE} {container.version}: {plural(len(entries), 'episode')} of {lengths_text(points)}",
        features=tuple(features),
        keys=tuple(f"episode_{entry.index}" for entry in entries),
        points=points,
        given=tuple(_given(container, entries)),
        dt=period(container.info.get("fps")),
        notices=(*notices, *renamed),
        read=read,
        refused=tuple(refused),
    )
    return redescribed(recording, _description(container))


def _usable_episodes(container: LeRobotFolder) -> tuple[list[EpisodeEntry], Int64, list[Refused]]:
    """Return the usable episodes, their first and next rows (2, episodes), and the others with reasons.

    Raises DataError where `info.json` counts other episodes than `meta/` lists, or when none is usable.
    """
    counted = container.info.get("total_episodes")
    if isinstance(counted, int) and counted != len(container.entries):
        raise DataError(
            f"{container.path}: {LEROBOT_INFO} counts {counted} episodes, meta/ lists {len(container.entries)}: "
            "its writer was stopped, or the folder is copied in part"
        )
    index = container.read(EPISODE)[:, 0] if container.is_array(EPISODE) else np.empty(0, np.int64)
    if (np.diff(index) < 0).any():
        raise DataError(f"{container.path}: {EPISODE} does not ascend from row to row of the tables")
    usable, refused = [], []
    for entry in container.entries:
        low, high = np.searchsorted(index, [entry.index, entry.index + 1])
        found = int(high - low)
        if entry.file in container.missing:
            refused.append(Refused(f"episode_{entry.index}", UNREADABLE, f"{entry.file} is missing"))
        elif not found or found != (entry.length or found):
            detail = f"meta/ says {entry.length or 'some'} frames, {entry.file} holds {found}"
            refused.append(Refused(f"episode_{entry.index}", MISCOUNTED, detail))
        else:
            usable.append((entry, int(low), int(high)))
    if not usable:
        raise refusal(container.path, refused, len(container.entries))
    bounds = np.array([[low for _, low, _ in usable], [high for _, _, high in usable]], dtype=np.int64)
    return [entry for entry, _, _ in usable], bounds, refused


def _rows(container: LeRobotFolder, key: str, bounds: Int64) -> Values:
    """Read the rows of some episodes, whose bounds are (2, episodes); others may lie between them."""
    values = container.read(key, slice(int(bounds[0, 0]), int(bounds[1, -1])))
    if (bounds[0, 1:] == bounds[1, :-1]).all():
        return values
    first = bounds[0, 0]
    return np.concatenate([values[low - first : high - first] for low, high in bounds.T])


def _numeric_columns(container: LeRobotFolder) -> tuple[list[ArrayInfo], list[str]]:
    """Return the columns that become features, states first, and notices on the others."""
    pictures = [key for key, each in container.features.items() if each.get("dtype") in _PICTURES]
    infos, texts, later = [], [], []
    for key in container.features:
        if key in pictures or key in INDEX_COLUMNS:
            continue
        if key.startswith(_NEXT):
            later.append(key)
            continue
        try:
            infos.append(container.array(key))
        except NotNumericError:
            texts.append(key)
    order: dict[FeatureRole, int] = {"state": 0, "control": 1}
    notices = [f"images left out: {', '.join(pictures)}"] if pictures else []
    notices += [f"rewards and flags left out: {', '.join(later)}"] if later else []
    notices += [f"texts left out: {', '.join(texts)}"] if texts else []
    roles = _roles([info.key for info in infos])
    return sorted(infos, key=lambda info: order.get(roles[info.key], 2)), notices


def _roles(keys: Sequence[str]) -> dict[str, FeatureRole]:
    """Return the role of each column by LeRobot's names, or by `state` and `actions` where none has such a name."""
    states = {key for key in keys if key.startswith(_OBSERVED)} or _OTHER_STATES & set(keys)
    controls = {key for key in keys if key == ACTION or key.startswith(f"{ACTION}.")} or _OTHER_ACTIONS & set(keys)
    return {key: "state" if key in states else "control" if key in controls else "auxiliary" for key in keys}


def _labels(container: LeRobotFolder, infos: Sequence[ArrayInfo]) -> dict[str, list[str] | None]:
    """Return the names of each column's entries; where columns share names, with the column's last part before."""
    named = {info.key: _flat_names(container.features[info.key].get("names")) for info in infos}
    fitting = {info.key: named[info.key] for info in infos if len(set(named[info.key])) == info.width()}
    counts = Counter(name for names in fitting.values() for name in names)
    labels: dict[str, list[str] | None] = dict.fromkeys(named)
    for key, names in fitting.items():
        last = key.rpartition(".")[2]
        labels[key] = [name if counts[name] == 1 else f"{last}.{name}" for name in names]
    return labels


def _flat_names(names: Any) -> list[str]:
    """Return the texts in `names` of `info.json`: a list, a list of lists, or lists under the names of axes."""
    if isinstance(names, dict):
        names = list(names.values())
    if isinstance(names, list):
        return [text for name in names for text in _flat_names(name)]
    return [names] if isinstance(names, str) else []


def _given(container: LeRobotFolder, entries: Sequence[EpisodeEntry]) -> list[str | None]:
    """Return the split of each episode by the ranges of `info.json`, such as {"train": "0:40"}."""
    given: dict[int, str] = {}
    splits = container.info.get("splits")
    for name, text in (splits if isinstance(splits, dict) else {}).items():
        low, colon, high = str(text).partition(":")
        if colon and low.isdigit() and high.isdigit():
            given |= dict.fromkeys(range(int(low), int(high)), SPLIT_NAMES.get(name, str(name)))
    return [given.get(entry.index) for entry in entries]


def _description(container: LeRobotFolder) -> list[Described]:
    """Return what our own writer says of the features, [] for data sets of others."""
    infos = [each.get("info") for each in container.features.values() if isinstance(each, dict)]
    return Described.read([part for info in infos if isinstance(info, dict) for part in info.get(KEY, [])])
