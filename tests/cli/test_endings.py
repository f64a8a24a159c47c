"""However a command ends, the user gets one line and a code: faults, full disks, closed pipes, narrow encodings."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import environment

from ensemble.cli.endings import OneLineEnding
from ensemble.errors import DataError

Run = Callable[..., subprocess.CompletedProcess[str]]
EARLIER = Path(__file__).parents[1] / "fixtures" / "run_1beb6e2" / "results" / "earlier"
SECRET = "hunter2-canary"


def ended(error: BaseException, arguments: tuple[str, ...] = ()) -> int:
    """Let a command end by an error and return its exit code."""
    with pytest.raises(SystemExit) as ending, OneLineEnding(arguments):
        raise error
    assert isinstance(ending.value.code, int)
    return ending.value.code


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go during a test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_fault_of_ours_is_a_line_that_names_a_private_file_with_the_traceback(
    own_temporary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    arguments = ("tune", "--set", "logging.token=tokens-canary", "--set", "x.url=https://me:pass-canary@host/db")
    assert ended(KeyError(f"no {SECRET} here"), arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: a fault in ensemble itself: KeyError: ")
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) == 2
    (report,) = own_temporary.iterdir()
    assert str(report) in said.err
    assert report.stat().st_mode & 0o777 == 0o600
    text = report.read_text()
    assert "Traceback (most recent call last)" in text
    assert "command: ensemble tune --set 'logging.token=***'" in text
    assert re.search(r"python 3.*torch ", text)
    assert "canary" not in text


def test_a_report_that_cannot_be_written_is_printed_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert ended(ValueError("odd")) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_with_the_debug_switch_the_traceback_is_printed_as_well(
    own_temporary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENSEMBLE_TRACEBACK", "1")
    assert ended(DataError("a.h5: empty")) == 4
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.splitlines()[-1] == "error: a.h5: empty"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "r/x"), 5, "r/x: the disk is full; free some space"),
        (OSError("Can't write data (No space left on device)"), 5, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "r/x"), 5, "r/x: not permitted; look at owner"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "r/x"), 5, "r/x: no such file or directory"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "n" * 400),
            2,
            "longer than the 255 bytes that are possible",
        ),
        (OSError(errno.EMFILE, "Too many open files", "r/x"), 5, "ulimit -n"),
        (MemoryError("Unable to allocate 7.2 TiB"), 1, "not enough memory: Unable to allocate 7.2 TiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 7 bytes"), 1, "not enough memory"),
        (ModuleNotFoundError("No module named 'mujoco'", name="mujoco"), 1, "No module named 'mujoco'; install it"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_of_the_system_are_one_line_with_a_remedy(
    own_temporary: Path, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    assert ended(error) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(own_temporary.iterdir()) == []


def test_an_import_that_an_interrupt_broke_is_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    broken = ImportError("numpy cannot be imported")
    broken.__context__ = KeyboardInterrupt()
    assert ended(broken) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.ray
def test_an_error_of_a_worker_ends_the_command_as_the_same_error_of_its_own(
    local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    @ray.remote
    def read() -> None:
        raise DataError("a.h5: demo_3: cut short")

    with pytest.raises(ray.exceptions.RayTaskError) as failed:
        ray.get(read.remote())
    assert ended(failed.value) == 4
    assert capsys.readouterr().err == "error: a.h5: demo_3: cut short\n"


def test_warnings_are_for_developers_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), OneLineEnding(()):
        warnings.warn("the library will change", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == ""


COMMANDS = [
    ("report", "run", "--no-figures"),
    ("explain", "run", "1d2c"),
    ("plan", "quickstart"),
    ("inspect", "dp.h5"),
    ("schema",),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run_in: Run) -> Path:
    """A directory with a file of trajectories and a run."""
    directory = tmp_path_factory.mktemp("place")
    made = run_in(directory, "simulate", "double_pendulum", "--episodes", "12", "--steps", "20", "--out", "dp.h5")
    assert made.returncode == 0, made.stderr
    shutil.copytree(EARLIER, directory / "run")
    return directory


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda each: each[0])
def test_a_terminal_that_cannot_say_plus_minus_gets_it_in_ascii(
    place: Path, run_in: Run, arguments: tuple[str, ...]
) -> None:
    result = run_in(place, *arguments, PYTHONIOENCODING="ascii", HOME=str(place))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.isascii()
    if arguments[0] == "report":
        assert re.search(r"\d \+- \d", result.stdout)


@pytest.mark.parametrize("arguments", [COMMANDS[0], ("schema",), ("--help",)], ids=lambda each: each[0])
def test_a_reader_that_goes_away_ends_the_command_silently(place: Path, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ensemble", *arguments]
    with os.fdopen(writing) as pipe:
        done = subprocess.run(
            command, cwd=place, env=environment(), stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_into_a_full_disk_is_an_error_of_storage(place: Path) -> None:
    command = [sys.executable, "-m", "ensemble", "schema"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=place, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 5
    assert done.stderr.startswith("error: the disk is full")


def test_more_episodes_than_memory_holds_are_refused_at_once(tmp_path: Path, run: Run) -> None:
    result = run("simulate", "double_pendulum", "--episodes", "10000000", "--steps", "10000000")
    assert result.returncode == 2
    assert "10,000,000 episodes of 10,000,000 steps are about" in result.stderr
    assert list(tmp_path.iterdir()) == []


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "double_pendulum", "--out", f"{LONG}.h5"),
        ("inspect", "dp.h5", "--write", f"{LONG}.yaml"),
        ("convert", "dp.h5", "--out", LONG),
        ("plan", LONG),
        ("train", "--config", f"{LONG}.yaml"),
        ("report", LONG),
        ("resume", LONG),
    ],
    ids=lambda each: each[0],
)
def test_a_name_that_no_file_system_takes_is_refused_in_words(
    place: Path, run_in: Run, arguments: tuple[str, ...]
) -> None:
    result = run_in(place, *arguments)
    assert result.returncode == 2
    assert "bytes that are possible; choose a shorter one" in result.stderr.splitlines()[-1]


def test_an_interrupt_while_a_class_is_made_has_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(
        "import os, signal\n"
        "from ensemble.cli.endings import OneLineEnding\n"
        "with OneLineEnding([]):\n"
        "    exec('os.kill(os.getpid(), signal.SIGINT)\\nwhile True: pass')\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-m", "command"], env=environment() | {"PYTHONPATH": path}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("module", ["click", "ensemble.config", "pydantic"])
def test_ctrl_c_while_modules_are_loaded_prints_no_traceback(tmp_path: Path, module: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "ensemble", "schema"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    # The first part of the module that is loaded: the interrupt falls into the loading of the others.
    next(line for line in process.stderr if line.startswith("import time:") and f" {module}." in line)
    process.send_signal(signal.SIGINT)
    said = [line for line in process.communicate(timeout=60)[1].splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said) == (130, ["interrupted"])
