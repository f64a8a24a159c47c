"""Training speed of this machine: rough, from two measurements of 0.1 s, or calibrated by real training.

Rough: t = matrices x launch + FLOPs / products + traffic x bytes kept / bandwidth. The sum and not the maximum, since a
step alternates between products and elementwise passes. A calibration trains the smallest, the median and the largest
configuration in packs and fits t = a + b x rough, separately for steps and validations.
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

_LAUNCH = {"cpu": 0.2e-3, "cuda": 0.25e-3}  # seconds per matrix and step: three products and their surroundings
_TRAFFIC = 19.0  # bytes moved per byte kept, forward and backward together
_PER_PARAMETER = 8  # bytes kept that take as long as the update of one parameter
_MEASURE_SECONDS = 0.1  # per measurement of the machine
_TURNS, _FEWEST = 4, 2  # turns of each configuration; steps of each turn, at least
_TESTS = 2  # measurements at the end: weights of the best loss, and of the best rollout


@dataclass(frozen=True)
class Machine:
    """Throughput of one process of this machine."""

    flops: float  # per second, of fp32 matrix products
    bandwidth: float  # bytes per second, read or written
    launch: float = _LAUNCH["cpu"]

    def step(self, cost: Cost) -> float:
        """Return the rough seconds of one member's step."""
        moved = _TRAFFIC * (cost.saved + _PER_PARAMETER * cost.parameters)
        return self.launch * cost.layers + cost.flops / self.flops + moved / self.bandwidth

    def forward(self, passes: Passes, cost: Cost) -> float:
        """Return the rough seconds of these forward passes: a third of training on equally many windows."""
        launch = self.launch * cost.layers
        window = (self.step(cost) - launch) / (cost.flops / (3 * cost.flops_forward))
        return (passes.count * launch + passes.windows * window) / 3


@dataclass(frozen=True)
class LinearFit:
    """t = a + b x rough, in seconds."""

    a: float = 0.0
    b: float = 1.0

    def __call__(self, rough: float) -> float:
        """Return the seconds of a rough time."""
        return self.a + self.b * rough


@dataclass(frozen=True)
class Speed:
    """Model of the seconds of training; `origin` is its source, for the user."""

    machine: Machine
    step: LinearFit = LinearFit()
    validation: LinearFit = LinearFit()
    setup: float = 0.5  # seconds of a trial before its first step
    origin: str = "rough: from a matrix product on this machine; --calibrate measures"

    def member(self, experiment: Experiment, cost: Cost) -> float:
        """Return the seconds of one complete training of a member."""
        trained = experiment.train.steps * self.step(self.machine.step(cost))
        measured = validations(experiment) * self.validation(self.machine.forward(cost.validation, cost))
        return trained + measured + _TESTS * self.validation(self.machine.forward(cost.test, cost))


@dataclass(frozen=True)
class Timing:
    """Measurements of one configuration in a calibration, in seconds per member."""

    experiment: Experiment
    cost: Cost
    pack: int
    steps: int
    step: float
    validation: float
    setup: float


