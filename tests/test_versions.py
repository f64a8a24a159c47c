"""The name of the code that a row carries, in a repository, in a job and in a bare copy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.versions import COMMIT_VARIABLE

ROOT = Path(__file__).parents[1]
NAMES = ("__init__.py", "versions.py", "data/layouts/pairs.py", "data/order.py", "data.x/a.py")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Some files of the package, without a repository; `data.x` sorts between `data` and `data/`."""
    for name in NAMES:
        (tmp_path / "ensemble" / name).parent.mkdir(parents=True, exist_ok=True)
        source = ROOT / "ensemble" / name
        shutil.copy(source if source.is_file() else ROOT / "setup.py", tmp_path / "ensemble" / name)
    return tmp_path


def commit_of(copy: Path, like: str = "", **variables: str) -> str:
    code = f"from ensemble.versions import git_commit; print(git_commit({like!r}))"
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", COMMIT_VARIABLE)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, env=kept | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout.strip()


def test_a_job_names_the_commit_that_was_passed_on_and_a_bare_copy_its_content(copy: Path) -> None:
    assert commit_of(copy, **{COMMIT_VARIABLE: "abc+"}) == "abc+"
    content = commit_of(copy)
    assert content.startswith("tree:")
    (copy / "ensemble" / "data" / "order.py").write_text("# changed")
    assert commit_of(copy) != content


def test_a_bare_copy_is_found_again_in_the_repository_it_was_made_from(copy: Path) -> None:
    bare = commit_of(copy)
    git(copy, "init", "--quiet")
    git(copy, "add", "ensemble/**.py")
    git(copy, "commit", "--quiet", "--message", "all")
    assert bare == "tree:" + git(copy, "rev-parse", "HEAD:ensemble")
    assert commit_of(copy, like=bare) == bare
    assert commit_of(copy, **{COMMIT_VARIABLE: "abc"}) == git(copy, "rev-parse", "HEAD")
