"""Fair timing: the candidates take turns in one process, and what is quoted are medians and ratios pair by pair.

Each round is printed while it goes on, with the machine's load. Only the standard library is imported.
"""

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Turn(NamedTuple, Generic[T]):
    """What a candidate returned in one round, and the seconds that it took."""

    value: T
    seconds: float


def take_turns(
    candidates: Mapping[str, Callable[[], T]], rounds: int, warmup: int = 0, shuffled: bool = False
) -> dict[str, list[Turn[T]]]:
    """Run the candidates A B A B ..; return the turns of each after the warm-up.

    `shuffled` draws a new order for each round: what ran before leaves marks in allocator and cache.
    """
    turns: dict[str, list[Turn[T]]] = {name: [] for name in candidates}
    order, names = random.Random(0), list(candidates)
    for number in range(1 - warmup, rounds + 1):
        title = f"round {number} of {rounds}" if number > 0 else "warm-up"
        print(f"    {title}, load {os.getloadavg()[0]:.1f}:", end="", flush=True)
        for place, name in enumerate(order.sample(names, len(names)) if shuffled else names):
            start = time.perf_counter()
            turn = Turn(candidates[name](), time.perf_counter() - start)
            print(f"{';' if place else ''} {name} {turn.seconds:.3g} s", end="", flush=True)
            if number > 0:
                turns[name].append(turn)
        print(flush=True)
    return turns


def alternate(
    candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, shuffled: bool = False
) -> dict[str, list[float]]:
    """Run the candidates A B A B ..; return the seconds of each after the warm-up."""
    turns = take_turns(candidates, rounds, warmup, shuffled)
    return {name: [turn.seconds for turn in each] for name, each in turns.items()}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> str:
    """Say how many times `fast` is faster, round by round: median (smallest - largest)."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)], ".2f", "x")


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Render median (smallest - largest)."""
    low, high = format(min(values), form), format(max(values), form)
    return f"{format(statistics.median(values), form)}{unit} ({low} - {high})"


def milliseconds(seconds: Sequence[float]) -> str:
    """Render the median in ms."""
    return f"{1e3 * statistics.median(seconds):.2f} ms"
