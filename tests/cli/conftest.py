"""The command as a user runs it: a process of its own, in an empty directory."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

TINY = """\
# Does the learning rate matter?
# ensemble tune --space tiny.yaml; seconds.
experiment: tiny
data: {source: double_pendulum, simulate: {episodes: 20, steps: 30}}
model: {n_layer: 1, n_head: 2, n_embd: 8, history: 5, block_size: 8, head: {layer_sizes: [8]}}
train:
  steps: 20
  batch_size: 8
  optimizer: {name: adam, lr: {choice: [1e-3, 1e-2]}}
  rollout: {horizon: 5, windows: 16}
search: {seeds: 2}
"""


def environment() -> dict[str, str]:
    """Return the environment of a user who has never heard of Ray's variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def run_in(
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
    return lambda *arguments, **options: run_in(tmp_path, *arguments, **options)
