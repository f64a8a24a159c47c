"""Fair timing: the candidates take turns in one process, and what is quoted are medians and ratios pair by pair."""

import statistics
import time
from collections.abc import Callable, Mapping


def alternate(candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Run the candidates A B A B ..; return the seconds of each run after the warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(warmup + rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> str:
    """Say how many times `fast` is faster, round by round: median (smallest - largest)."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} - {max(ratios):.2f})"


def milliseconds(seconds: list[float]) -> str:
    """Render the median in ms."""
    return f"{1e3 * statistics.median(seconds):.2f} ms"
