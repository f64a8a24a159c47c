"""How fast this machine trains: a rough word from three measurements of 0.1 s, or a calibration on the real thing.

Rough: t = matrices x launch + FLOPs / products + traffic x bytes kept / bandwidth, the sum and not the maximum, since a
step alternates between products and elementwise passes. A calibration trains the smallest, the median and the largest
configuration through the project's own packs and fits t = a + b x rough, to steps and to validations apart.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

import torch

from ensemble.config import Experiment
from ensemble.config.experiment import seed_numbers
from ensemble.data.trajectories import read_trajectories
from ensemble.planning.cost import Cost, Passes, cost_of, validations
from ensemble.study.prepare import PreparedData
from ensemble.text import plural
from ensemble.training.context import InlineContext
from ensemble.training.pack_size import choose_pack
from ensemble.training.setup import TrialData
from ensemble.training.tasks import set_up

_LAUNCH = {"cpu": 0.2e-3, "cuda": 0.25e-3}  # seconds a matrix and step: its three products and what stands around them
_TRAFFIC = 19.0  # bytes moved per byte kept, forward and backward together
_PER_PARAMETER = 8  # bytes kept that cost as much as updating one parameter
_PATIENCE = 0.1  # seconds of each measurement of the machine
_STRETCHES, _FEWEST = 4, 2  # of each configuration; steps of each
_TESTS = 2  # at the end: the weights of the best loss, and of the best rollout


@dataclass(frozen=True)
class Machine:
    """What one process of this machine does in a second."""

    flops: float  # of fp32 matrix products
    bandwidth: float  # bytes, read or written
    launch: float = _LAUNCH["cpu"]

    def step(self, cost: Cost) -> float:
        """Return the rough seconds of one member's step."""
        moved = _TRAFFIC * (cost.saved + _PER_PARAMETER * cost.parameters)
        return self.launch * cost.layers + cost.flops / self.flops + moved / self.bandwidth

    def measuring(self, passes: Passes, cost: Cost) -> float:
        """Return the rough seconds of these forward passes: a third of training on as many windows."""
        launch = self.launch * cost.layers
        window = (self.step(cost) - launch) / (cost.flops / (3 * cost.flops_forward))
        return (passes.count * launch + passes.windows * window) / 3


@dataclass(frozen=True)
class Line:
    """t = a + b x rough."""

    a: float = 0.0
    b: float = 1.0

    def __call__(self, rough: float) -> float:
        """Return the seconds."""
        return self.a + self.b * rough


@dataclass(frozen=True)
class Speed:
    """Seconds of training; `words` say where they are from."""

    machine: Machine
    step: Line = Line()
    validation: Line = Line()
    setup: float = 0.5  # seconds of a trial before its first step
    words: str = "rough: from a matrix product on this machine; --calibrate measures"

    def member(self, experiment: Experiment, cost: Cost) -> float:
        """Return the seconds of one member from beginning to end."""
        trained = experiment.train.steps * self.step(self.machine.step(cost))
        measured = validations(experiment) * self.validation(self.machine.measuring(cost.validation, cost))
        return trained + measured + _TESTS * self.validation(self.machine.measuring(cost.test, cost))


@dataclass(frozen=True)
class Timing:
    """What a calibration measured of one configuration, in seconds a member."""

    experiment: Experiment
    cost: Cost
    pack: int
    steps: int
    step: float
    validation: float
    setup: float


