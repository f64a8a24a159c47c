"""Versions of Python and libraries, and the commit of the code: what a result depends on besides file and data."""

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from ensemble import __version__

_PACKAGES = ("torch", "ray", "numpy", "optuna")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions that a result depends on, from package metadata alone."""
    # Metadata, not `torch.__version__`: `explain` and `report` must not wait for the import of torch and Ray.
    packages = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "ensemble": __version__, **packages}


@lru_cache(maxsize=1)
def git_commit() -> str:
    """Return the commit of the code, with `+` when files differ from it; empty outside a repository."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(directory: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=True).stdout.strip()
