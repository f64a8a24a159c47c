"""The action tokenizer: chunks (N, H, A) to tokens (N, L) `[BOS] .. [EOS] [PAD] ..` and back, of either kind of FAST.

`kind` is "tiny" (`tiny.py`) or "fast" (`byte_pairs.py`); both have the same contract and the same special ids 0 to 3,
so that a model needs only `vocabulary`, `max_length`, `bos`, `eos`, `pad`. The rounding of coefficients is the only
loss; chunks that do not fit raise an error or are counted, never dropped silently.
"""

import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ensemble.errors import StorageError
from ensemble.schema import Float32, Int64
from ensemble.store import read_json, record_sha256, write_record
from ensemble.tokenizers.alphabet import Alphabet
from ensemble.tokenizers.byte_pairs import BytePairCodec
from ensemble.tokenizers.coefficients import Bools, Int32, Quantizer
from ensemble.tokenizers.sequences import BOS, EOS, FIRST, PAD, UNK, before_eos, frame
from ensemble.tokenizers.tiny import TinyCodec

Kind = Literal["tiny", "fast"]

FORMAT, VERSION = "ensemble tokenizer", 1
VOCABULARY = {"tiny": 256, "fast": 1024 + FIRST}  # number of ids of the two references, specials included
_CODECS: dict[str, type[TinyCodec] | type[BytePairCodec]] = {"tiny": TinyCodec, "fast": BytePairCodec}
_SLAB = 1 << 15  # chunks per step: bounds the memory of float64 copies
_SPARE = 1.25  # `max_length` relative to the longest chunk of the fitting data
_CUT = 0.01  # allowed share of chunks longer than `max_length`; one is always allowed
_LOG = logging.getLogger(__name__)


class Codec(Protocol):
    """Conversion of coefficients of an `alphabet` to ids 0 .. `vocabulary` - 1, specials first, and back."""

    @property
    def kind(self) -> str:
        """Its name in files."""

    @property
    def vocabulary(self) -> int:
        """Number of ids, specials included."""

    @property
    def alphabet(self) -> Alphabet:
        """The coefficients that have ids."""

    def encode(self, symbols: Int32) -> tuple[Int32, Int64]:
        """Return the concatenated ids of all rows of symbols (N, W), without specials, and their number by row (N,)."""

    def decode(self, tokens: Int32, kept: Bools, width: int) -> tuple[Int32, Bools]:
        """Return coefficients (N, width) of the `kept` tokens (N, L), and a mask of the rows with exactly `width`.

        Missing coefficients are 0, surplus ones are cut.
        """

    def to_json(self) -> dict[str, Any]:
        """Return the content of its file."""


