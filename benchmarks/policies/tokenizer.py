"""How fast chunks become tokens and tokens chunks, against the loops over one sequence at a time that came first.

    python -m benchmarks tokenizer [--chunks 3000] [--rounds 3] [--many 100000]

The tiny FAST against its authors' way (strings of integers in Python; kinder than theirs: a dictionary where they
search a list, the vocabulary read once, the longest token known). The reference FAST against its own processor
(Hugging Face's fast tokenizer called once a chunk; both train with the same trainer). Equality is checked first; then
both take turns on the same chunks, smooth ones of 50 steps. Each line gives medians, and the ratio turn by turn. The
chunks are few because of the loops, whose time grows with their number; the last lines give what `--many` cost us.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import dct, idct
from tokenizers import ByteLevelBPETokenizer
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from benchmarks.command import Parser, announce, equivalence, row, say
from benchmarks.timing import alternate, ratio
from ensemble.text import plural
from ensemble.tokenizers.tokenizer import ActionTokenizer, Kind

SCALE, HORIZON = 10.0, 50
SPECIALS = ["[BOS]", "[EOS]", "[PAD]", "[UNK]"]
Chunks = npt.NDArray[np.float32]
Rows = list[list[int]]


def smooth_chunks(count: int) -> Chunks:
    """Return damped oscillations with a little noise, (count, 50, 1): about as many tokens each as the pendulum's."""
    random = np.random.default_rng(0)
    decay, turn, phase, size = random.uniform([3, 0.05, 0, 0.2], [15, 0.4, 6.3, 2.5], (count, 4)).T[..., None]
    when = np.arange(HORIZON)
    swing = size * np.exp(-when / decay) * np.cos(turn * when + phase)
    return (swing + random.normal(0, 0.01, swing.shape)).astype(np.float32)[..., None]


class TinyLoop:
    """The tiny FAST, a sequence at a time."""

    def fit(self, chunks: Chunks) -> None:
        """Merge the most frequent pair until there are 256 tokens."""
        text = [self.words(chunk) for chunk in chunks]
        integers = sorted({int(word) for words in text for word in words[1:-1]})
        self.vocabulary = {token: number for number, token in enumerate([*SPECIALS, *map(str, integers)])}
        while len(self.vocabulary) < 256:
            pairs: Counter[tuple[str, str]] = Counter()
            for words in text:
                for left, right in pairwise(words):
                    if left != "[BOS]" and right != "[EOS]":
                        pairs[left, right] += 1
            best = max(pairs, key=pairs.__getitem__)
            text = [merge(words, best) for words in text]
            self.vocabulary.setdefault(",".join(best), len(self.vocabulary))
        self.names = list(self.vocabulary)
        self.longest = max(name.count(",") + 1 for name in self.names)

    def words(self, chunk: Chunks) -> list[str]:
        """Return one chunk as words."""
        return ["[BOS]", *(str(int(q)) for q in np.round(SCALE * dct(chunk[:, 0], norm="ortho"))), "[EOS]"]

    def encode(self, chunks: Chunks) -> Rows:
        """Take the longest token that fits, for each chunk."""
        return [self.encode_one(self.words(chunk)) for chunk in chunks]

    def encode_one(self, words: list[str]) -> list[int]:
        """Encode one sequence."""
        ids, place = [], 0
        while place < len(words):
            for length in range(min(self.longest, len(words) - place), 0, -1):
                token = ",".join(words[place : place + length])
                if token in self.vocabulary:
                    ids.append(self.vocabulary[token])
                    place += length
                    break
        return ids

    def decode(self, rows: Rows) -> Chunks:
        """Split the tokens and transform back, for each sequence."""
        return np.stack([self.decode_one(ids) for ids in rows])

    def decode_one(self, ids: list[int]) -> Chunks:
        """Decode one sequence, zeros where it is short."""
        names = [self.names[number] for number in ids]
        integers = [int(word) for name in names if name not in SPECIALS for word in name.split(",")]
        whole = (integers + [0] * HORIZON)[:HORIZON]
        return idct(np.array(whole) / SCALE, norm="ortho")[:, None]


def merge(words: list[str], pair: tuple[str, str]) -> list[str]:
    """Join each occurrence of a pair of words."""
    out, place = [], 0
    while place < len(words):
        if place + 1 < len(words) and (words[place], words[place + 1]) == pair:
            out.append(",".join(pair))
            place += 2
        else:
            out.append(words[place])
            place += 1
    return out


