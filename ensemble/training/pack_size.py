"""How many members to train in one pass: a question of speed alone, since results do not depend on it.

On a GPU small models are bound by kernel launches and ten members cost little more than one; on a CPU only small
networks gain. So `pack: auto` measures a few steps of one member and of all of them, and takes the cheaper.
"""

import time
from collections.abc import Hashable, Sequence

import torch

from ensemble.config import Experiment
from ensemble.models.base import build, parameter_count
from ensemble.training.context import Context
from ensemble.training.setup import Setup

_STEPS = 3  # timed, after one to warm up; the fastest counts
_SMALL_ON_A_CPU = (
    500_000  # parameters; above, arithmetic is all, and a pack of ten would only hold ten times the memory
)


def choose_pack(experiment: Experiment, setup: Setup, members: int, context: Context) -> int:
    """Return the number of members per pack: `resources.pack`, or the faster of one and all."""
    asked = experiment.resources.pack
    if asked != "auto":
        return min(asked, members)
    if members == 1 or context.world_size > 1 or experiment.train.compile:
        return members
    key = _kernels(experiment, setup, members, context)
    if key not in _known:
        _known[key] = measure_pack(experiment, setup, members, context)
    return _known[key]


_known: dict[Hashable, int] = {}  # what this process has measured: the trials of a search differ in little else


def _kernels(experiment: Experiment, setup: Setup, members: int, context: Context) -> Hashable:
    """Return what decides the speed of a step: not rates, seeds or lengths."""
    train, threads = experiment.train, experiment.resources.threads
    sizes = (train.batch_size, train.precision, train.optimizer.name, threads, members, str(context.device))
    return experiment.model.model_dump_json(), setup.features, sizes


def measure_pack(experiment: Experiment, setup: Setup, members: int, context: Context) -> int:
    """Time a step of one member and of `members` together; return the size that costs less per member."""
    if context.device.type == "cpu" and _parameters(experiment, setup) > _SMALL_ON_A_CPU:
        return 1
    alone = _step_seconds(experiment, setup, range(1), context)
    try:
        together = _step_seconds(experiment, setup, range(members), context) / members
    except torch.OutOfMemoryError:
        return 1
    return members if together < alone else 1


def _parameters(experiment: Experiment, setup: Setup) -> int:
    """Count the parameters of one member, without allocating them."""
    return parameter_count(build(experiment.model, setup.features, 1, setup.normalization))


def _step_seconds(experiment: Experiment, setup: Setup, seeds: Sequence[int], context: Context) -> float:
    pack = setup.pack(experiment, seeds, context, wrap=False)
    batches = setup.batches(pack, experiment.train.batch_size, context)
    times = []
    for step in range(1 + _STEPS):
        start = time.perf_counter()
        pack.step(batches.at(step), [0.0] * len(seeds))
        if context.device.type == "cuda":
            torch.cuda.synchronize(context.device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