def measure_machine(threads: int, device: str = "cpu") -> Machine:
    """Measure a matrix product and an elementwise pass with `threads` threads, in about a quarter of a second."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        size = 1024
        x, y = torch.rand(size, size // 2, device=device), torch.rand(size // 2, size, device=device)
        out = torch.empty(size, size, device=device)
        products = 2 * out.numel() * size // 2 / _shortest_time(lambda: torch.mm(x, y, out=out), device)
        # 16 MB each: larger than the caches of one core, so that memory is measured.
        a, b, c = (torch.rand(1 << 22, device=device) for _ in range(3))
        passes = 3 * a.nbytes / _shortest_time(lambda: torch.add(a, b, out=c), device)
    finally:
        torch.set_num_threads(before)
    return Machine(products, passes, _LAUNCH[torch.device(device).type])


def _shortest_time(function: Callable[[], object], device: str) -> float:
    """Return the shortest time of repeated calls within _MEASURE_SECONDS."""
    best, end = inf, time.perf_counter() + _MEASURE_SECONDS
    while time.perf_counter() < end or best == inf:
        start = time.perf_counter()
        function()
        _synchronize(torch.device(device))
        best = min(best, time.perf_counter() - start)
    return best


def calibrate(
    chosen: Sequence[Experiment], data: PreparedData, searched: bool, seconds: float, device: str = "cpu"
) -> tuple[Speed, list[Timing]]:
    """Train each of these configurations for its share of `seconds`, and fit; nothing is written.

    Large batches and validations are shortened to fit the time, since the fit is over rough seconds of the actual work.
    Raises DataError for data without a window.
    """
    # Measure the machine and shorten the configurations
    machine = measure_machine(chosen[0].resources.threads, device)
    trial = TrialData(
        read_trajectories(data.main), {name: read_trajectories(path) for name, path in data.named.items()}
    )
    share = seconds / len(chosen)
    shortened = [_shortened(experiment, trial, machine, share, device) for experiment in chosen]

    # Train in turns: changes of the machine's load then affect all configurations alike
    runs = [_CalibrationRun(experiment, cost, trial, searched, device) for experiment, cost in shortened]
    for _ in range(_TURNS):
        for run in runs:
            run.train(0.8 * share / _TURNS)

    # Fit
    timings = [run.timing() for run in runs]
    speed = Speed(
        machine,
        fit_line([machine.step(each.cost) for each in timings], [each.step for each in timings]),
        fit_line(
            [machine.forward(each.cost.validation, each.cost) for each in timings],
            [each.validation for each in timings],
        ),
        sum(each.setup for each in timings) / len(timings),
        f"calibrated on this machine with {plural(sum(each.steps for each in timings), 'step')}",
    )
    return speed, timings


def _shortened(
    experiment: Experiment, data: TrialData, machine: Machine, seconds: float, device: str
) -> tuple[Experiment, Cost]:
    """Return the configuration with a batch and validations short enough for some steps, and its cost."""
    cost = cost_of(experiment, data.main.features, device)
    train, most = experiment.train, seconds / (2 * _TURNS * (_FEWEST + 1))
    batch = max(2, min(train.batch_size, int(train.batch_size * most / machine.step(cost))))
    scale = min(1.0, 2 * most / machine.forward(cost.validation, cost))
    rollout = train.rollout.model_copy(update={"windows": max(8, int(scale * train.rollout.windows))})
    shorter = {
        "batch_size": batch,
        "validation_windows": max(64, int(scale * train.validation_windows)),
        "rollout": rollout,
    }
    changed = experiment.model_copy(update={"train": train.model_copy(update=shorter)})
    return changed, cost_of(changed, data.main.features, device)


class _CalibrationRun:
    """The interrupted training of one configuration."""

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

    def train(self, seconds: float) -> None:
        """Train for `seconds`, and validate once."""
        end = time.perf_counter() + seconds
        # Not counted: the caches still hold the data of another configuration.
        self._timed(self._step)
        self._steps += [self._timed(self._step) for _ in range(_FEWEST)]
        while time.perf_counter() < end:
            self._steps.append(self._timed(self._step))
        self._validations.append(self._timed(lambda: [measure(self._pack) for measure in self._setup.validations]))

    def timing(self) -> Timing:
        """Return the medians of the measurements."""
        members = len(self._pack.members)
        step, validation = median(self._steps) / members, median(self._validations) / members
        return Timing(self._experiment, self._cost, members, len(self._steps), step, validation, self._setup_seconds)

    def _step(self) -> None:
        self._pack.step(self._batches.at(self._taken), [0.0] * len(self._pack.members))
        self._taken += 1

    def _timed(self, function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        _synchronize(self._context.device)
        return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fit_line(rough: Sequence[float], measured: Sequence[float]) -> LinearFit:
    """Return the least-squares line with weights 1 / t and neither a negative offset nor a negative slope."""
    weights = [1 / value for value in measured]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, rough, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, measured, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, rough, strict=True))
    joint = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, rough, measured, strict=True))
    slope = joint / spread if spread > 1e-12 * total * mean_x**2 else 0.0
    if slope > 0 and mean_y - slope * mean_x >= 0:
        return LinearFit(mean_y - slope * mean_x, slope)
    # Else a line through 0: a negative offset would give small models a negative time.
    products = sum(w * x * y for w, x, y in zip(weights, rough, measured, strict=True))
    return LinearFit(0.0, products / sum(w * x * x for w, x in zip(weights, rough, strict=True)))