@dataclass(frozen=True, eq=False)
class ActionTokenizer:
    """A fitted tokenizer, immutable."""

    quantizer: Quantizer
    codec: Codec
    max_length: int  # of a sequence, [BOS] and [EOS] included

    bos: ClassVar[int] = BOS
    eos: ClassVar[int] = EOS
    pad: ClassVar[int] = PAD
    unk: ClassVar[int] = UNK  # never encoded; a sequence of a model that contains it is not whole

    @classmethod
    def fit(
        cls,
        chunks: npt.ArrayLike,
        kind: Kind = "tiny",
        *,
        scale: float = 10.0,
        vocabulary: int | None = None,
        max_length: int | None = None,
    ) -> "ActionTokenizer":
        """Fit to chunks (N, H, A), those of the training split.

        `scale`: coefficients are rounded to multiples of 1 / scale. `vocabulary`: largest number of ids, the four
        specials included (256 for "tiny", 1,028 for "fast": the reference's 1,024 and the specials). `max_length`:
        tokens of a sequence (25 in the published data); None is the longest of these chunks and a quarter more. A rare
        longer chunk is cut, see `encode`. Raises ValueError for no chunks, NaN or infinity, coefficients that do not
        fit in the vocabulary, and where more than 1 % of the chunks, and more than one, are longer than `max_length`.
        """
        # Coefficients
        actions = np.asarray(chunks)
        if actions.ndim != 3 or not actions.size:
            raise ValueError(f"chunks (N, H, A) to fit to are needed, and these have the shape {actions.shape}")
        quantizer = Quantizer(float(scale), *actions.shape[1:])
        coefficients = np.concatenate([quantizer.quantize(part, first) for first, part in _slabs(actions)])

        # Ids
        most = VOCABULARY[kind] if vocabulary is None else vocabulary
        codec = _CODECS[kind].fit(coefficients, most)

        # Length of sequences
        counts = np.concatenate([codec.encode(codec.alphabet.symbols(p)[0])[1] for _, p in _slabs(coefficients)])
        if max_length is None:
            max_length = math.ceil(_SPARE * (int(counts.max()) + 2))
        fitted = cls(quantizer, codec, max_length)
        fitted._count_long(counts, strict=False)
        return fitted

    @property
    def kind(self) -> str:
        """Return "tiny" or "fast"."""
        return self.codec.kind

    @property
    def vocabulary(self) -> int:
        """Return the number of ids, specials included; less than requested where no pairs were left to merge."""
        return self.codec.vocabulary

    @property
    def horizon(self) -> int:
        """Return the steps of a chunk."""
        return self.quantizer.horizon

    @property
    def width(self) -> int:
        """Return the actions of a step."""
        return self.quantizer.width

    @property
    def scale(self) -> float:
        """Return the scale: coefficients are multiples of 1 / scale."""
        return self.quantizer.scale

    def encode(self, chunks: npt.ArrayLike, *, strict: bool = False) -> Int32:
        """Return tokens (N, max_length) of chunks (N, H, A).

        An unknown coefficient is replaced by the nearest known one (`unknown` counts them). A chunk of more than
        `max_length` tokens keeps its first tokens, of the lowest frequencies, and [EOS]; the other coefficients decode
        to 0, and the chunk to one that is not whole. A warning counts both; with `strict` they raise ValueError with
        the chunk. ValueError always for NaN, infinity, another shape, and where more than 1 % of the chunks, and more
        than one, are too long: `max_length` is then wrong for these data.
        """
        actions = self._not_empty(chunks)
        tokens = np.empty((len(actions), self.max_length), np.int32)
        replaced, lengths = np.zeros(len(actions), np.int64), np.zeros(len(actions), np.int64)
        for first, part in _slabs(actions):
            coefficients = self.quantizer.quantize(part, first)
            symbols, unknown = self.codec.alphabet.symbols(coefficients)
            if strict:
                _refuse_unknown(coefficients, unknown, first)
            replaced[first : first + len(part)] = unknown.sum(axis=1)
            ids, counts = self.codec.encode(symbols)
            lengths[first : first + len(part)] = counts
            tokens[first : first + len(part)] = frame(ids, counts, self.max_length)
        if replaced.any():
            _LOG.warning(
                "%d coefficients of %d chunks (of %d) are not in the tokenizer: the nearest that are were taken",
                *(replaced.sum(), np.count_nonzero(replaced), len(actions)),
            )
        if cut := self._count_long(lengths, strict):
            text = "%d chunks (of %d) take more than %d tokens: their highest frequencies were cut"
            _LOG.warning(text, cut, len(actions), self.max_length)
        return tokens

    def unknown(self, chunks: npt.ArrayLike) -> Int64:
        """Return the number of unknown coefficients of each of chunks (N, H, A), (N,)."""
        slabs = _slabs(self._not_empty(chunks))
        return np.concatenate([self.codec.alphabet.symbols(self.quantizer.quantize(p, n))[1].sum(1) for n, p in slabs])

    def decode(self, tokens: npt.ArrayLike) -> tuple[Float32, Bools]:
        """Return chunks (.., H, A) of tokens (.., L), and a mask of the `whole` ones (..).

        Tokens after the first [EOS] are ignored, other specials are skipped. A sequence is whole where its tokens give
        exactly H * A coefficients and none is [UNK] or out of range. Of any other, the first H * A coefficients count
        (up to the first invalid one), and missing ones, of the highest frequencies, are 0. Raises ValueError without
        tokens and for tokens that are not integers.
        """
        ids = np.asarray(tokens)
        if ids.dtype.kind not in "iu" or not ids.ndim or not ids.size:
            raise ValueError(f"tokens are {ids.dtype} of shape {ids.shape}, not integers (.., L)")
        flat = ids.reshape(-1, ids.shape[-1])
        chunks = np.empty((len(flat), self.horizon, self.width), np.float32)
        whole = np.empty(len(flat), np.bool_)
        for first, part in _slabs(flat):
            rows = slice(first, first + len(part))
            inside = before_eos(part)
            invalid = inside & ((part < 0) | (part >= self.vocabulary) | (part == UNK))
            kept = inside & (part >= FIRST) & ~invalid
            coefficients, complete = self.codec.decode(part, kept, self.quantizer.size)
            chunks[rows] = self.quantizer.reconstruct(coefficients)
            whole[rows] = complete & ~invalid.any(axis=1)
        return chunks.reshape(*ids.shape[:-1], self.horizon, self.width), whole.reshape(ids.shape[:-1])

    @cached_property
    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits of the tokenizer's content: equal ones give equal tokens."""
        return record_sha256(self._to_json())[:12]

    def save(self, path: Path) -> None:
        """Write the tokenizer as JSON, atomically."""
        write_record(path, self._to_json())

    @classmethod
    def load(cls, path: Path) -> "ActionTokenizer":
        """Read a file of `save`; StorageError where it is missing, damaged, of another version or no tokenizer."""
        kept = read_json(path)
        if not isinstance(kept, dict) or kept.get("format") != FORMAT:
            raise StorageError(f"{path}: is no tokenizer that `ensemble` saved")
        if kept.get("version") != VERSION:
            raise StorageError(f"{path}: version {kept.get('version')} of the format; this program reads {VERSION}")
        if kept.pop("sha256", None) != record_sha256(kept):
            raise StorageError(f"{path}: damaged: its content is not what was saved")
        quantizer = Quantizer(kept["scale"], kept["horizon"], kept["width"])
        return cls(quantizer, _CODECS[kept["kind"]].from_json(kept["codec"]), kept["max_length"])

    def _not_empty(self, chunks: npt.ArrayLike) -> npt.NDArray[Any]:
        actions = np.asarray(chunks)
        if not actions.ndim or not len(actions):
            raise ValueError(f"there are no chunks: shape {actions.shape}")
        return actions

    def _to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "scale": self.scale,
            "horizon": self.horizon,
            "width": self.width,
            "max_length": self.max_length,
            "codec": self.codec.to_json(),
        }

    def _count_long(self, counts: Int64, strict: bool) -> int:
        """Return how many chunks of `counts` (N,) tokens, [BOS] and [EOS] exceed `max_length`; ValueError for many."""
        long = np.flatnonzero(counts + 2 > self.max_length)
        if len(long) > (0 if strict else max(1, _CUT * len(counts))):
            raise ValueError(
                f"chunk {long[0]} takes {counts[long[0]] + 2} tokens with [BOS] and [EOS], more than the max_length of "
                f"{self.max_length}; so do {len(long)} of {len(counts)} chunks, up to {counts.max() + 2} tokens"
            )
        return len(long)


def _slabs(rows: npt.NDArray[Any]) -> list[tuple[int, npt.NDArray[Any]]]:
    return [(first, rows[first : first + _SLAB]) for first in range(0, len(rows), _SLAB)]


def _refuse_unknown(coefficients: Int32, unknown: Bools, first: int) -> None:
    if unknown.any():
        chunk, column = np.argwhere(unknown)[0]
        raise ValueError(f"chunk {first + chunk}: coefficient {coefficients[chunk, column]} is not in the tokenizer")
