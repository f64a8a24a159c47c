"""What a result depends on beside its file and its data: versions of Python and libraries, and the code's commit."""

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from ensemble import __version__

_PACKAGES = ("torch", "ray", "numpy", "optuna")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions that a result depends on; nothing is imported for it."""
    found = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "ensemble": __version__, **found}


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
