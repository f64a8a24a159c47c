"""Cores and memory of this machine for this process, on Linux and where its calls are missing (macOS).

The only module that asks the operating system for them: everything else asks here. Nothing heavy is imported.
"""

import os
import subprocess
from pathlib import Path

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MEMORY_INFO = Path("/proc/meminfo")
_CPU_INFO = Path("/proc/cpuinfo")
_ASSUMED_MEMORY = 8 << 30  # bytes, where the system names no amount


def cores() -> int:
    """Return the cores that this process may use: its affinity, limited by the quota of its control group."""
    # macOS has no affinity.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _first_line(_CPU_QUOTA).partition(" ")
    if not (quota.isdecimal() and period.isdecimal()):
        return usable
    return max(1, min(usable, int(quota) // int(period)))


def memory() -> int:
    """Return the bytes of memory: of the machine, or the limit of its control group if that is lower."""
    # In a container the machine's memory is not the process's.
    limit = _first_line(_MEMORY_LIMIT)
    return min(_physical_memory(), int(limit)) if limit.isdecimal() else _physical_memory()


def free_memory() -> int | None:
    """Return the bytes that new processes can take without swapping; None where the system does not say."""
    for line in _text(_MEMORY_INFO).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def processor_flags() -> frozenset[str]:
    """Return the instruction sets of the processor by Linux's names; empty elsewhere."""
    lines = [line for line in _text(_CPU_INFO).splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return _memory_of_sysctl()


def _memory_of_sysctl() -> int:
    """Return the bytes of memory as macOS and BSD say it."""
    try:
        told = subprocess.run(["sysctl", "-n", "hw.memsize"], capture_output=True, text=True, check=False).stdout
    except OSError:
        told = ""
    return int(told) if told.strip().isdecimal() else _ASSUMED_MEMORY


def _first_line(path: Path) -> str:
    return _text(path).partition("\n")[0].strip()


def _text(path: Path) -> str:
    """Return the text of a file of the system; empty where this system has none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
