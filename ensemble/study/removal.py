"""What `--overwrite` removes: a run that this program made, by the names that it makes, and nothing of anybody else.

A run goes in one rename, to a hidden name next to it, and is removed there: a process that is killed in between leaves
no half of a run, and the next removal takes the rest away.
"""

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ensemble.errors import StorageError, UsageError
from ensemble.run_directory import RunDirectory

_NAMED = 3  # foreign files in a message
_TEMPORARY = r"\..+\.tmp|\.[a-z.]+\.lock"  # of writes and locks that were killed
# Names of the files in a run directory by the kind of folder that they are in, and the folders with their kinds. All in
# a `whole` one is of Ray, TensorBoard or Weights & Biases, which wrote it for us.
_NAMES: Mapping[str, str] = {
    "run": r"run\.json|(?:experiment|space)\.yaml|data\.json|search\.(?:json|log)|optuna\.journal(?:\.\w+)?"
    r"|(?:members|curves|summary|planned|baselines|trials|rungs|importances|evaluation)\.parquet(?:\.damaged)?"
    r"|report\.(?:html|md|csv|tex)|comparisons\.csv|evaluation(?:_[0-9]+_of_seed_[0-9]+)?\.(?:md|csv)",
    "figures": r".+\.(?:png|pdf|svg)",
    "members": "",
    "member": r"(?:member|curves|rollouts)\.parquet|(?:best|best_rollout)\.safetensors|train\.log"
    r"|(?:model|tokenizer|tracking)\.json",
    "checkpoints": "",
    "checkpoint": r"members\.safetensors|state\.json|curves\.parquet|MANIFEST\.json",
}
_INNER: Mapping[str, Mapping[str, str]] = {
    "run": {"figures": "figures", "members": "members", "ray": "whole"},
    "members": {r"[0-9a-f]{12}-s[0-9]+": "member"},
    "member": {"checkpoints": "checkpoints", "tensorboard": "whole", "wandb": "whole"},
    "checkpoints": {r"step-[0-9]{8}(?:\.partial)?": "checkpoint"},
}


def foreign_files(run: Path) -> Iterator[str]:
    """Yield what is in a run directory and has no name that a run makes, relative to it. Links are foreign."""
    yield from _foreign(run, "run", run)


def _foreign(folder: Path, kind: str, run: Path) -> Iterator[str]:
    inner_kinds = _INNER.get(kind, {}).items()
    for path in sorted(folder.iterdir()):
        inner = next((each for name, each in inner_kinds if re.fullmatch(name, path.name)), None)
        if path.is_symlink() or (path.is_dir() and inner is None):
            yield str(path.relative_to(run))
        elif path.is_dir() and inner not in (None, "whole"):
            yield from _foreign(path, str(inner), run)
        elif not path.is_dir() and not re.fullmatch(f"{_NAMES[kind]}|{_TEMPORARY}", path.name):
            yield str(path.relative_to(run))


def why_not_removed(run: Path, inputs: Mapping[str, Path]) -> str | None:
    """Return why --overwrite must not remove a run directory; None where it may.

    `inputs` are the files that the new run is made from, by the names that a message uses.
    """
    place = run.resolve()
    for name, path in inputs.items():
        if path.resolve().is_relative_to(place):
            return f"{name} {path} lies inside {run}, which --overwrite removes; move it"
    others = list(islice(foreign_files(place), _NAMED + 1)) if place.is_dir() else []
    if others:
        named = f"{', '.join(others[:_NAMED])}{', ..' if len(others) > _NAMED else ''}"
        return f"{run} holds other files ({named}), and --overwrite removes only what a run makes; move them"
    return None


def inputs_of(tree: Any, file: Path, base_dir: Path) -> dict[str, Path]:
    """Return an experiment file and every existing path that its plain values name, by key."""
    places = (Path(), base_dir)
    named = [pair for key in ("data", "train", "search") for pair in _texts(_at(tree, key), key)]
    found = {}
    for key, text in named:
        for path in (place / os.path.expanduser(text) for place in places):
            if _exists(path):
                found[key] = path
    return {"the experiment file": file, **found}


def _at(tree: Any, key: str) -> Any:
    return tree.get(key) if isinstance(tree, Mapping) else None


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield each text of a tree with its dotted path."""
    if isinstance(value, str) and value:
        yield path, value
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, child in pairs:
        yield from _texts(child, f"{path}.{key}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that is no path, too long for example
        return False


def remove_run(run: Path, inputs: Mapping[str, Path]) -> Path:
    """Remove a run directory, if there is one, and return where the next one goes.

    A symbolic link stays, and what it leads to is emptied. Raises UsageError where something is not to be removed.
    """
    place = run.resolve()
    _remove_leftovers(place)
    if not RunDirectory(place).is_run:
        return place
    if reason := why_not_removed(run, inputs):
        raise UsageError(reason)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.removed-", dir=place.parent) as removed:
            place.rename(Path(removed) / place.name)
            if run.is_symlink():
                place.mkdir()
    except OSError as error:
        raise StorageError(f"{place}: cannot be removed: {error.strerror}") from error
    return place


def _remove_leftovers(run: Path) -> None:
    """Remove what killed removals of this run have left."""
    for path in run.parent.glob(f".{glob.escape(run.name)}.removed*"):
        inner = path / run.name if (path / run.name).is_dir() else path
        siblings = [each for each in path.iterdir() if each != inner] if inner != path and path.is_dir() else []
        if path.is_dir() and not path.is_symlink() and not siblings and not any(foreign_files(inner)):
            shutil.rmtree(path, ignore_errors=True)
