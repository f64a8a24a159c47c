"""The merges of the tiny FAST tokenizer: the most frequent adjacent pair becomes a token, repeatedly.

The reference's loop (ruiming-wu/FAST_Flow_Matching, `fast/train_tokenizer.py`) over all sequences at once, with equal
merges. Pairs are counted with overlaps and merged from the left without; of equally frequent pairs, the first in the
current sequences is merged; two merges with the same integers give one token.
"""

import numpy as np

from ensemble.schema import Int64
from ensemble.tokenizers.coefficients import Int32

Token = tuple[int, ...]  # its coefficients
Merge = tuple[int, int]  # left, right: indices into the list of tokens


def learn_merges(symbols: Int32, letters: list[Token], size: int) -> tuple[list[Token], list[Merge]]:
    """Return `letters` and new tokens, `size` in total unless no pairs are left, and the merges that gave them.

    `symbols` (N, W) are indices into `letters`.
    """
    tokens, merges = list(letters), list[Merge]()
    index = {token: number for number, token in enumerate(tokens)}
    text = _concatenated(symbols, size)
    while len(tokens) < size:
        # A pair as one number, so that pairs are counted by bincount; `size` itself is the separator.
        pairs = text[:-1] * (size + 1) + text[1:]
        best = _most_frequent(pairs, size + 1)
        if best is None:
            break
        left, right = divmod(best, size + 1)
        merged = tokens[left] + tokens[right]
        if merged not in index:
            index[merged] = len(tokens)
            tokens.append(merged)
        merges.append((left, right))
        text = _merge(text, np.flatnonzero(pairs == best), index[merged], overlaps=left == right)
    return tokens, merges


def _concatenated(symbols: Int32, separator: int) -> Int64:
    """Return all rows of symbols (N, W) as one sequence, a separator after each row."""
    text = np.full((symbols.shape[0], symbols.shape[1] + 1), separator, np.int64)
    text[:, :-1] = symbols
    return text.reshape(-1)


def _most_frequent(pairs: Int64, base: int) -> int | None:
    """Return the most frequent pair without a separator, of several the first in the text; None without any."""
    # For a large vocabulary, a table of all pairs would cost more than sorting the existing ones.
    if base * base > max(2 * len(pairs), 1 << 18):
        values, first, counts = np.unique(pairs, return_index=True, return_counts=True)
        counts[(values // base == base - 1) | (values % base == base - 1)] = 0
        most = np.flatnonzero(counts == counts.max())
        return int(values[most[first[most].argmin()]]) if counts.max() else None
    table = np.bincount(pairs, minlength=base * base).reshape(base, base)
    table[-1, :] = table[:, -1] = 0
    equal = (table == table.max()).reshape(-1)
    if not table.max():
        return None
    return int(equal.argmax() if equal.sum() == 1 else pairs[equal[pairs].argmax()])


def _merge(text: Int64, at: Int64, token: int, overlaps: bool) -> Int64:
    """Replace the pairs that begin at `at` by `token`; in a run of overlapping pairs, every second one."""
    # Pairs of equal tokens overlap (a a a): merged from the left, as the reference's loop does.
    if overlaps:
        begins = np.diff(at, prepend=-2) != 1
        run = np.maximum.accumulate(np.where(begins, np.arange(len(at)), 0))
        at = at[(np.arange(len(at)) - run) % 2 == 0]
    text[at] = token
    keep = np.ones(len(text), np.bool_)
    keep[at + 1] = False
    return text[keep]
