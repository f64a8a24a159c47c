"""Sides that take turns with every core busy: a process a lane, all lanes of a side at once.

A lane builds what it measures, warms up, and waits. In its side's turn all lanes start at the same moment, each times
its own steps, and each continues until the last of them has its time, so that no lane is timed next to an idle core.
Processor time is reported with the seconds, since other work on the machine disturbs it less. Lanes communicate by
lines on their pipes. Only the standard library is imported: a plain side must not run with what our package sets.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

from benchmarks import timing

CORES = 2


@dataclass(frozen=True)
class Side:
    """How a side runs: `python -m words --number LANE` for each lane."""

    words: Sequence[str]
    members: int = 1  # trained by each lane
    lanes: int = CORES
    threads: int = 1  # of each lane


class Cost(NamedTuple):
    """What a step of one member takes the machine while all lanes of a side are at work."""

    seconds: float
    processor: float  # seconds of processor time, over the number of cores


class Group:
    """The processes of a side; they end with the `with`."""

    def __init__(self, side: Side) -> None:
        self._side = side
        environment = os.environ | {"OMP_NUM_THREADS": str(side.threads), "PYTHONPATH": os.pathsep.join(sys.path)}
        self._lanes = [
            subprocess.Popen(
                [sys.executable, "-m", *side.words, "--number", str(number)],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            )
            for number in range(side.lanes)
        ]  # fmt: skip

    def __enter__(self) -> Self:
        """Wait until all lanes are warm."""
        self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._lanes:
            lane.kill()
        for lane in self._lanes:
            lane.communicate()

    def turn(self, steps: int) -> Cost:
        """Start all lanes, and halt them."""
        self._write(str(steps))
        times = [[float(number) for number in line.split()] for line in self._read()]
        self._write("halt")
        self._read()
        count = self._side.members * steps  # of each lane
        processor = sum(each for _, each in times) / len(times) / CORES
        return Cost(1 / sum(count / seconds for seconds, _ in times), processor / count)

    def _write(self, line: str) -> None:
        for lane in self._lanes:
            assert lane.stdin is not None
            lane.stdin.write(line + "\n")

    def _read(self) -> list[str]:
        """Return a line of each lane."""
        lines = [lane.stdout.readline() for lane in self._lanes if lane.stdout is not None]
        if not all(lines):
            sys.exit(f"a process of {' '.join(self._side.words)} failed")
        return lines


def take_turns(sides: Mapping[str, Side], rounds: int, steps: int) -> dict[str, list[Cost]]:
    """Run the sides A B A B ..; return their costs."""
    with ExitStack() as stack:
        groups = {name: stack.enter_context(Group(side)) for name, side in sides.items()}
        turns = timing.take_turns({name: partial(group.turn, steps) for name, group in groups.items()}, rounds)
    return {name: [turn.value for turn in each] for name, each in turns.items()}


def serve(run: Callable[[int], object], warmup: int = 3) -> None:
    """Be a lane whose `run` takes so many steps; return when the pipe is closed."""
    run(warmup)
    print("warm", flush=True)
    while order := sys.stdin.readline():
        begin = time.perf_counter(), time.process_time()
        run(int(order))
        print(time.perf_counter() - begin[0], time.process_time() - begin[1], flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            run(1)
        sys.stdin.readline()
        print("idle", flush=True)
