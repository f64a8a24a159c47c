"""Random numbers that are a function of (member's key, counter of the sample, element), as the masks of `dropout.py`.

A member draws the same numbers alone, in any pack, on any slice of the global batch and after a restart. The counter is
the sample's place in the global batch where draws are fresh at each step, and the number of its window where they are
frozen (then with the keys of step 0). Deliberately not here: what the numbers are used for.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ensemble.models.dropout import hashed, step_keys
from ensemble.schema import UInt64
from ensemble.streams import key

PURPOSES = ("noise", "time")


@lru_cache(maxsize=256)
def _stream_keys(seed: int) -> UInt64:
    return np.array([key(seed, purpose) for purpose in PURPOSES], dtype=np.uint64)


def noise_keys(seeds: Sequence[int], step: int) -> Tensor:
    """Return the keys of a step, (E, 2) int32: streams (seed, "noise") and (seed, "time") advanced to `step`."""
    return step_keys(np.stack([_stream_keys(seed) for seed in seeds]), step)


def uniform(keys: Tensor, counter: Tensor, elements: int, start: int = 0) -> Tensor:
    """Draw from U[0, 1) in steps of 2^-24, (E, B, elements) float32.

    `keys` (E,) int32 are the members' keys of a purpose and step, `counter` (E, B) or (1, B) int32; the elements are
    those from `start` on.
    """
    return (hashed(keys, counter, elements, start) >> 8 & 0xFFFFFF).float().mul_(2**-24)


def open_uniform(keys: Tensor, counter: Tensor, elements: int, start: int = 0) -> Tensor:
    """Draw as `uniform`, but from the middles of 2^23 steps: neither 0 nor 1, so that logarithms are finite."""
    return (hashed(keys, counter, elements, start) >> 9 & 0x7FFFFF).float().add_(0.5).mul_(2**-23)


def normal(keys: Tensor, counter: Tensor, elements: int) -> Tensor:
    """Draw from N(0, 1), at most 5.8 from zero, (E, B, elements) float32 (Box and Muller, 1958); see `uniform`."""
    half = -(-elements // 2)
    radius = open_uniform(keys, counter, half).log_().mul_(-2).sqrt_()
    angle = uniform(keys, counter, half, start=half).mul_(2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[:, :, :elements]


def beta(keys: Tensor, counter: Tensor, elements: int, alpha: float = 1.5) -> Tensor:
    """Draw from Beta(alpha, 1), (E, B, elements) float32 in [0, 1): u^(1 / alpha), its law being x^alpha."""
    return uniform(keys, counter, elements).log_().mul_(1 / alpha).exp_()


def gumbel(keys: Tensor, counter: Tensor, elements: int, start: int = 0) -> Tensor:
    """Draw from the standard Gumbel law, (E, B, elements) float32: -log(-log u); the largest of logits + g is a draw.

    See `uniform` for the arguments.
    """
    return open_uniform(keys, counter, elements, start).log_().neg_().log_().neg_()
