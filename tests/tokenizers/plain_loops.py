"""The plain loops that the tokenizers are held against: one sequence at a time, as one would write them first.

The tiny kind as FAST_Flow_Matching describes and runs it, over strings of integers; the reference FAST of
physical-intelligence/fast, over strings of characters.
"""

import itertools
from collections import Counter

import numpy as np
from scipy.fft import dct, idct
from tokenizers import ByteLevelBPETokenizer
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

SPECIALS = ["[BOS]", "[EOS]", "[PAD]", "[UNK]"]


def sentence(chunk, scale=10.0):
    """A chunk (H, A) as [BOS], its rounded coefficients, [EOS]."""
    return ["[BOS]", *(str(int(q)) for q in np.round(scale * dct(chunk, axis=0, norm="ortho")).flatten()), "[EOS]"]


def train(sentences, size):
    """Vocabulary {token: id} and merges; ids are dense where two merges spell one token."""
    base = sorted({int(word) for words in sentences for word in words if word not in SPECIALS})
    vocab = {token: number for number, token in enumerate([*SPECIALS, *map(str, base)])}
    merges = []
    while len(vocab) < size:
        pairs = Counter()
        for words in sentences:
            for left, right in itertools.pairwise(words):
                if left != "[BOS]" and right != "[EOS]":
                    pairs[left, right] += 1
        if not pairs:
            break
        best = max(pairs, key=pairs.__getitem__)  # of equal ones the first that was inserted
        merged = ",".join(best)
        sentences = [merge(words, best, merged) for words in sentences]
        vocab.setdefault(merged, len(vocab))
        merges.append([list(best), merged])
    return vocab, merges


def merge(words, pair, merged):
    out, place = [], 0
    while place < len(words):
        if tuple(words[place : place + 2]) == pair:
            out.append(merged)
            place += 2
        else:
            out.append(words[place])
            place += 1
    return out


def encode(words, vocab, longest):
    """The longest token that fits, from left to right; [UNK] where none does."""
    ids, place = [], 0
    while place < len(words):
        for length in range(min(longest, len(words) - place), 0, -1):
            token = ",".join(words[place : place + length])
            if token in vocab:
                ids.append(vocab[token])
                place += length
                break
        else:
            ids.append(vocab["[UNK]"])
            place += 1
    return ids


def decode(ids, names, horizon, width, scale=10.0):
    """A chunk (H, A): specials dropped, cut or filled with zeros."""
    integers = [int(i) for number in ids if names[number] not in SPECIALS for i in names[number].split(",")]
    size = horizon * width
    filled = np.array((integers + [0] * size)[:size], float).reshape(horizon, width)
    return idct(filled / scale, axis=0, norm="ortho")


class ReferenceFast:
    """Fit, encode and decode of the reference FAST."""

    def __init__(self, chunks, vocabulary=1024, scale=10.0):
        self.scale = scale
        waves = [np.around(dct(chunk, axis=0, norm="ortho").flatten() * scale) for chunk in chunks]
        self.low, high = int(min(w.min() for w in waves)), int(max(w.max() for w in waves))
        bpe = ByteLevelBPETokenizer()
        trainer = BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            show_progress=False,
            special_tokens=[],
            initial_alphabet=[chr(i) for i in range(high - self.low + 1)],
            max_token_length=10000,
        )
        strings = ["".join(map(chr, (wave - self.low).astype(int))) for wave in waves]
        bpe._tokenizer.train_from_iterator(strings, trainer=trainer)
        self.bpe = PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)

    def encode(self, chunk):
        wave = np.around(dct(chunk, axis=0, norm="ortho") * self.scale)
        symbols = np.maximum(wave.flatten() - self.low, 0).astype(int)
        return self.bpe("".join(map(chr, symbols)))["input_ids"]

    def decode(self, ids, horizon, width):
        wave = np.array([ord(character) for character in self.bpe.decode(ids)]) + self.low
        return idct(wave.reshape(horizon, width) / self.scale, axis=0, norm="ortho")