def without_gaps(chunks: Chunks) -> Chunks:
    """Add chunks with all coefficients that the others lack: with gaps the reference's last ids are not ours."""
    waves = np.around(dct(chunks[..., 0], axis=1, norm="ortho") * SCALE)
    every = np.arange(waves.min(), waves.max() + 1)
    rows = np.zeros((-(-len(every) // HORIZON), HORIZON))
    rows.reshape(-1)[: len(every)] = every
    return np.concatenate([chunks, idct(rows / SCALE, axis=1, norm="ortho").astype(np.float32)[..., None]])


class ReferenceLoop:
    """The reference FAST's processor."""

    def fit(self, chunks: Chunks) -> None:
        """Train byte-level BPE on strings of coefficients."""
        waves = [np.around(dct(chunk, axis=0, norm="ortho").flatten() * SCALE) for chunk in chunks]
        self.low = int(np.concatenate(waves).min())
        high = int(np.concatenate(waves).max())
        bpe = ByteLevelBPETokenizer()
        trainer = BpeTrainer(
            vocab_size=1024,
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=[chr(i) for i in range(high - self.low + 1)],
            max_token_length=10000,
        )
        texts = ("".join(map(chr, (wave - self.low).astype(int))) for wave in waves)
        bpe._tokenizer.train_from_iterator(texts, trainer=trainer)
        self.bpe = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)

    def encode(self, chunks: Chunks) -> Rows:
        """Encode a string for each chunk."""
        waves = np.around(dct(chunks, axis=1, norm="ortho") * SCALE)
        symbols = [np.maximum(wave.flatten() - self.low, 0).astype(int) for wave in waves]
        return [self.bpe("".join(map(chr, row)))["input_ids"] for row in symbols]

    def decode(self, rows: Rows) -> Chunks:
        """Decode a string for each sequence."""
        waves = [np.array(list(map(ord, self.bpe.decode(ids)))) + self.low for ids in rows]
        return np.stack([idct(wave.reshape(HORIZON, 1) / SCALE, axis=0, norm="ortho") for wave in waves])


def ids_of(tokenizer: ActionTokenizer, tokens: npt.NDArray[np.int32]) -> Rows:
    """Return our tokens as the loops give them: the tiny one's with [BOS] and [EOS], the reference's own ids."""
    if tokenizer.kind == "tiny":
        return [row[row != tokenizer.pad].tolist() for row in tokens]
    return [(row[row > tokenizer.unk] - tokenizer.unk - 1).tolist() for row in tokens]


def compare(kind: Kind, chunks: Chunks, rounds: int) -> None:
    """Check that both give the same, and print a row for each thing that they do."""
    # Equivalence
    ours = ActionTokenizer.fit(chunks, kind)
    loop: Any = TinyLoop() if kind == "tiny" else ReferenceLoop()
    loop.fit(chunks)
    tokens = ours.encode(chunks, strict=True)
    rows = loop.encode(chunks)
    assert ids_of(ours, tokens) == rows, "the loop gives other ids"
    decoded, whole = ours.decode(tokens)
    assert whole.all()
    np.testing.assert_allclose(decoded, loop.decode(rows), atol=1e-5)
    mean = (tokens != ours.pad).sum(axis=1).mean()
    say(f"\n{kind}: {len(chunks):,} chunks of {HORIZON}, {ours.vocabulary} ids, {mean:.1f} tokens a chunk")
    equivalence("all tokens are equal, decoded chunks within 1e-5")

    # Turns
    turns: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "fit": (lambda: loop.fit(chunks), lambda: ActionTokenizer.fit(chunks, kind)),
        "encode": (lambda: loop.encode(chunks), lambda: ours.encode(chunks)),
        "decode": (lambda: loop.decode(rows), lambda: ours.decode(tokens)),
    }
    for what, (slow, fast) in turns.items():
        seconds = alternate({"loop": slow, "ours": fast}, rounds, warmup=0)
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        times = f"loop {medians['loop']:8.3f} s, ours {medians['ours']:7.3f} s"
        row(what, times, f"ours is faster {ratio(seconds['loop'], seconds['ours'])}")


def alone(kind: Kind, chunks: Chunks) -> None:
    """Print what many chunks cost us."""
    clock = [time.perf_counter()]
    tokenizer = ActionTokenizer.fit(chunks, kind)
    clock.append(time.perf_counter())
    tokens = tokenizer.encode(chunks)
    clock.append(time.perf_counter())
    tokenizer.decode(tokens)
    clock.append(time.perf_counter())
    fit, encode, decode = np.diff(clock)
    row(f"{kind}, {len(chunks):,} chunks", f"fit {fit:.2f} s, encode {encode:.2f} s, decode {decode:.2f} s")


def main() -> None:
    parser = Parser(__doc__, quick={"chunks": 200, "rounds": 1, "many": 1_000})
    parser.add_argument("--chunks", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=100_000)
    options = parser.parse()
    rounds = plural(options.rounds, "round")
    announce(options, f"Two tokenizers on {options.chunks:,} chunks, {rounds}, then ours on {options.many:,}", 1)
    kinds: tuple[Kind, ...] = ("tiny", "fast")
    for kind in kinds:
        chunks = smooth_chunks(options.chunks)
        compare(kind, chunks if kind == "tiny" else without_gaps(chunks), options.rounds)
    say("\nours alone")
    for kind in kinds:
        alone(kind, smooth_chunks(options.many))


if __name__ == "__main__":
    main()
