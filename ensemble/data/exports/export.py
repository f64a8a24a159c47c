"""From files or shards to data sets of other programs: LeRobot's folders and robomimic's files.

Files are converted first, into shards of their own that are removed again, so that what is exported has gone through
every check of a conversion. What the target cannot hold is said, one notice a thing. Video, pictures and texts, which
no shard holds, are not written either.
"""

import glob
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ensemble.config.data import DataConfig
from ensemble.data.convert import convert
from ensemble.data.exports.lerobot import write_lerobot
from ensemble.data.exports.robomimic import write_robomimic
from ensemble.data.notes import has_manifest
from ensemble.data.trajectories import Trajectories, read_trajectories
from ensemble.errors import StorageError, UsageError
from ensemble.lock import held_beside
from ensemble.schema import OnProgress

Target = Literal["lerobot", "robomimic"]
_WRITERS: dict[Target, Callable[[Path, Trajectories, str], list[str]]] = {
    "lerobot": write_lerobot,
    "robomimic": write_robomimic,
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: numbers of episodes and frames, and what the user must know."""

    episodes: int
    points: int
    notices: tuple[str, ...]


def export(
    sources: Sequence[Path],
    out: Path,
    target: Target,
    data: DataConfig,
    task: str,
    progress: OnProgress | None = None,
    skip_bad: bool = False,
) -> Exported:
    """Write files, or one directory of shards, as a data set of another program; `task` says what the robot does.

    The data set is held in memory, as in training. Raises UsageError when `out` exists or the target cannot hold the
    data, DataError as `convert`, StorageError when the disk cannot be written; then nothing stays at `out`.
    """
    converted = len(sources) == 1 and has_manifest(sources[0])
    if converted and data != DataConfig(path=data.path, dt=data.dt):
        raise UsageError(f"{sources[0]} is converted already: of the options of a conversion it takes --dt alone")
    with held_beside(out), _folder_beside(out) as folder:
        notices: tuple[str, ...] = ()
        shards = sources[0] if converted else folder / "shards"
        if not converted:
            notices = convert(sources, shards, data, progress, skip_bad).notices
        trajectories = read_trajectories(shards)
        trajectories = replace(trajectories, dt=data.dt or trajectories.dt)
        made = folder / out.name
        notices += tuple(_WRITERS[target](made, trajectories, task))
        made.rename(out)
    return Exported(len(trajectories.episodes), len(trajectories.rows), notices)


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """Yield a temporary folder on the file system of `out`, removed at the end, and remove those of killed exports.

    Raises UsageError when `out` exists, StorageError where no folder can be made. The lock of `out` is held.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists; choose another --out")
    prefix = f".{out.name}.export-"
    for left in out.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
    except OSError as error:
        raise StorageError(f"{out}: cannot be made: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
