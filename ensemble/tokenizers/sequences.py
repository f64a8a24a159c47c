"""Sequences of ids as a model sees them: `[BOS] .. [EOS] [PAD] ..`, special ids first, the same in both kinds."""

import numpy as np

from ensemble.schema import Int64
from ensemble.tokenizers.coefficients import Bools, Int32

BOS, EOS, PAD, UNK = range(4)
SPECIALS = ("[BOS]", "[EOS]", "[PAD]", "[UNK]")
FIRST = len(SPECIALS)  # the first id that means something


def frame(ids: Int32, counts: Int64, length: int) -> Int32:
    """Return tokens (N, length) of N sequences that lie end to end in `ids`, `counts` (N,) each; long ones are cut."""
    tokens = np.full((len(counts), length), PAD, np.int32)
    tokens[:, 0] = BOS
    row, place = np.repeat(np.arange(len(counts)), counts), 1 + places(counts)
    fits = place < length - 1
    tokens[row[fits], place[fits]] = ids[fits]
    tokens[np.arange(len(counts)), np.minimum(1 + counts, length - 1)] = EOS
    return tokens


def before_the_end(tokens: Int32) -> Bools:
    """Say which of tokens (N, L) stand before the first EOS of their row; all of them where there is none."""
    return ~np.logical_or.accumulate(tokens == EOS, axis=1)


def places(counts: Int64) -> Int64:
    """Return 0 .. counts[0] - 1, 0 .. counts[1] - 1, ..: the place of each entry in its group."""
    return np.arange(counts.sum()) - np.repeat(starts(counts), counts)


def starts(counts: Int64) -> Int64:
    """Return where each group begins when groups of `counts` lie end to end."""
    return np.cumsum(counts) - counts
