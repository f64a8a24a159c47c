"""The merges of the tiny FAST tokenizer: the most frequent pair of neighbours becomes a token, again and again.

The reference's loop (ruiming-wu/FAST_Flow_Matching, `fast/train_tokenizer.py`) over all sequences at once, to the
same merges. Pairs are counted with overlaps, merged from the left without; of equally frequent pairs the one that
comes first in the sequences as they then are is taken; two merges that spell the same integers give one token.
"""

import numpy as np

from ensemble.schema import Int64
from ensemble.tokenizers.coefficients import Int32

Token = tuple[int, ...]  # what it spells
Merge = tuple[int, int]  # left, right: places in the list of tokens


def learn_merges(symbols: Int32, letters: list[Token], size: int) -> tuple[list[Token], list[Merge]]:
    """Return `letters` and new tokens, `size` in all while there are pairs, and the merges that led to them.

    `symbols` (N, W) are places in `letters`.
    """
    tokens, merges = list(letters), list[Merge]()
    place = {token: number for number, token in enumerate(tokens)}
    text = _end_to_end(symbols, size)
    while len(tokens) < size:
        pairs = text[:-1] * (size + 1) + text[1:]
        best = _most_frequent(pairs, size + 1)
        if best is None:
            break
        left, right = divmod(best, size + 1)
        spelled = tokens[left] + tokens[right]
        if spelled not in place:
            place[spelled] = len(tokens)
            tokens.append(spelled)
        merges.append((left, right))
        text = _merge(text, np.flatnonzero(pairs == best), place[spelled], overlaps=left == right)
    return tokens, merges


def _end_to_end(symbols: Int32, separator: int) -> Int64:
    text = np.full((symbols.shape[0], symbols.shape[1] + 1), separator, np.int64)
    text[:, :-1] = symbols
    return text.reshape(-1)


def _most_frequent(pairs: Int64, base: int) -> int | None:
    """Return the most frequent pair without a separator, the first of them in the text; None where there is none."""
    if base * base > max(2 * len(pairs), 1 << 18):  # a table of all pairs would cost more than sorting those there are
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


def _merge(text: Int64, found: Int64, token: int, overlaps: bool) -> Int64:
    """Put `token` where pairs begin; in a run of overlapping pairs every second one counts."""
    if overlaps:
        begins = np.diff(found, prepend=-2) != 1
        run = np.maximum.accumulate(np.where(begins, np.arange(len(found)), 0))
        found = found[(np.arange(len(found)) - run) % 2 == 0]
    text[found] = token
    keep = np.ones(len(text), np.bool_)
    keep[found + 1] = False
    return text[keep]