def measure_machine(threads: int, device: str = "cpu") -> Machine:
    """Time a matrix product and an elementwise pass with so many threads, in about a quarter of a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        size = 1024
        x, y = torch.rand(size, size // 2, device=device), torch.rand(size // 2, size, device=device)
        out = torch.empty(size, size, device=device)
        products = 2 * out.numel() * size // 2 / _fastest(lambda: torch.mm(x, y, out=out), device)
        a, b, c = (torch.rand(1 << 22, device=device) for _ in range(3))  # 16 MB each: past the caches near a core
        passes = 3 * a.nbytes / _fastest(lambda: torch.add(a, b, out=c), device)
    finally:
        torch.set_num_threads(before)
    return Machine(products, passes, _LAUNCH[torch.device(device).type])


def _fastest(function: Callable[[], object], device: str) -> float:
    """Return the shortest of as many runs as fit."""
    best, end = inf, time.perf_counter() + _PATIENCE
    while time.perf_counter() < end or best == inf:
        start = time.perf_counter()
        function()
        _wait(torch.device(device))
        best = min(best, time.perf_counter() - start)
    return best


def calibrate(
    chosen: Sequence[Experiment], data: PreparedData, searched: bool, seconds: float, device: str = "cpu"
) -> tuple[Speed, list[Timing]]:
    """Train each of these configurations for its share of so many seconds, and fit; nothing is written.

    Batches and validations of large ones are shortened to what fits, since the fit is in rough seconds of whatever was
    done. Raises DataError for data too short.
    """
    machine = measure_machine(chosen[0].resources.threads, device)
    trial = TrialData(
        read_trajectories(data.main), {name: read_trajectories(path) for name, path in data.named.items()}
    )
    share = seconds / len(chosen)
    shortened = [_shortened(experiment, trial, machine, share, device) for experiment in chosen]
    runs = [_Run(experiment, cost, trial, searched, device) for experiment, cost in shortened]
    for _ in range(_STRETCHES):
        for run in runs:
            run.stretch(0.8 * share / _STRETCHES)
    timings = [run.timing() for run in runs]
    speed = Speed(
        machine,
        fit([machine.step(each.cost) for each in timings], [each.step for each in timings]),
        fit(
            [machine.measuring(each.cost.validation, each.cost) for each in timings],
            [each.validation for each in timings],
        ),
        sum(each.setup for each in timings) / len(timings),
        f"calibrated on this machine with {plural(sum(each.steps for each in timings), 'step')}",
    )
    return speed, timings


def _shortened(
    experiment: Experiment, data: TrialData, machine: Machine, seconds: float, device: str
) -> tuple[Experiment, Cost]:
    """Return the configuration with a batch and validations that leave time for some steps, and what it costs."""
    cost = cost_of(experiment, data.main.features, device)
    train, most = experiment.train, seconds / (2 * _STRETCHES * (_FEWEST + 1))
    batch = max(2, min(train.batch_size, int(train.batch_size * most / machine.step(cost))))
    scale = min(1.0, 2 * most / machine.measuring(cost.validation, cost))
    rollout = train.rollout.model_copy(update={"windows": max(8, int(scale * train.rollout.windows))})
    shorter = {
        "batch_size": batch,
        "validation_windows": max(64, int(scale * train.validation_windows)),
        "rollout": rollout,
    }
    changed = experiment.model_copy(update={"train": train.model_copy(update=shorter)})
    return changed, cost_of(changed, data.main.features, device)


class _Run:
    """One configuration in training, a stretch at a time: taking turns, all see the machine in all its moods."""

    def __init__(self, experiment: Experiment, cost: Cost, data: TrialData, searched: bool, device: str) -> None:
        torch.set_num_threads(experiment.resources.threads)
        start = time.perf_counter()
        self._experiment, self._cost, self._context = experiment, cost, InlineContext(device)
        self._setup = set_up(experiment, data, self._context)
        self._setup_seconds = time.perf_counter() - start
        seeds = seed_numbers(experiment.search.seeds) if searched else (0,)
        members = seeds[: choose_pack(experiment, self._setup, len(seeds), self._context)]
        setup = self._setup
        self._pack = setup.pack(experiment, members, self._context, wrap=False)
        self._batches = setup.batches(self._pack, experiment.train.batch_size, self._context)
        self._steps: list[float] = []
        self._validations: list[float] = []
        self._taken = 0

    def stretch(self, seconds: float) -> None:
        """Train for so long, and validate."""
        end = time.perf_counter() + seconds
        self._clocked(self._step)  # not counted: caches are somebody else's
        self._steps += [self._clocked(self._step) for _ in range(_FEWEST)]
        while time.perf_counter() < end:
            self._steps.append(self._clocked(self._step))
        self._validations.append(self._clocked(lambda: [measure(self._pack) for measure in self._setup.validations]))

    def timing(self) -> Timing:
        """Return the medians of what was measured."""
        members = len(self._pack.members)
        step, validation = median(self._steps) / members, median(self._validations) / members
        return Timing(self._experiment, self._cost, members, len(self._steps), step, validation, self._setup_seconds)

    def _step(self) -> None:
        self._pack.step(self._batches.at(self._taken), [0.0] * len(self._pack.members))
        self._taken += 1

    def _clocked(self, function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        _wait(self._context.device)
        return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fit(rough: Sequence[float], measured: Sequence[float]) -> Line:
    """Return the line of least squares, each weighted by 1 / t, with neither a negative start nor a negative slope."""
    weights = [1 / value for value in measured]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, rough, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, measured, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, rough, strict=True))
    joint = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, rough, measured, strict=True))
    slope = joint / spread if spread > 1e-12 * total * mean_x**2 else 0.0
    if slope > 0 and mean_y - slope * mean_x >= 0:
        return Line(mean_y - slope * mean_x, slope)
    products = sum(w * x * y for w, x, y in zip(weights, rough, measured, strict=True))
    return Line(0.0, products / sum(w * x * x for w, x in zip(weights, rough, strict=True)))
