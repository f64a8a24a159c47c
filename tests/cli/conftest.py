"""The command as a user runs it: a process of its own, in an empty directory."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    """Return the environment of a user without any of Ray's variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def _run_in(
    directory: Path, *arguments: str, python: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `ensemble ARGUMENTS` in a directory."""
    command = [sys.executable, *python, "-m", "ensemble", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment() | variables, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `ensemble ARGUMENTS` in an empty directory."""
    return lambda *arguments, **options: _run_in(tmp_path, *arguments, **options)


@pytest.fixture(scope="session")
def run_in() -> Run:
    """Run `ensemble ARGUMENTS` in a given directory."""
    return _run_in
