"""What every model family shares: its batch, its normalization, and how a pack of it is built and filled.

Deliberately not here: data (a batch is tensors), optimizers, and where parameters lie (the arena of training/).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.config.family import FamilyConfig
from ensemble.models.layers import Layer
from ensemble.models.products import Precision
from ensemble.schema import Feature, Float32, Int64
from ensemble.streams import key

EPS = 1e-5  # added to variances, as NeRD does

Device = str | torch.device


class Noise(NamedTuple):
    """What a step's noise is hashed from, see `noise.py`."""

    keys: Tensor  # (E, 2) int32 of `noise_keys`: of the noise, of the flow-matching time
    counter: Tensor  # (E, B) or (1, B) int32: place in the global batch; number of the window where draws are frozen


class Batch(NamedTuple):
    """Windows of T transitions, and what a step's random numbers are keyed by."""

    points: Tensor  # (E, B, T+1, D) float32, features side by side; one member's worth expands to all
    position: Tensor  # (B,) int32, places of the samples in the global batch
    keys: Tensor | None = None  # (E, sites) int32 of `dropout_keys`, None to evaluate
    noise: Noise | None = None  # for families that draw noise
    tokens: Tensor | None = None  # (E, B, L) int64 from BOS on, padded, for families over tokens; E may be 1
    targets: Tensor | None = None  # (E,) divisor of a loss over tokens, if not the batch's own count (DDP: mean count)


@dataclass(frozen=True)
class Normalization:
    """Moments of the training split, shared by all members; angles were wrapped before."""

    mean: Float32  # (D,) of the points' columns
    variance: Float32  # (D,) population
    target_mean: Float32  # (S,) of the target: next - state, or next state
    target_variance: Float32  # (S,)

    @classmethod
    def identity(cls, features: Sequence[Feature]) -> "Normalization":
        """Return zeros and ones."""
        width = sum(feature.width for feature in features)
        state = sum(feature.width for feature in features if feature.role == "state")
        zeros, ones = np.zeros, np.ones
        return cls(zeros(width, np.float32), ones(width, np.float32), zeros(state, np.float32), ones(state, np.float32))


class DynamicsModel(Protocol):
    """A pack of models that predict an episode's next state."""

    sites: int  # dropout sites: the width of `Batch.keys`

    def __call__(self, batch: Batch, details: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (E,) and, if asked, details such as "one_step_mse" (E, S) in raw units."""
        ...

    def rollout(self, history: Tensor, known: Tensor, horizon: int) -> Tensor:
        """Continue (E, B, C, D) true points by `horizon` predicted states (E, B, H, S)."""
        ...


Decode = Callable[[Int64], Float32]
"""Tokens (N, L) to action chunks (N, H, A), in the units that the tokenizer was fitted on."""


class PolicyModel(Protocol):
    """A pack of models that answer an observation with a chunk of actions."""

    sites: int  # dropout sites: the width of `Batch.keys`

    def __call__(self, batch: Batch, details: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (E,) and, if asked, details (E,) by name, such as "token_accuracy"."""
        ...

    def act(
        self, observation: Tensor, noise: Noise | None, *, decode: Decode | None = None, horizon: int | None = None
    ) -> Tensor:
        """Return chunks (E, B, H, A) in raw units, without gradient, for states (E, B, S) or (1, B, S) in raw units.

        Families over tokens need `decode`, the tokenizer's; families that draw noise need `noise`. `horizon` asks for
        the first actions alone: the same ones, for less work where the family allows it.
        """
        ...


class Family(Protocol):
    """The constructor that a model config's `network` names; it may also have a `cost`, see `cost.DeclaresCost`."""

    def __call__(
        self,
        config: FamilyConfig,
        features: tuple[Feature, ...],
        members: int,
        normalization: Normalization,
        *,
        precision: Precision,
        device: str | torch.device,
    ) -> nn.Module:
        """Build a pack."""
        ...


def build(
    config: FamilyConfig,
    features: tuple[Feature, ...],
    members: int,
    normalization: Normalization,
    precision: Precision = "fp32",
    device: str | torch.device = "meta",
) -> nn.Module:
    """Build a pack of `members` networks with unfilled parameters on `device`.

    Buffers (the normalization) hold their values from the start; with parameters on "meta" they lie on the CPU.
    Raises UsageError for an input feature that the data do not have.
    """
    return network_of(config)(config, features, members, normalization, precision=precision, device=device)


def network_of(config: FamilyConfig) -> Family:
    """Import the network that a config names."""
    module, name = config.network.split(":")
    return cast(Family, getattr(import_module(module), name))


def initialize(module: nn.Module, seeds: Sequence[int]) -> None:
    """Fill each member from its own stream (seed, "weights"), layers in order of registration; the pack is no input."""
    for member, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(key(seed, "weights") >> 1)
        for layer in module.modules():
            if isinstance(layer, Layer):
                layer.reset(member, generator)


def parameter_count(module: nn.Module) -> int:
    """Count the parameters of one member."""
    return sum(parameter[0].numel() for parameter in module.parameters())


def move_buffers(module: nn.Module, device: str | torch.device) -> None:
    """Move buffers alone, parameters being views of an arena that is there already."""
    for layer in module.modules():
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(layer, name, buffer.to(device))


def column_slices(features: Sequence[Feature]) -> Mapping[str, slice]:
    """Return where each feature lies in the columns of points."""
    slices, start = {}, 0
    for feature in features:
        slices[feature.name] = slice(start, start + feature.width)
        start += feature.width
    return slices


def wrap(angle: Tensor) -> Tensor:
    """Return angles in [-pi, pi): (x + pi) mod 2 pi - pi."""
    wrapped = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    return torch.where(wrapped >= math.pi, -math.pi, wrapped)  # a hair below -pi rounds to pi
