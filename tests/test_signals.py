"""Signals that arrive where Python would lose them."""

import subprocess
import sys

import pytest

LOST = """
import os, signal, sys, time
from ensemble.signals import exit_on_sigterm, keep_interrupts
exit_on_sigterm()
keep_interrupts()

class Closed:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.2)

try:
    Closed()  # what its finalizer raises is ignored by Python
    time.sleep(50)
    print("went on")
except {error}:
    print("{error}")
"""


@pytest.mark.parametrize(("name", "error"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "SystemExit")])
def test_a_signal_in_a_finalizer_is_not_lost(name: str, error: str) -> None:
    code = LOST.format(name=name, error=error)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{error}\n", done.stderr
    assert done.stderr == ""
