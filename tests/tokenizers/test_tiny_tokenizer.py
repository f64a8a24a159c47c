"""The tiny FAST, against its reference's plain loops and published numbers."""

import json

import numpy as np
import plain_loops as plain
import pytest
from action_chunks import oscillations
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import StorageError
from ensemble.tokenizers.alphabet import Alphabet
from ensemble.tokenizers.coefficients import Quantizer
from ensemble.tokenizers.merging import learn_merges
from ensemble.tokenizers.original import read_original, write_original
from ensemble.tokenizers.tiny import Trie
from ensemble.tokenizers.tokenizer import ActionTokenizer

TIME = np.arange(50)
PUBLISHED_CHUNK = (2.5 * np.exp(-TIME / 12) * np.cos(TIME / 4))[None, :, None]


def spelled(tokenizer):
    return [",".join(map(str, token)) for token in tokenizer.codec.tokens]


def assert_like_the_reference(chunks, vocabulary) -> None:
    tokenizer = ActionTokenizer.fit(chunks, "tiny", vocabulary=vocabulary)
    sentences = [plain.sentence(chunk) for chunk in chunks]
    vocab, merges = plain.train(sentences, vocabulary)
    names = spelled(tokenizer)
    assert dict(enumerate([*plain.SPECIALS, *names])) == {number: name for name, number in vocab.items()}
    pairs = [[names[left], names[right]] for left, right in tokenizer.codec.merges]
    assert [[pair, ",".join(pair)] for pair in pairs] == merges
    longest = max(len(name.split(",")) for name in vocab)
    tokens, by_id = tokenizer.encode(chunks, strict=True), list(vocab)
    expected = [plain.encode(words, vocab, longest) for words in sentences]
    assert [row[row != tokenizer.pad].tolist() for row in tokens] == expected
    loops = np.stack([plain.decode(ids, by_id, *chunks.shape[1:]) for ids in expected])
    np.testing.assert_allclose(tokenizer.decode(tokens)[0], loops, atol=1e-6)


@pytest.mark.parametrize("width", [1, 2])
def test_vocabulary_merges_ids_and_chunks_are_those_of_the_reference(width) -> None:
    assert_like_the_reference(oscillations(150, 50, width), 256)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 20), horizon=st.integers(1, 15), size=st.sampled_from([0.03, 0.3])
)
def test_ties_and_runs_are_merged_as_in_the_reference(seed, count, horizon, size) -> None:
    chunks = np.random.default_rng(seed).normal(0, size, (count, horizon, 1))
    assert_like_the_reference(chunks, 80)


def test_a_run_of_equal_symbols_is_counted_with_overlaps_and_merged_from_the_left() -> None:
    symbols = np.array([[0, 0, 0, 1, 2, 1]], np.int32)  # 0 0 twice, others once
    tokens, merges = learn_merges(symbols, [(7,), (8,), (9,)], 5)
    assert tokens[3:] == [(7, 7), (7, 7, 7)]
    assert merges == [(0, 0), (3, 0)]


def test_two_merges_that_spell_the_same_give_one_token() -> None:
    text = [[0, 1, 9, 0, 1, 9, 0, 1], [1, 2, 9, 1, 2, 9, 9, 9], [0, 1, 2, 8, 0, 1, 2, 8]]
    tokens, merges = learn_merges(np.array(text, np.int32), [(n,) for n in range(10)], 40)
    assert len(set(tokens)) == len(tokens)
    assert len(merges) >= len(tokens) - 10


def test_the_longest_word_wins_even_after_a_longer_attempt_failed() -> None:
    trie = Trie({(0,): 4, (1,): 5, (0, 1): 6, (0, 1, 0, 0): 7}, 2)
    ids, counts = trie.match(np.array([[0, 1, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0]], np.int32))
    assert np.split(ids, np.cumsum(counts)[:-1])[0].tolist() == [6, 6]
    assert ids.tolist() == [6, 6, 7, 5, 5, 4, 4]


def test_the_nearest_known_integer_is_taken_of_two_the_one_nearer_to_zero() -> None:
    alphabet = Alphabet(np.array([-8, -4, 0, 2, 10], np.int32))
    asked = np.array([-99, -8, -7, -6, -5, -2, 0, 1, 2, 6, 7, 10, 99], np.int32)
    symbols, unknown = alphabet.symbols(asked)
    assert alphabet.integers[symbols].tolist() == [-8, -8, -8, -4, -4, 0, 0, 0, 2, 2, 10, 10, 10]
    assert asked[~unknown].tolist() == [-8, 0, 2, 10]


def test_the_published_chunk_has_its_published_coefficients_and_errors() -> None:
    quantizer = Quantizer(10.0, 50, 1)
    coefficients = quantizer.quantize(PUBLISHED_CHUNK)
    assert coefficients[0].tolist() == [6, 10, 13, 24, 32, 19, 8, 5, 3, 2, 1, 1, 1, 1] + [0] * 36
    error = quantizer.reconstruct(coefficients) - PUBLISHED_CHUNK
    assert np.abs(error).max() == pytest.approx(0.04705, abs=5e-6)
    assert np.sqrt((error**2).mean()) == pytest.approx(0.02033, abs=5e-6)


