"""Signals during a study: while the main thread waits in a library, and while trials run."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ensemble.study.stopping import last_words

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# The main thread waits in C, as in Ray, and no handler of Python runs.
STUCK = """
import ctypes
from pathlib import Path
from ensemble.study.stopping import Stopping

lock, library = ctypes.create_string_buffer(256), ctypes.CDLL(None)
library.pthread_mutex_lock(lock)
with Stopping(Path("results/run"), print).watch():
    print("waiting", flush=True)
    library.pthread_mutex_lock(lock)  # for ever: it holds the lock itself
"""

TRIALS = """
import signal, threading, time
from pathlib import Path
from ensemble.study.stopping import RunningTrials, Stopping

paused = threading.Event()
running = RunningTrials(
    pause=paused.set, paused=paused.is_set, keep=lambda: print("kept"), close=lambda: print("closed"), say=print
)
stopping = Stopping(Path("results/run"), lambda line: print(line, flush=True))
with stopping.watch(), stopping.trials(running):
    print("training", flush=True)
    time.sleep(20 if {stubborn} or not paused.wait(20) else 0)
print("paused")
"""


def run_and_signal(code: str, *numbers: int) -> tuple[str, int]:
    """Run code, send signals once it waits after a line each, and return its further output and its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for number in numbers:
        lines.append(process.stdout.readline())
        wait_until_asleep(process.pid)
        process.send_signal(number)
    rest, _ = process.communicate(timeout=60)
    return "".join([*lines[1:], rest]), process.returncode


def wait_until_asleep(process: int) -> None:
    """Wait until the main thread of a process waits."""
    while Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "S":
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code", "how"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_process_that_waits_in_a_library(number: int, code: int, how: str) -> None:
    output, found = run_and_signal(STUCK, number)
    assert (output, found) == (f"{how} before anything began\n", code)


def test_a_first_interrupt_pauses_the_trials_and_a_second_one_ends_the_process() -> None:
    output, code = run_and_signal(TRIALS.format(stubborn=False), signal.SIGINT)
    assert code == 0
    assert output.splitlines()[0].startswith("stopping: running trials save their members")
    assert output.splitlines()[1:] == ["paused"]
    output, code = run_and_signal(TRIALS.format(stubborn=True), signal.SIGINT, signal.SIGINT)
    assert code == 130
    assert output.splitlines()[1:] == ["closed", "stopped before anything began"]


def test_sigterm_keeps_what_was_reached_and_ends_the_process() -> None:
    output, code = run_and_signal(TRIALS.format(stubborn=True), signal.SIGTERM)
    assert code == 143
    assert output.splitlines() == ["kept", "closed", "terminated before anything began"]


def test_the_last_line_says_how_to_go_on_where_there_is_something_to_go_on_with(tmp_path: Path) -> None:
    assert last_words(tmp_path / "run", "terminated") == "terminated before anything began"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").touch()
    assert last_words(tmp_path / "run", "terminated").endswith(f"continue with: ensemble resume {tmp_path / 'run'}")
