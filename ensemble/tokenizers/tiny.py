"""The tiny FAST of ruiming-wu/FAST_Flow_Matching: an id is one coefficient or several in a row that often follow.

Ids: the specials, then the distinct coefficients of the fitting data in ascending order, then merged ones in the order
of merging (`merging.py`). Encoding takes the longest token that fits, from left to right; merges are not replayed. The
reference leaves an id unused when two merges spell the same integers; here ids stay dense.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.schema import Int64
from ensemble.tokenizers.alphabet import Alphabet
from ensemble.tokenizers.coefficients import Bools, Int32
from ensemble.tokenizers.merging import Merge, Token, learn_merges
from ensemble.tokenizers.sequences import FIRST, places


class TinyCodec:
    """Tokens spell integers; `tokens[i]` has the id FIRST + i, and () is an id that is not used."""

    kind = "tiny"

    def __init__(self, tokens: Sequence[Token], merges: Sequence[Merge]) -> None:
        """Raise ValueError where a token spells an integer that is no token itself, or one that is there twice."""
        self.tokens = tuple(tokens)
        self.merges = tuple(merges)
        spelled = [token for token in self.tokens if token]
        letters = sorted(token[0] for token in spelled if len(token) == 1)
        missing = {integer for token in spelled for integer in token} - set(letters)
        if missing or not letters or len(set(spelled)) < len(spelled):
            raise ValueError(f"tokens spell integers that are no tokens: {sorted(missing)}, or repeat one another")
        self.alphabet = Alphabet(np.array(letters, np.int32))
        symbol = {integer: place for place, integer in enumerate(letters)}
        words = {tuple(symbol[i] for i in token): FIRST + n for n, token in enumerate(self.tokens) if token}
        self._trie = Trie(words, len(letters))
        self._lengths = np.array([0] * FIRST + [len(token) for token in self.tokens], np.int64)
        self._spell_nonzero()

    def _spell_nonzero(self) -> None:
        """Note the place and the value of all nonzero coefficients of all tokens: most are zero, and rows begin so."""
        all_tokens = [()] * FIRST + list(self.tokens)
        pairs = [(place, value) for token in all_tokens for place, value in enumerate(token) if value]
        self._places, self._values = np.array(pairs, np.int64).reshape(-1, 2).T
        self._counts = np.array([sum(map(bool, token)) for token in all_tokens], np.int64)
        self._begins = np.cumsum(self._counts) - self._counts

    @classmethod
    def fit(cls, coefficients: Int32, vocabulary: int) -> "TinyCodec":
        """Learn at most `vocabulary` ids from coefficients (N, W); ValueError where even the single ones are more."""
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
        """How many ids there are, the specials among them."""
        return FIRST + len(self.tokens)

    def encode(self, symbols: Int32) -> tuple[Int32, Int64]:
        """Return the ids of all rows of symbols (N, W) end to end, and how many each has (N,)."""
        return self._trie.match(symbols)

    def decode(self, tokens: Int32, kept: Bools, width: int) -> tuple[Int32, Bools]:
        """Return coefficients (N, width), cut or filled with 0, and which rows spell just `width` of them.

        An id that is not used spells nothing, and its row is none of those.
        """
        ids = np.where(kept, tokens, 0)
        lengths = self._lengths[ids]  # (N, L)
        ends = lengths.cumsum(axis=1)
        chosen = ids.reshape(-1)
        counts = self._counts[chosen]
        entry = np.repeat(self._begins[chosen], counts) + places(counts)
        column = np.repeat((ends - lengths).reshape(-1), counts) + self._places[entry]
        row = np.repeat(np.arange(len(ids)), counts.reshape(ids.shape).sum(axis=1))
        inside = column < width
        coefficients = np.zeros((len(ids), width), np.int32)
        coefficients[row[inside], column[inside]] = self._values[entry[inside]]
        unused = kept & (lengths == 0)
        return coefficients, (ends[:, -1] == width) & ~unused.any(axis=1)

    def to_json(self) -> dict[str, Any]:
        """Return tokens as lists of integers, and merges as pairs of places among them."""
        return {"tokens": [list(token) for token in self.tokens], "merges": [list(merge) for merge in self.merges]}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "TinyCodec":
        """Build what `to_json` returned."""
        return cls([tuple(token) for token in kept["tokens"]], [(left, right) for left, right in kept["merges"]])


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
