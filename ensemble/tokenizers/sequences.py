"""Sequences of ids as input of a model: `[BOS] .. [EOS] [PAD] ..`, special ids first, equal in both kinds."""

import numpy as np

from ensemble.schema import Int64
from ensemble.tokenizers.coefficients import Bools, Int32

BOS, EOS, PAD, UNK = range(4)
SPECIALS = ("[BOS]", "[EOS]", "[PAD]", "[UNK]")
FIRST = len(SPECIALS)  # the first id that is no special


def frame(ids: Int32, counts: Int64, length: int) -> Int32:
    """Return tokens (N, length) of N sequences, concatenated in `ids` with `counts` (N,); long ones are cut."""
    tokens = np.full((len(counts), length), PAD, np.int32)
    tokens[:, 0] = BOS
    row, column = np.repeat(np.arange(len(counts)), counts), 1 + group_positions(counts)
    fits = column < length - 1
    tokens[row[fits], column[fits]] = ids[fits]
    # A cut sequence ends with [EOS], too: a model must not learn to run on.
    tokens[np.arange(len(counts)), np.minimum(1 + counts, length - 1)] = EOS
    return tokens


def before_eos(tokens: Int32) -> Bools:
    """Return a mask of tokens (N, L) before the first EOS of their row; of all tokens where there is none."""
    return ~np.logical_or.accumulate(tokens == EOS, axis=1)


def group_positions(counts: Int64) -> Int64:
    """Return 0 .. counts[0] - 1, 0 .. counts[1] - 1, ..: the position of each entry in its group."""
    return np.arange(counts.sum()) - np.repeat(group_starts(counts), counts)


def group_starts(counts: Int64) -> Int64:
    """Return the start of each of the concatenated groups with `counts` entries."""
    return np.cumsum(counts) - counts
