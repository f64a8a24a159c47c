"""The tiny FAST of ruiming-wu/FAST_Flow_Matching: an id is one coefficient or a frequent sequence of several.

Ids: the specials, then the distinct coefficients of the fitting data in ascending order, then merged ones in the order
of merging (`merging.py`). Encoding takes the longest matching token, from left to right, and does not replay merges.
The reference leaves an id unused when two merges give the same integers; here ids are dense.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.schema import Int64
from ensemble.tokenizers.alphabet import Alphabet
from ensemble.tokenizers.coefficients import Bools, Int32
from ensemble.tokenizers.merging import Merge, Token, learn_merges
from ensemble.tokenizers.sequences import FIRST, group_positions


class TinyCodec:
    """Tokens are sequences of coefficients; `tokens[i]` has the id FIRST + i, and () is an unused id."""

    kind = "tiny"

    def __init__(self, tokens: Sequence[Token], merges: Sequence[Merge]) -> None:
        """Raise ValueError for a token with an integer that is no token itself, and for repeated tokens."""
        self.tokens = tuple(tokens)
        self.merges = tuple(merges)
        used = [token for token in self.tokens if token]
        # Every single coefficient must be a token: encoding then never gets stuck.
        letters = sorted(token[0] for token in used if len(token) == 1)
        missing = {integer for token in used for integer in token} - set(letters)
        if missing or not letters or len(set(used)) < len(used):
            raise ValueError(f"tokens contain integers that are no tokens: {sorted(missing)}, or repeat one another")
        self.alphabet = Alphabet(np.array(letters, np.int32))
        symbol = {integer: index for index, integer in enumerate(letters)}
        ids = {tuple(symbol[i] for i in token): FIRST + n for n, token in enumerate(self.tokens) if token}
        self._trie = Trie(ids, len(letters))
        self._lengths = np.array([0] * FIRST + [len(token) for token in self.tokens], np.int64)
        self._index_nonzero()

    def _index_nonzero(self) -> None:
        """Store the positions and values of the nonzero coefficients of all tokens."""
        # Most coefficients are zero, as the rows of `decode` are initially: writing the others is enough.
        all_tokens = [()] * FIRST + list(self.tokens)
        pairs = [(position, value) for token in all_tokens for position, value in enumerate(token) if value]
        self._positions, self._values = np.array(pairs, np.int64).reshape(-1, 2).T
        self._counts = np.array([sum(map(bool, token)) for token in all_tokens], np.int64)
        self._begins = np.cumsum(self._counts) - self._counts

    @classmethod
    def fit(cls, coefficients: Int32, vocabulary: int) -> "TinyCodec":
        """Learn at most `vocabulary` ids from coefficients (N, W); ValueError where single coefficients exceed it."""
        integers = np.unique(coefficients)
        if len(integers) + FIRST > vocabulary:
            raise ValueError(
                f"{len(integers)} distinct coefficients and {FIRST} special ids do not fit in a vocabulary of "
                f"{vocabulary}; choose a smaller scale or a larger vocabulary"
            )
        symbols = np.searchsorted(integers, coefficients).astype(np.int32)
        return cls(*learn_merges(symbols, [(int(each),) for each in integers], vocabulary - FIRST))

    @property
    def vocabulary(self) -> int:
        """Number of ids, specials included."""
        return FIRST + len(self.tokens)

    def encode(self, symbols: Int32) -> tuple[Int32, Int64]:
        """Return the concatenated ids of all rows of symbols (N, W), and the number of ids of each row (N,)."""
        return self._trie.match(symbols)

    def decode(self, tokens: Int32, kept: Bools, width: int) -> tuple[Int32, Bools]:
        """Return coefficients (N, width), cut or padded with 0, and a mask of the rows with exactly `width` of them.

        An unused id has no coefficients, and excludes its row from the mask.
        """
        ids = np.where(kept, tokens, 0)
        lengths = self._lengths[ids]  # (N, L)
        ends = lengths.cumsum(axis=1)
        chosen = ids.reshape(-1)
        counts = self._counts[chosen]
        entry = np.repeat(self._begins[chosen], counts) + group_positions(counts)
        column = np.repeat((ends - lengths).reshape(-1), counts) + self._positions[entry]
        row = np.repeat(np.arange(len(ids)), counts.reshape(ids.shape).sum(axis=1))
        inside = column < width
        coefficients = np.zeros((len(ids), width), np.int32)
        coefficients[row[inside], column[inside]] = self._values[entry[inside]]
        unused = kept & (lengths == 0)
        return coefficients, (ends[:, -1] == width) & ~unused.any(axis=1)

    def to_json(self) -> dict[str, Any]:
        """Return tokens as lists of integers, and merges as pairs of indices of tokens."""
        return {"tokens": [list(token) for token in self.tokens], "merges": [list(merge) for merge in self.merges]}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "TinyCodec":
        """Build a codec from the value of `to_json`."""
        return cls([tuple(token) for token in kept["tokens"]], [(left, right) for left, right in kept["merges"]])


_ROWS = 8192  # matched together: their arrays stay in the cache
_DEAD, _ROOT = 0, 1  # numbers of nodes


class Trie:
    """A prefix tree of tokens over symbols 0 .. `letters` - 1, every single symbol included, each with an id."""

    def __init__(self, token_ids: dict[tuple[int, ...], int], letters: int) -> None:
        # The tree
        children: list[dict[int, int]] = [{}, {}]
        ids = [-1, -1]
        for token, number in token_ids.items():
            node = _ROOT
            for symbol in token:
                if symbol not in children[node]:
                    children[node][symbol] = len(children)
                    children.append({})
                    ids.append(-1)
                node = children[node][symbol]
            ids[node] = number

        # Its transitions as one table, so that all rows advance by one index operation
        self._letters = letters  # also the symbol at the end of a row, which has no child
        self._next: npt.NDArray[np.int32] = np.full((len(children), letters + 1), _DEAD, np.int32)
        for node, following in enumerate(children):
            for symbol, child in following.items():
                self._next[node, symbol] = child
        self._ids = np.array(ids, np.int32)

    def match(self, symbols: Int32) -> tuple[Int32, Int64]:
        """Return the concatenated ids of all rows of symbols (N, W), and the number of ids of each row (N,)."""
        parts = [self._match(symbols[start : start + _ROWS]) for start in range(0, len(symbols), _ROWS)]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([counts for _, counts in parts])

    def _match(self, symbols: Int32) -> tuple[Int32, Int64]:
        # One position, node and longest match per row
        rows, width = symbols.shape
        text = np.full((rows, width + 1), self._letters, np.int32)
        text[:, :-1] = symbols
        flat, table = text.reshape(-1), self._next.reshape(-1)
        matched = np.full((rows, width), -1, np.int32)
        counts = np.zeros(rows, np.int64)
        row = np.arange(rows)  # the rows that have not ended
        cursor = row * (width + 1)
        node = np.full(rows, _ROOT, np.int32)
        longest, after = np.zeros(rows, np.int32), cursor.copy()  # id of the longest match so far, and its end
        while len(row):
            # Advance every row by one symbol
            node = table[node * (self._letters + 1) + flat[cursor]]
            cursor += 1
            number = self._ids[node]
            longer = number >= 0
            np.copyto(longest, number, where=longer)
            np.copyto(after, cursor, where=longer)
            dead = np.flatnonzero(node == _DEAD)
            if not len(dead):
                continue

            # Emit the longest match and continue after it
            matched[row[dead], counts[row[dead]]] = longest[dead]
            counts[row[dead]] += 1
            cursor[dead] = after[dead]
            node[dead] = _ROOT

            # Drop rows at their end
            ended = flat[cursor[dead]] == self._letters
            if ended.any():
                keep = np.ones(len(row), np.bool_)
                keep[dead[ended]] = False
                row, cursor, node, longest, after = row[keep], cursor[keep], node[keep], longest[keep], after[keep]
        return matched[matched >= 0], counts
