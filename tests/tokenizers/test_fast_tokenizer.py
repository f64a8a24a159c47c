"""The reference FAST, against its plain loop."""

import numpy as np
import plain_loops as plain
import pytest
from action_chunks import oscillations, walks
from tokenizers.pre_tokenizers import ByteLevel

from ensemble.tokenizers.byte_pairs import code_points
from ensemble.tokenizers.sequences import FIRST
from ensemble.tokenizers.tokenizer import ActionTokenizer


def coefficients_as_chunks(coefficients, scale=10.0):
    """Chunks (N, H, 1) whose coefficients are those of (N, H)."""
    return plain.idct(np.asarray(coefficients, float) / scale, axis=1, norm="ortho")[..., None]


def byte_names(letters):
    """The bytes of letters as byte-level BPE writes them."""
    return set("".join(piece for piece, _ in ByteLevel(add_prefix_space=False).pre_tokenize_str("".join(letters))))


@pytest.mark.parametrize(("chunks", "vocabulary"), [(walks(400), 1024), (oscillations(300), 1024), (walks(200), 300)])
def test_ids_and_chunks_are_those_of_the_reference(chunks, vocabulary) -> None:
    """Where the data have gaps, the last ids go to the bytes that the reference lacks."""
    tokenizer = ActionTokenizer.fit(chunks, "fast", vocabulary=vocabulary + FIRST)
    integers = np.unique(tokenizer.quantizer.quantize(chunks))
    letters = [chr(symbol) for symbol in range(integers[-1] - integers[0] + 1)]
    seen = byte_names(chr(symbol) for symbol in integers - integers[0])
    lacking = len(byte_names(letters) - seen - set(letters))
    reference = plain.ReferenceFast(chunks, vocabulary - lacking)
    assert tokenizer.vocabulary == len(reference.bpe) + lacking + FIRST
    tokens = tokenizer.encode(chunks)
    expected = [reference.encode(chunk) for chunk in chunks]
    assert [(row[row > tokenizer.unk] - FIRST).tolist() for row in tokens] == expected
    loops = np.stack([reference.decode(ids, *chunks.shape[1:]) for ids in expected])
    np.testing.assert_allclose(tokenizer.decode(tokens)[0], loops, atol=1e-6)


def test_random_walks_compress_as_published() -> None:
    chunks = walks(400)
    tokenizer = ActionTokenizer.fit(chunks, "fast")
    tokens = tokenizer.encode(chunks)
    decoded, whole = tokenizer.decode(tokens)
    assert tokenizer.vocabulary == 1028
    assert whole.all()
    assert 15 < (tokens > tokenizer.unk).sum(axis=1).mean() < 60  # of 150
    assert 0.08 < np.abs(decoded - chunks).max() < 0.16
    np.testing.assert_array_equal(tokenizer.quantizer.quantize(decoded), tokenizer.quantizer.quantize(chunks))


@pytest.mark.parametrize("span", [90, 127, 128, 300, 1500, 2500])
def test_any_integer_in_range_survives_even_where_the_fitting_data_have_a_gap(span) -> None:
    random = np.random.default_rng(0)
    seen = np.concatenate([np.full((40, 12), -50), np.full((40, 12), span - 50)])
    seen[:, 3:] += random.integers(0, 5, (80, 9)) * np.where(seen[:, 3:] > 0, -1, 1)
    tokenizer = ActionTokenizer.fit(coefficients_as_chunks(seen), "fast", vocabulary=4000)
    every = random.integers(-50, span - 49, (300, 12))
    long_enough = ActionTokenizer(tokenizer.quantizer, tokenizer.codec, 12 * 3 + 2)
    decoded, whole = long_enough.decode(long_enough.encode(coefficients_as_chunks(every), strict=True))
    assert whole.all()
    np.testing.assert_array_equal(tokenizer.quantizer.quantize(decoded), every)


def test_a_character_that_is_cut_in_two_ends_the_chunk() -> None:
    random = np.random.default_rng(0)
    wide = random.integers(-300, 300, (200, 12))  # symbols above 127 are two bytes, and often two tokens
    fitted = ActionTokenizer.fit(coefficients_as_chunks(wide), "fast", vocabulary=2000)
    tokenizer = ActionTokenizer(fitted.quantizer, fitted.codec, 12 * 2 + 2)
    tokens = tokenizer.encode(coefficients_as_chunks(wide))
    ids = tokens[0][tokens[0] > tokenizer.unk]
    for gone in range(len(ids)):
        row = np.array([[tokenizer.bos, *np.delete(ids, gone), tokenizer.eos]])
        chunks, whole = tokenizer.decode(row)
        coefficients = tokenizer.quantizer.quantize(chunks)[0]
        kept = np.flatnonzero(coefficients != wide[0])
        assert not whole[0]
        assert len(kept)
        np.testing.assert_array_equal(coefficients[: kept[0]], wide[0][: kept[0]])


def test_utf8_of_many_rows_is_what_python_reads() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        rows = [
            bytes(random.choice([65, 0x7F, 0x80, 0xBF, 0xC2, 0xC3, 0xE0, 0xE1, 0xA0, 0xF0], n).tolist())
            for n in (0, 3, 7)
        ]
        rows.append("".join(map(chr, random.integers(0, 0xD800, 5))).encode())
        points, counts = code_points(
            np.frombuffer(b"".join(rows), np.uint8), np.array([len(row) for row in rows], np.int64)
        )
        for row, found in zip(rows, np.split(points, np.cumsum(counts)[:-1]), strict=True):
            try:
                assert found.tolist() == [ord(character) for character in row.decode()]
            except UnicodeDecodeError as error:
                good = row[: error.start].decode()
                assert found[: len(good)].tolist() == [ord(character) for character in good]
                assert (found < 0).any() or (found >= 0xD800).any()


def test_a_range_beyond_all_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ActionTokenizer.fit(coefficients_as_chunks([[-32000, 32000]]), "fast", vocabulary=100_000)
