"""Dropout whose masks are a function of (member's key, position in the global batch, element), not of a stream.

The same bits come out alone, in any pack, on any slice of the batch, and after a restart. A key is made per (seed,
site, step) on the CPU and enters a step as a tensor, since a Python number would recompile a compiled step.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ensemble.schema import UInt64
from ensemble.streams import key, mix

_ODD_1 = 0x2C1B3C6D  # odd multipliers of a 32-bit mixer (Wellons, "prospecting for hash functions", 2018)
_ODD_2 = 0x297A2D39
_ODD_3 = -1640531527  # 2^32 / golden ratio, as int32


@lru_cache(maxsize=256)
def _site_keys(seed: int, sites: int) -> UInt64:
    return np.array([key(seed, f"dropout/{site}") for site in range(sites)], dtype=np.uint64)


def dropout_keys(seeds: Sequence[int], sites: int, step: int) -> Tensor:
    """Return the keys of a step, (E, sites) int32: streams (seed, "dropout/site") advanced to `step`."""
    return step_keys(np.stack([_site_keys(seed, sites) for seed in seeds]), step)


def step_keys(keys: UInt64, step: int) -> Tensor:
    """Advance the keys of streams (E, n) to `step`: (E, n) int32."""
    mixed = mix(keys ^ mix(np.array([step], dtype=np.uint64)))
    return torch.from_numpy((mixed >> np.uint64(32)).astype(np.uint32).view(np.int32))


def _scramble(h: Tensor) -> Tensor:
    """Mix int32 in place: multiplications carry bits up, shifts bring them down."""
    h ^= h >> 15
    h *= _ODD_1
    h ^= h >> 12
    h *= _ODD_2
    return h


def hashed(keys: Tensor, counter: Tensor, elements: int, start: int = 0) -> Tensor:
    """Return 32 random bits an element, (E, B, elements) int32: keys (E,), counter (B,), (1, B) or (E, B), all int32.

    The elements are those from `start` on.
    """
    index = torch.arange(start + 1, start + elements + 1, dtype=torch.int32, device=keys.device) * _ODD_3
    sample = _scramble((counter + 1) * _ODD_3)
    h = _scramble(keys[:, None] ^ sample)[:, :, None] ^ _scramble(index)  # (E, B, elements)
    return _scramble(_scramble(h))


def keep_mask(keys: Tensor, position: Tensor, elements: int, p: float) -> Tensor:
    """Return which elements stay, (E, B, elements) bool: keys (E,) int32, position (B,) int32, each False with p."""
    return hashed(keys, position, elements) >= round(p * 2**32) - 2**31


def as_numbers(keep: Tensor) -> Tensor:
    """Return a mask as whole numbers, without a copy: a product with them is twice as fast as one with bools."""
    return keep.view(torch.uint8)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale  # type: ignore[attr-defined]
        return (x * as_numbers(keep)).mul_(scale)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (grad * as_numbers(keep)).mul_(ctx.scale), None, None  # type: ignore[attr-defined]


def dropout(x: Tensor, p: float, keys: Tensor, position: Tensor) -> Tensor:
    """Zero elements of x (E, B, ..) with probability p and scale the rest by 1 / (1 - p).

    `keys` (E,) int32 are the members' keys of this site and step, `position` (B,) the samples' places in the global
    batch.
    """
    members, batch = x.shape[:2]
    keep = keep_mask(keys, position, x[0, 0].numel(), p).view(members, batch, *x.shape[2:])
    result: Tensor = _Masked.apply(x, keep, 1 / (1 - p))  # type: ignore[no-untyped-call]
    return result
