"""What one configuration costs: parameters, FLOPs, bytes. Counted from shapes on the meta device; nothing is allocated.

FLOPs (Kaplan et al. 2020, arXiv 2001.08361, section 2.1; PaLM, arXiv 2204.02311, appendix B): with M weights in matrix
products, L layers of width d and windows of T points, a token costs 2 M + 4 L d T forward, the second term being the
products of attention over all T x T pairs; backward costs twice that. So a step of B windows takes
B T (6 M + 12 L d T). Embeddings, norms and activations are left out, as there.

Bytes of a step: what autograd keeps for the backward pass, tensor by tensor of `models/gpt_dynamics.py` (exact: a test
compares it with autograd's own account), and what is alive on top of it, fitted to peak resident memory on a CPU: over
eleven shapes (10 k to 21 M parameters, batches of 64 to 2,048, packs of 1 and 3) the sum was between 5 % too low and
8 % too high. On a GPU the same formula is used and has not been measured.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isinf
from typing import Any

from ensemble.config import Experiment, ModelConfig
from ensemble.config.model import GPTDynamicsConfig
from ensemble.config.policy import Pi0Config, Pi0FastConfig
from ensemble.config.train import SGDConfig, TrainConfig
from ensemble.models.attention import LONGEST, VECTOR
from ensemble.models.base import Normalization, build, parameter_count
from ensemble.models.layers import Linear
from ensemble.models.transformer import SelfAttention, TokenAttention
from ensemble.schema import Feature

PROCESS = 450 * 2**20  # bytes of a trial's process before it has a model: Python, torch, Ray
VALIDATION_CHUNK = 256  # windows of a forward pass when measuring
# Alive at a step's peak beyond what autograd keeps: widths per token, more with dropout's hashes, and a share of it.
_FLYING, _FLYING_DROPOUT, _SLACK = 24, 16, 0.1


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
    state: int  # bytes of parameters, gradients, moments and two best copies
    layers: int  # matrices that are multiplied with; each costs kernels to launch
    validation: Passes  # measuring it once during training
    test: Passes  # measuring it once at its end

    @property
    def activations(self) -> int:
        """Bytes of a step beside parameters and optimizer."""
        return self.saved + self.working


def cost_of(experiment: Experiment, features: Sequence[Feature], device: str = "cpu") -> Cost:
    """Return what one member costs with data of these features; UsageError for an input that they do not have."""
    model, train = experiment.model, experiment.train
    shape = json.dumps(_without_fractions(model.model_dump(mode="json")))
    parameters, products, layers = _shapes(shape, type(model), tuple(features))
    time = model.tokens
    tokens = train.batch_size // experiment.resources.workers * time
    forward = time * (2.0 * products + 4.0 * model.n_layer * model.n_embd * time)
    widths = tokens * model.n_embd * (_FLYING + (_FLYING_DROPOUT if model.dropout else 0))
    half = train.precision == "bf16"
    saved = int(tokens * _saved_bytes(model, features, half, device)) + 2 * products * half  # rounded weights as well
    rollout, ahead = train.rollout, _ahead(experiment)
    return Cost(
        parameters=parameters,
        flops=3 * forward * train.batch_size,
        flops_forward=forward,
        saved=saved,
        working=int(4 * widths + _SLACK * saved),
        state=4 * parameters * (2 + _moments(experiment) + 2),
        layers=layers,
        validation=_passes(train, ahead or rollout.horizon, 1 + len(experiment.data.validation)),
        test=_passes(train, ahead or rollout.test_horizon or rollout.horizon, 1),
    )


def _ahead(experiment: Experiment) -> int | None:
    """Return the forward passes that sampling a chunk takes; None for a model that is rolled out."""
    model = experiment.model
    if isinstance(model, Pi0Config):
        return model.solver_steps * (2 if model.solver == "heun" else 1)
    return 1 if isinstance(model, Pi0FastConfig) else None  # token by token, which with a cache costs one pass


def trial_bytes(cost: Cost, seeds: int, pack: int, data: int = 0) -> int:
    """Return the memory of a trial's process: all its members' parameters, one pack's step, and resident data.

    `data` are bytes that this process alone holds; between trials of a node the data are shared.
    """
    return PROCESS + data + seeds * cost.state + min(pack, seeds) * cost.activations


def fitting_pack(cost: Cost, seeds: int, available: float, data: int = 0) -> int:
    """Return the largest pack, at most `seeds` members, whose trial fits into `available` bytes; 0: not even one."""
    if isinf(available):
        return seeds
    left = available - trial_bytes(cost, seeds, 0, data)
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


def _moments(experiment: Experiment) -> int:
    optimizer = experiment.train.optimizer
    return (1 if optimizer.momentum else 0) if isinstance(optimizer, SGDConfig) else 2


@lru_cache(maxsize=4096)
def _shapes(model: str, family: type[ModelConfig], features: tuple[Feature, ...]) -> tuple[int, int, int]:
    """Return parameters, weights in matrix products, and the number of these matrices."""
    module = build(family.model_validate_json(model), features, 1, Normalization.identity(features))
    once = {id(part) for memory in module.modules() if isinstance(memory, TokenAttention) for part in memory.modules()}
    layers = [layer for layer in module.modules() if id(layer) not in once]  # what multiplies every token
    weights = [layer.weight[0].numel() for layer in layers if isinstance(layer, Linear)]
    weights += [layer.in_proj_weight[0].numel() for layer in layers if isinstance(layer, SelfAttention)]
    return parameter_count(module), sum(weights), len(weights)


def _without_fractions(value: Any) -> Any:
    """Leave out numbers with a decimal point, such as dropout: no shape depends on them."""
    if isinstance(value, dict):
        return {key: _without_fractions(part) for key, part in value.items() if not isinstance(part, float)}
    return value


def _saved_bytes(model: ModelConfig, features: Sequence[Feature], half: bool, device: str) -> float:
    """Return the bytes per token that autograd keeps: inputs of products and norms, q, k, v, attention weights, masks.

    A block keeps 2 d into its norms with their 4 moments, 3 d + 8 d into its products (half as wide in bf16), 3 d of
    q, k, v, and for each head a row of T weights, padded to whole vectors; a fused kernel keeps d + heads instead.
    """
    d, heads, time = model.n_embd, model.n_head, model.tokens
    fused = (device != "cpu" and not model.dropout) or (time > LONGEST and not model.dropout)
    weights = d + heads if fused else heads * -(-time // VECTOR) * VECTOR
    product = 2 if half else 4  # bytes of a number that enters a product
    if not isinstance(model, GPTDynamicsConfig):
        return _saved_by_policy(model, weights, product)
    block = 4 * (2 * d + 4 + 3 * d + weights) + product * 11 * d
    ends = 4 * (d + 2 + sum(f.width for f in features if f.role == "state")) + product * (
        2 * d + _mlp_floats(model, features)
    )
    masks = ((2 * model.n_layer + 1) * d + model.n_layer * heads * time) if model.dropout else 0
    return model.n_layer * block + ends + masks


def _saved_by_policy(model: Pi0Config | Pi0FastConfig, weights: float, product: int) -> float:
    """Return about the bytes per token that autograd keeps of a post-norm transformer; a decoder has a norm more."""
    d, crossed = model.n_embd, isinstance(model, Pi0FastConfig)
    attention = 4 * (3 * d + weights) + product * 2 * d
    feedforward = 4 * model.n_inner + product * (d + model.n_inner)
    norms = (3 if crossed else 2) * 4 * (d + 2)
    masks = (3 * d + model.n_inner + model.n_head * model.tokens) if model.dropout else 0
    logits = 4 * 2 * model.tokenizer.vocabulary if isinstance(model, Pi0FastConfig) else 0
    return model.n_layer * (attention + feedforward + norms + masks) + logits


def _mlp_floats(model: GPTDynamicsConfig, features: Sequence[Feature]) -> int:
    """Return the numbers per token that encoders and head keep: what enters them, and what each layer makes."""
    read = sum(feature.width for feature in features if feature.role in ("state", "control"))
    sizes = [entry.layer_sizes for entry in model.inputs.values()] + [model.head.layer_sizes]
    return read + sum(map(sum, sizes))
