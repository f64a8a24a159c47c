"""The action tokenizer: chunks (N, H, A) to tokens (N, L) `[BOS] .. [EOS] [PAD] ..` and back, of either kind of FAST.

`kind` is "tiny" (`tiny.py`) or "fast" (`byte_pairs.py`); both have the same contract and the same special ids 0 to 3,
so that a model needs only `vocabulary`, `max_length`, `bos`, `eos`, `pad`. Nothing is lost but the rounding of
coefficients, and what does not fit is an error or counted, never silent.
"""

import hashlib
import json
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
from ensemble.store import read_json, write_json
from ensemble.tokenizers.alphabet import Alphabet
from ensemble.tokenizers.byte_pairs import BytePairCodec
from ensemble.tokenizers.coefficients import Bools, Int32, Quantizer
from ensemble.tokenizers.sequences import BOS, EOS, FIRST, PAD, UNK, before_the_end, frame
from ensemble.tokenizers.tiny import TinyCodec

Kind = Literal["tiny", "fast"]

FORMAT, VERSION = "ensemble tokenizer", 1
VOCABULARY = {"tiny": 256, "fast": 1024 + FIRST}  # of the systems followed: ids in all, the specials among them
_CODECS: dict[str, type[TinyCodec] | type[BytePairCodec]] = {"tiny": TinyCodec, "fast": BytePairCodec}
_SLAB = 1 << 15  # chunks worked on at a time
_SPARE = 1.25  # room of `max_length` beyond the longest of the fitting data
_CUT = 0.01  # share of chunks, and always one, that may be longer than `max_length`
_LOG = logging.getLogger(__name__)


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


@dataclass(frozen=True, eq=False)
class ActionTokenizer:
    """A fitted tokenizer, immutable."""

    quantizer: Quantizer
    codec: Codec
    max_length: int  # of a sequence, [BOS] and [EOS] included

    bos: ClassVar[int] = BOS
    eos: ClassVar[int] = EOS
    pad: ClassVar[int] = PAD
    unk: ClassVar[int] = UNK  # in no sequence that is encoded here; taken as unknown where a model says it

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

        `scale`: a coefficient is kept in steps of 1 / scale. `vocabulary`: most ids, the four specials among them (256
        for "tiny", 1,028 for "fast": the reference's 1,024 and the specials). `max_length`: tokens of a sequence (25 in
        the published data); None takes a quarter more than the longest of these chunks has. A rare longer one is cut,
        see `encode`. Raises ValueError for no chunks, NaN or infinity, coefficients that don't fit in the vocabulary,
        and where more than one chunk, and one in a hundred, is longer than `max_length`.
        """
        actions = np.asarray(chunks)
        if actions.ndim != 3 or not actions.size:
            raise ValueError(f"chunks (N, H, A) to fit to are needed, and these have the shape {actions.shape}")
        quantizer = Quantizer(float(scale), *actions.shape[1:])
        coefficients = np.concatenate([quantizer.quantize(part, first) for first, part in _slabs(actions)])
        most = VOCABULARY[kind] if vocabulary is None else vocabulary
        codec = _CODECS[kind].fit(coefficients, most)
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
        """Return how many ids there are, specials among them; fewer than asked for where nothing was left to merge."""
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
        """Return the steps that a unit of a coefficient is divided into."""
        return self.quantizer.scale

    def encode(self, chunks: npt.ArrayLike, *, strict: bool = False) -> Int32:
        """Return tokens (N, max_length) of chunks (N, H, A).

        A coefficient that the tokenizer does not know becomes the nearest that it knows (`unknown` says where). A chunk
        of more than `max_length` tokens is cut: it keeps its first, of the lowest frequencies, and [EOS]; the others
        are 0 when decoded, which says that it is not whole. A warning counts both; with `strict` they raise ValueError
        naming the chunk. NaN, infinity and another shape always do, and so do long chunks that are more than one and
        more than one in a hundred: then `max_length` is no fit.
        """
        actions = self._some(chunks)
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
            said = "%d chunks (of %d) take more than %d tokens: their highest frequencies were cut"
            _LOG.warning(said, cut, len(actions), self.max_length)
        return tokens

    def unknown(self, chunks: npt.ArrayLike) -> Int64:
        """Return how many coefficients of each of chunks (N, H, A) the tokenizer does not know, (N,)."""
        slabs = _slabs(self._some(chunks))
        return np.concatenate([self.codec.alphabet.symbols(self.quantizer.quantize(p, n))[1].sum(1) for n, p in slabs])

    def decode(self, tokens: npt.ArrayLike) -> tuple[Float32, Bools]:
        """Return chunks (.., H, A) of tokens (.., L), and which of them are `whole` (..).

        What follows the first [EOS] is ignored, other specials are passed over. A sequence is whole where its tokens
        spell exactly H * A coefficients and none is [UNK] or no id at all. Of one that is not, the coefficients that it
        spells are taken up to H * A (up to the first that is no coefficient), and those that lack, the highest
        frequencies, are 0. Raises ValueError where tokens are none or not integers.
        """
        ids = np.asarray(tokens)
        if ids.dtype.kind not in "iu" or not ids.ndim or not ids.size:
            raise ValueError(f"tokens are {ids.dtype} of shape {ids.shape}, not integers (.., L)")
        flat = ids.reshape(-1, ids.shape[-1])
        chunks = np.empty((len(flat), self.horizon, self.width), np.float32)
        whole = np.empty(len(flat), np.bool_)
        for first, part in _slabs(flat):
            here = slice(first, first + len(part))
            inside = before_the_end(part)
            strange = inside & ((part < 0) | (part >= self.vocabulary) | (part == UNK))
            kept = inside & (part >= FIRST) & ~strange
            coefficients, complete = self.codec.decode(part, kept, self.quantizer.size)
            chunks[here] = self.quantizer.reconstruct(coefficients)
            whole[here] = complete & ~strange.any(axis=1)
        return chunks.reshape(*ids.shape[:-1], self.horizon, self.width), whole.reshape(ids.shape[:-1])

    @cached_property
    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits of what the tokenizer does: equal ones give equal tokens."""
        return _digest(self._to_json())[:12]

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        kept = self._to_json()
        write_json(path, {**kept, "sha256": _digest(kept)})

    @classmethod
    def load(cls, path: Path) -> "ActionTokenizer":
        """Read what `save` wrote; StorageError where it is missing, damaged, of another version or no tokenizer."""
        kept = read_json(path)
        if not isinstance(kept, dict) or kept.get("format") != FORMAT:
            raise StorageError(f"{path}: is no tokenizer that `ensemble` saved")
        if kept.get("version") != VERSION:
            raise StorageError(f"{path}: version {kept.get('version')} of the format; this program reads {VERSION}")
        if kept.pop("sha256", None) != _digest(kept):
            raise StorageError(f"{path}: damaged: its content is not what was saved")
        quantizer = Quantizer(kept["scale"], kept["horizon"], kept["width"])
        return cls(quantizer, _CODECS[kept["kind"]].from_json(kept["codec"]), kept["max_length"])

    def _some(self, chunks: npt.ArrayLike) -> npt.NDArray[Any]:
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
        """Return for how many chunks [BOS], `counts` (N,) tokens and [EOS] are more than `max_length`, if few."""
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
        chunk, place = np.argwhere(unknown)[0]
        raise ValueError(f"chunk {first + chunk}: coefficient {coefficients[chunk, place]} is not in the tokenizer")


def _digest(kept: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
