"""Commands on a system without the calls of Linux that macOS lacks, taken away from every Python that starts here."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import environment

from ensemble.machine import cores, free_memory, memory

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]

# As Python's documentation says: what is "Linux" alone, names of sysconf, and the file systems of the kernel.
WITHOUT_LINUX = """\
import os, pathlib
for name in ("sched_getaffinity", "posix_fadvise", "posix_fallocate", "memfd_create", "pidfd_open"):
    if hasattr(os, name):
        delattr(os, name)
_sysconf, _open = os.sysconf, pathlib.Path.open
def sysconf(name):
    if name == "SC_AVPHYS_PAGES":
        raise ValueError("unrecognized configuration name")
    return _sysconf(name)
def open_path(self, *arguments, **options):
    if str(self).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", str(self))
    return _open(self, *arguments, **options)
os.sysconf, pathlib.Path.open = sysconf, open_path
"""


@pytest.fixture
def path_without_linux(tmp_path: Path) -> str:
    """Return a PYTHONPATH that takes the calls away."""
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "sitecustomize.py").write_text(WITHOUT_LINUX)
    return os.pathsep.join(map(str, (tmp_path / "away", ROOT, ROOT / "tests")))


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor",),
        ("simulate", "double_pendulum", "--episodes", "12", "--steps", "20"),
        ("simulate", "inverted_pendulum", "--episodes", "12", "--steps", "20"),
        ("plan", "quickstart"),
    ],
    ids=lambda each: " ".join(each[:2]),
)
def test_a_command_works_without_the_calls_of_linux(
    tmp_path: Path, run: Run, path_without_linux: str, arguments: tuple[str, ...]
) -> None:
    result = run(*arguments, PYTHONPATH=path_without_linux, HOME=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    assert "next: " in result.stdout


TRAIN_AND_EVALUATE = """\
import os
from pathlib import Path
from cli.test_evaluate import train
from ensemble.cli import main
assert not hasattr(os, "sched_getaffinity")
train(Path("tiny"), seeds=(0,))
main(["evaluate", "tiny", "--episodes", "2", "--noise", "0.05", "--replan", "10"])
"""


def test_a_policy_is_trained_and_evaluated_without_the_calls_of_linux(tmp_path: Path, path_without_linux: str) -> None:
    variables = environment() | {"PYTHONPATH": path_without_linux}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_AND_EVALUATE], cwd=tmp_path, env=variables, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"next: ensemble evaluate tiny" in done.stdout


def test_a_machine_has_cores_and_memory() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert memory() > 1 << 28
    free = free_memory()
    assert free is None or free > 0
