"""The reference FAST: coefficients as characters of a string, and byte-level BPE over it (Hugging Face `tokenizers`).

After `processing_action_tokenizer.py` of physical-intelligence/fast (Pertsch et al. 2025): a coefficient minus the
smallest one is a code point, the string of a chunk is encoded as UTF-8, and BPE merges bytes. Ids are the BPE's own,
after the specials. Two differences: the reference has no ids for bytes of coefficients that are absent from the fitting
data, and drops these silently; here such bytes take the last ids, in place of as many merges (all other ids are the
reference's). And a damaged sequence is decoded as far as possible, not to zeros.
"""

import json
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ensemble.schema import Int64
from ensemble.tokenizers.alphabet import Alphabet
from ensemble.tokenizers.coefficients import Bools, Int32
from ensemble.tokenizers.sequences import FIRST, group_positions, group_starts

_LOG = logging.getLogger(__name__)
_SURROGATES = 0xD800  # the first code point that UTF-8 cannot encode
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
# GPT-2's alphabet of bytes: printable bytes map to themselves, the others to U+0100 and up.
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + index): byte for index, byte in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))
}
_BYTE_NAMES = {byte: name for name, byte in _BYTES.items()}


class BytePairCodec:
    """Coefficients low .. high as code points 0 .. high - low; BPE ids from FIRST on."""

    kind = "fast"

    def __init__(self, low: int, high: int, pieces: list[str], merges: list[tuple[str, str]]) -> None:
        """`pieces` are the BPE's tokens in the order of their ids, in GPT-2's alphabet of bytes."""
        self.alphabet = Alphabet(np.arange(low, high + 1, dtype=np.int32))
        self._pieces, self._merges = pieces, merges
        self._bpe = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        # The bytes of all tokens in one array: decoding is then index arithmetic, without a Python loop over ids.
        contents = [b""] * FIRST + [_token_bytes(piece) for piece in pieces]
        self._bytes = np.frombuffer(b"".join(contents), np.uint8)
        self._lengths = np.array([len(each) for each in contents], np.int64)
        self._begins = group_starts(self._lengths)

    @classmethod
    def fit(cls, coefficients: Int32, vocabulary: int) -> "BytePairCodec":
        """Learn at most `vocabulary` ids from coefficients (N, W), with the reference's trainer arguments.

        Raises ValueError where their range does not fit; warns, as the reference does, where little room is left.
        """
        # Characters, and bytes without an id in the reference
        low, high = int(coefficients.min()), int(coefficients.max())
        span, size = high - low, vocabulary - FIRST
        letters = [chr(symbol) for symbol in range(min(span, _SURROGATES - 1) + 1)]
        seen = [chr(symbol) for symbol in np.unique(coefficients) - low] if span < _SURROGATES else []
        absent = sorted(_byte_names(letters) - _byte_names(seen) - set(letters))
        if span >= _SURROGATES or len({*letters, *_byte_names(letters)}) > size:
            raise ValueError(
                f"coefficients from {low} to {high} do not fit in a vocabulary of {vocabulary}, {FIRST} of it special; "
                "choose a smaller scale or a larger vocabulary"
            )
        if span + 100 > size:
            _LOG.warning("coefficients from %d to %d nearly fill a vocabulary of %d", low, high, vocabulary)

        # Merges
        trainer = trainers.BpeTrainer(
            vocab_size=size - len(absent),
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=letters,
            max_token_length=10000,
        )
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.train_from_iterator(_strings((coefficients - low).astype(np.int32)), trainer=trainer)

        # Ids. The library has no accessor for merges: its JSON has them.
        model = json.loads(bpe.to_str())["model"]
        pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
        return cls(low, high, [*pieces, *absent], [(left, right) for left, right in model["merges"]])

    @property
    def vocabulary(self) -> int:
        """Number of ids, specials included."""
        return FIRST + len(self._pieces)

    def encode(self, symbols: Int32) -> tuple[Int32, Int64]:
        """Return the concatenated ids of all rows of symbols (N, W), and the number of ids of each row (N,)."""
        encoded = [each.ids for each in self._bpe.encode_batch_fast(_strings(symbols), add_special_tokens=False)]
        counts = np.fromiter(map(len, encoded), np.int64, len(encoded))
        flat = (number for ids in encoded for number in ids)
        return np.fromiter(flat, np.int32, int(counts.sum())) + np.int32(FIRST), counts

    def decode(self, tokens: Int32, kept: Bools, width: int) -> tuple[Int32, Bools]:
        """Return coefficients (N, width), cut or padded with 0, and a mask of the rows with exactly `width` of them.

        A row is cut at bytes that are no character, or a character without a coefficient.
        """
        # Ids to bytes to code points. Id 0 is a special and has no bytes.
        ids = np.where(kept, tokens, 0)
        lengths = self._lengths[ids]
        flat = lengths.reshape(-1)
        data = self._bytes[np.repeat(self._begins[ids.reshape(-1)], flat) + group_positions(flat)]
        points, counts = code_points(data, lengths.sum(axis=1))

        # Code points to coefficients, up to the first invalid one
        row, column = np.repeat(np.arange(len(ids)), counts), group_positions(counts)
        broken = (points < 0) | (points >= len(self.alphabet))
        stop = counts.copy()
        np.minimum.at(stop, row[broken], column[broken])
        inside = column < np.minimum(stop, width)[row]
        coefficients = np.zeros((len(ids), width), np.int32)
        coefficients[row[inside], column[inside]] = points[inside] + self.alphabet.low
        return coefficients, (counts == width) & (stop == width)

    def to_json(self) -> dict[str, Any]:
        """Return range, pieces by id, and merges."""
        return {
            "low": self.alphabet.low,
            "high": self.alphabet.high,
            "pieces": self._pieces,
            "merges": [list(merge) for merge in self._merges],
        }

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> "BytePairCodec":
        """Build a codec from the value of `to_json`."""
        return cls(kept["low"], kept["high"], kept["pieces"], [(left, right) for left, right in kept["merges"]])


