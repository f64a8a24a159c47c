"""The tiny FAST of ruiming-wu/FAST_Flow_Matching: an id is one coefficient or several in a row that often follow.

Ids: the specials, then the distinct coefficients of the fitting data in ascending order, then merged ones in the order
of merging (`merging.py`). Encoding takes the longest token that fits, from left to right; merges are not replayed. The
reference leaves an id unused when two merges spell the same integers; here ids stay dense.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.schema import Int64
from ensemble.tokenizers.alphabet import Alphabet
from ensemble.tokenizers.coefficients import Bools, Int32
from ensemble.tokenizers.longest_match import Trie
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
