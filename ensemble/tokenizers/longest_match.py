"""Greedy longest match of many sequences at once: a trie as one table, advanced for all of them in parallel."""

import numpy as np
import numpy.typing as npt

from ensemble.schema import Int64
from ensemble.tokenizers.coefficients import Int32

_ROWS = 8192  # advanced together: what belongs to them stays in the cache
_DEAD, _ROOT = 0, 1


class Trie:
    """Words over symbols 0 .. `letters` - 1, among them every single symbol, each with an id."""

    def __init__(self, words: dict[tuple[int, ...], int], letters: int) -> None:
        children: list[dict[int, int]] = [{}, {}]
        ids = [-1, -1]
        for word, number in words.items():
            node = _ROOT
            for symbol in word:
                if symbol not in children[node]:
                    children[node][symbol] = len(children)
                    children.append({})
                    ids.append(-1)
                node = children[node][symbol]
            ids[node] = number
        self._letters = letters  # also the symbol at the end of a row, which has no child
        self._next: npt.NDArray[np.int32] = np.full((len(children), letters + 1), _DEAD, np.int32)
        for node, following in enumerate(children):
            for symbol, child in following.items():
                self._next[node, symbol] = child
        self._ids = np.array(ids, np.int32)

    def match(self, symbols: Int32) -> tuple[Int32, Int64]:
        """Return the ids of all rows of symbols (N, W) end to end, and how many each has (N,)."""
        parts = [self._match(symbols[start : start + _ROWS]) for start in range(0, len(symbols), _ROWS)]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([counts for _, counts in parts])

    def _match(self, symbols: Int32) -> tuple[Int32, Int64]:
        rows, width = symbols.shape
        text = np.full((rows, width + 1), self._letters, np.int32)
        text[:, :-1] = symbols
        flat, table = text.reshape(-1), self._next.reshape(-1)
        found = np.full((rows, width), -1, np.int32)
        counts = np.zeros(rows, np.int64)
        row = np.arange(rows)  # of each sequence that is not yet at its end
        cursor = row * (width + 1)
        node = np.full(rows, _ROOT, np.int32)
        word, after = np.zeros(rows, np.int32), cursor.copy()  # the longest match so far, and where it ends
        while len(row):
            node = table[node * (self._letters + 1) + flat[cursor]]
            cursor += 1
            number = self._ids[node]
            longer = number >= 0
            np.copyto(word, number, where=longer)
            np.copyto(after, cursor, where=longer)
            stuck = np.flatnonzero(node == _DEAD)
            if not len(stuck):
                continue
            found[row[stuck], counts[row[stuck]]] = word[stuck]
            counts[row[stuck]] += 1
            cursor[stuck] = after[stuck]
            node[stuck] = _ROOT
            ended = flat[cursor[stuck]] == self._letters
            if ended.any():
                going = np.ones(len(row), np.bool_)
                going[stuck[ended]] = False
                row, cursor, node, word, after = row[going], cursor[going], node[going], word[going], after[going]
        return found[found >= 0], counts
