"""Versions of Python and libraries, and the commit of the code: what a result depends on besides file and data."""

import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from ensemble import __version__

_PACKAGES = ("torch", "ray", "numpy", "optuna")
COMMIT_VARIABLE = "ENSEMBLE_GIT_COMMIT"  # set by cluster/submit.sh in a job, whose copy of the code has no .git
_TREE = "tree:"


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions that a result depends on, from package metadata alone."""
    # Metadata, not `torch.__version__`: `explain` and `report` must not wait for the import of torch and Ray.
    packages = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "ensemble": __version__, **packages}


@lru_cache(maxsize=2)
def git_commit(like: str = "") -> str:
    """Return the commit of the code, with `+` when files differ from it.

    Outside a repository it is that of the checkout that submitted the job, or else `tree:` and the hash that Git gives
    the package's folder (`git rev-parse HEAD:ensemble`). `like` is an earlier answer to compare with: where that is a
    hash of the folder, this one is too.
    """
    here = Path(__file__).parent
    if like.startswith(_TREE):
        return _TREE + _tree(here).hex()
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT_VARIABLE) or _TREE + _tree(here).hex()


def _git(directory: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=True).stdout.strip()


def _tree(directory: Path) -> bytes:
    """Return Git's hash of a folder: SHA-1 over the modes, names and hashes of its entries."""
    entries = []
    for path in directory.iterdir():
        if path.name == "__pycache__" or path.name.startswith("."):
            continue
        if path.is_dir():
            entries.append((path.name + "/", b"40000 " + path.name.encode() + b"\0" + _tree(path)))
        else:
            mode = b"100755 " if os.access(path, os.X_OK) else b"100644 "
            entries.append((path.name, mode + path.name.encode() + b"\0" + _object(b"blob", path.read_bytes())))
    return _object(b"tree", b"".join(entry for _, entry in sorted(entries)))


def _object(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content, usedforsecurity=False).digest()
