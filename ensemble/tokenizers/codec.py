"""What the two kinds of FAST differ in: how coefficients become ids, without loss, and ids coefficients."""

from typing import Any, Protocol

from ensemble.schema import Int64
from ensemble.tokenizers.alphabet import Alphabet
from ensemble.tokenizers.coefficients import Bools, Int32


class Codec(Protocol):
    """Ids 0 .. `vocabulary` - 1, specials first (`sequences.py`); known coefficients are those of `alphabet`."""

    @property
    def kind(self) -> str:
        """Its name in files."""

    @property
    def vocabulary(self) -> int:
        """How many ids there are, the specials among them."""

    @property
    def alphabet(self) -> Alphabet:
        """The coefficients that it knows."""

    def encode(self, symbols: Int32) -> tuple[Int32, Int64]:
        """Return the ids of all rows of symbols (N, W) end to end, without specials, and how many each has (N,)."""

    def decode(self, tokens: Int32, kept: Bools, width: int) -> tuple[Int32, Bools]:
        """Return coefficients (N, width) of the `kept` ones of tokens (N, L), and which rows spell just `width`.

        What a row lacks is 0, what it has too much is cut.
        """

    def to_json(self) -> dict[str, Any]:
        """Return what a file keeps of it."""
