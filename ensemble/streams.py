"""Random streams keyed by (member seed, purpose, step), and by nothing else.

Every random number of a member comes from a key made here, so a member draws the same numbers alone, in any pack,
after a restart and on any number of workers. Keys are counter-based (SplitMix64, Steele et al. 2014): there is no
generator state to save.
"""

import hashlib

import numpy as np

from ensemble.schema import Float64, UInt64

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key(seed: int, purpose: str, step: int = 0) -> int:
    """Return the 64-bit key of a stream; `purpose` is its name ("weights", "order", "dropout/3", ..)."""
    # A hash and not `hash()`, which differs between processes.
    text = f"{seed}|{purpose}|{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def mix(values: UInt64) -> UInt64:
    """Return a pseudorandom permutation of 64-bit integers of any shape (the finalizer of SplitMix64)."""
    z = values + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def signed_uniform(keys: UInt64, count: int) -> Float64:
    """Return `count` numbers in [-1, 1) for each of `keys` (B,): (B, count). Number i does not depend on `count`."""
    bits = mix(np.add.outer(keys, np.arange(count, dtype=np.uint64)))
    # 53 bits are what a float64 holds exactly: no rounding, so 1.0 itself cannot occur.
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1