def _strings(symbols: Int32) -> list[str]:
    """Return one string per row of symbols (N, W), one character per symbol."""
    rows, width = symbols.shape
    # One decoding of all rows, many times faster than `chr` for each symbol.
    text = symbols.astype("<u4").tobytes().decode("utf-32-le")
    return [text[start : start + width] for start in range(0, rows * width, width)]


def _byte_names(letters: list[str]) -> set[str]:
    """Return the bytes of letters, as characters of GPT-2's alphabet."""
    return {_BYTE_NAMES[byte] for byte in "".join(letters).encode()}


def _token_bytes(piece: str) -> bytes:
    """Return the bytes of a BPE token; a letter outside GPT-2's alphabet (unused, of the initial one) is itself."""
    if all(name in _BYTES for name in piece):
        return bytes(_BYTES[name] for name in piece)
    return piece.encode()


_MARKS = np.array([0, 0x7F, 0x1F, 0x0F], np.int64)  # payload bits of a first byte, by size of the character
_FEWEST = np.array([0, 0, 0x80, 0x800], np.int64)  # smallest code point of each size in bytes


def code_points(data: npt.NDArray[np.uint8], lengths: Int64) -> tuple[Int64, Int64]:
    """Return the code points of concatenated rows of bytes, and their number in each row (N,).

    -1 marks bytes that are no UTF-8 character of one to three bytes.
    """
    # Plain ASCII, the common case, needs no decoding.
    if not (data & 0x80).any():
        return data.astype(np.int64), lengths

    # Where characters begin. A row's first byte begins one, since rows are decoded independently; so do the bytes after
    # a complete character, even if they are continuation bytes.
    begins = (data & 0xC0) != 0x80
    begins[group_starts(lengths)[lengths > 0]] = True
    first = np.flatnonzero(begins)
    size, room = _sizes(data[first]), np.diff(first, append=len(data))
    begins[(first + size)[(size > 0) & (room > size)]] = True
    first = np.flatnonzero(begins)

    # Their code points. Overlong forms are refused, as by every UTF-8 decoder.
    size, lead = _sizes(data[first]), data[first].astype(np.int64)
    whole = (np.diff(first, append=len(data)) == size) & (size > 0)
    points = lead & _MARKS[size]
    for further in (1, 2):
        more = np.flatnonzero(whole & (size > further))
        points[more] = (points[more] << 6) | (data[first[more] + further] & 0x3F)
    whole &= points >= _FEWEST[size]
    row = np.repeat(np.arange(len(lengths)), lengths)[first]
    return np.where(whole, points, -1), np.bincount(row, minlength=len(lengths)).astype(np.int64)


def _sizes(lead: npt.NDArray[np.uint8]) -> Int64:
    """Return the number of bytes of characters that begin with `lead`, 0 for other bytes."""
    return np.select([lead < 0x80, (lead >> 5) == 0b110, (lead >> 4) == 0b1110], [1, 2, 3], 0).astype(np.int64)
