"""What one configuration costs: parameters, FLOPs, bytes. Nothing is allocated.

What a step computes and keeps follows from its family (`models/cost.py`); here it becomes the cost of a member from
beginning to end: its steps, its validations, its memory.

FLOPs of a transformer (Kaplan et al. 2020, arXiv 2001.08361, section 2.1; PaLM, arXiv 2204.02311, appendix B): with M
weights in matrix products, L layers of width d and windows of T points, a token costs 2 M + 4 L d T forward, the second
term being the products of attention over all T x T pairs; backward costs twice that. So a step of B windows takes
B T (6 M + 12 L d T). Embeddings, norms and activations are left out, as there.

Bytes of a step: what autograd keeps for the backward pass (exact for `models/gpt_dynamics.py`: a test compares it with
autograd's own account), and what is alive on top of it, fitted to peak resident memory on a CPU: over eleven shapes
(10 k to 21 M parameters, batches of 64 to 2,048, packs of 1 and 3) the sum was between 5 % too low and 8 % too high. On
a GPU the same formula is used and has not been measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf

from ensemble.config import Experiment
from ensemble.config.train import SGDConfig, TrainConfig
from ensemble.models.cost import StepShape, cost_of_step
from ensemble.schema import Feature
from ensemble.training.measure_dynamics import VALIDATION_CHUNK

PROCESS = 450 * 2**20  # bytes of a trial's process before it has a model: Python, torch, Ray


@dataclass(frozen=True)
class Passes:
    """Forward passes of one measurement: how many, and of how many windows in all."""

    count: int
    windows: int


@dataclass(frozen=True)
class Cost:
    """One member of a configuration."""

    parameters: int
    flops: float  # of one optimizer step
    flops_forward: float  # of one window, forward
    saved: int  # bytes that a step keeps for its backward pass
    working: int  # bytes alive on top of them at its peak
    state: int  # bytes of parameters, gradients, moments, two best copies and an average
    layers: int  # matrices that are multiplied with; each costs kernels to launch
    validation: Passes  # measuring it once during training
    test: Passes  # measuring it once at its end

    @property
    def activations(self) -> int:
        """Bytes of a step besides parameters and optimizer."""
        return self.saved + self.working


def cost_of(experiment: Experiment, features: Sequence[Feature], device: str = "cpu") -> Cost:
    """Return what one member costs with data of these features; UsageError for an input that they do not have."""
    model, train, rollout = experiment.model, experiment.train, experiment.train.rollout
    share = train.batch_size // experiment.resources.workers
    sizes, step = cost_of_step(model, features, StepShape(share, train.precision, device))
    ahead = model.prediction_passes
    return Cost(
        parameters=sizes.parameters,
        flops=3 * step.forward * train.batch_size,
        flops_forward=step.forward,
        saved=step.saved,
        working=step.working,
        state=4 * sizes.parameters * _copies(experiment),
        layers=sizes.matrices,
        validation=_passes(train, ahead or rollout.horizon, 1 + len(experiment.data.validation)),
        test=_passes(train, ahead or rollout.test_horizon or rollout.horizon, 1),
    )


def trial_bytes(cost: Cost, seeds: int, pack: int) -> int:
    """Return the memory of a trial's process: all its members' parameters and one pack's step.

    The resident data are not in it: trials of a node share them.
    """
    return PROCESS + seeds * cost.state + min(pack, seeds) * cost.activations


def fitting_pack(cost: Cost, seeds: int, available: float) -> int:
    """Return the largest pack, at most `seeds` members, whose trial fits into `available` bytes; 0: not even one."""
    if isinf(available):
        return seeds
    left = available - trial_bytes(cost, seeds, 0)
    return max(0, min(seeds, int(left // cost.activations)))


def validations(experiment: Experiment) -> int:
    """Return how often a member is measured during its training."""
    train = experiment.train
    return -(-train.steps // train.validation_interval)


def _passes(train: TrainConfig, horizon: int, sets: int) -> Passes:
    """Count the passes over one step and, one a step of the horizon, over the rollouts."""
    chunks, rollouts = -(-train.validation_windows // VALIDATION_CHUNK), -(-train.rollout.windows // VALIDATION_CHUNK)
    windows = train.validation_windows + train.rollout.windows * horizon
    return Passes(sets * (chunks + rollouts * horizon), sets * windows)


def _copies(experiment: Experiment) -> int:
    """Return how often a member's parameters are held: as weights, gradients, moments, two best ones and an average."""
    optimizer = experiment.train.optimizer
    moments = (1 if optimizer.momentum else 0) if isinstance(optimizer, SGDConfig) else 2
    return 2 + moments + 2 + (experiment.train.ema is not None)