def test_half_is_rounded_to_even() -> None:
    halves = np.array([0.5, 1.5, 2.5, 3.5])
    halves = np.concatenate([halves, -halves])[:, None, None]
    near = [np.nextafter(halves, side) for side in (-9, 9)] + [halves]  # the transform of a step is off by a bit
    exact = [chunks[plain.dct(chunks, axis=1, norm="ortho") == halves] for chunks in near]
    chunks = np.unique(np.concatenate(exact))[:, None, None]
    assert {0.5, 1.5, 2.5} <= set(np.abs(plain.dct(chunks, axis=1, norm="ortho")).ravel().tolist())
    assert (Quantizer(1.0, 1, 1).quantize(chunks) % 2 == 0).all()


def published_like(path) -> None:
    """A file of the authors' form: their integers, and those of their merged tokens that the published chunk needs."""
    integers = [-54, -50, -49, *range(-45, -44), *range(-43, 46), 48, 49, 50]
    vocab = {token: number for number, token in enumerate([*plain.SPECIALS, *map(str, integers)])}
    known = {113: "1,1,1,1", 120: ",".join(["0"] * 36), 207: "3,2"}
    others = (f"{far},{integer}" for far in (49, 50) for integer in integers)
    for number in range(100, 256):
        vocab[known.get(number) or next(others)] = number
    path.write_text(json.dumps({"vocab": vocab, "merges": [[["3", "2"], "3,2"]]}))


def test_the_published_ids_come_out_of_a_file_of_the_authors_form(tmp_path) -> None:
    published_like(tmp_path / "fast_tokenizer.json")
    tokenizer = read_original(tmp_path / "fast_tokenizer.json")
    assert (tokenizer.vocabulary, tokenizer.max_length) == (256, 25)
    tokens = tokenizer.encode(PUBLISHED_CHUNK, strict=True)
    assert tokens[0].tolist() == [0, 57, 61, 64, 75, 83, 70, 59, 56, 207, 113, 120, 1] + [2] * 12
    assert tokenizer.decode(tokens)[1].all()


def test_the_authors_file_is_written_and_read_again(tmp_path) -> None:
    chunks = oscillations(300)
    tokenizer = ActionTokenizer.fit(chunks, "tiny")
    write_original(tokenizer, tmp_path / "a.json")
    again = read_original(tmp_path / "a.json", max_length=tokenizer.max_length)
    assert again.fingerprint == tokenizer.fingerprint
    vocab, merges = plain.train([plain.sentence(chunk) for chunk in chunks], 256)
    assert json.loads((tmp_path / "a.json").read_text()) == {"vocab": vocab, "merges": merges}


def test_ids_that_the_authors_file_skips_stay_unused(tmp_path) -> None:
    vocab = {**{name: number for number, name in enumerate(plain.SPECIALS)}, "0": 4, "1": 5, "0,1": 9}
    (tmp_path / "a.json").write_text(json.dumps({"vocab": vocab, "merges": []}))
    tokenizer = read_original(tmp_path / "a.json", scale=1, horizon=3, max_length=5)
    assert tokenizer.vocabulary == 10
    chunks = tokenizer.quantizer.reconstruct(np.array([[0, 1, 1]], np.int32))
    assert tokenizer.encode(chunks).tolist() == [[0, 9, 5, 1, 2]]
    write_original(tokenizer, tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text())["vocab"] == vocab
    assert not tokenizer.decode(np.array([[0, 9, 5, 7, 1]]))[1].any()


GOOD = {**{name: number for number, name in enumerate(plain.SPECIALS)}, "0": 4, "1": 5, "0,1": 6}


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"vocab": GOOD},
        {"vocab": {"0": 0}, "merges": []},
        {"vocab": {**GOOD, "[PAD]": 9}, "merges": []},
        {"vocab": {**GOOD, "2": 5}, "merges": []},
        {"vocab": {**GOOD, "x": 7}, "merges": []},
        {"vocab": {**GOOD, "2": "7"}, "merges": []},
        {"vocab": {**GOOD, "0,2": 7}, "merges": []},
        {"vocab": {**GOOD, "2": -1}, "merges": []},
        {"vocab": {**GOOD, "2": 2_000_000}, "merges": []},
        {"vocab": GOOD, "merges": [[["0", "1"], "1,0"]]},
        {"vocab": GOOD, "merges": [[["0", "9"], "0,9"]]},
        {"vocab": GOOD, "merges": [["0", "1"]]},
    ],
)
def test_a_damaged_file_of_the_authors_form_is_refused(tmp_path, content) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(StorageError, match=r"a\.json"):
        read_original(tmp_path / "a.json")


def test_only_the_tiny_kind_is_written_in_the_authors_form(tmp_path) -> None:
    with pytest.raises(ValueError, match="tiny"):
        write_original(ActionTokenizer.fit(oscillations(20), "fast"), tmp_path / "a.json")
