import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from ensemble.training.trial import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def fill():
    torch.empty(12_000_000).fill_(1)  # 48 MB
for _ in range(40):  # the heap grows a few times before blocks fit
    fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    run = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_large_block_that_was_freed_is_soon_used_again_without_new_pages() -> None:
    fresh = faults("fresh")
    if fresh < 50:
        pytest.skip("this allocator keeps large blocks by itself")
    assert faults("keep") < fresh / 10
