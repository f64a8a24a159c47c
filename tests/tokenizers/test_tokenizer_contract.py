"""What both kinds of tokenizer promise."""

import logging

import numpy as np
import pytest
from action_chunks import oscillations
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.fft import dct

from ensemble.errors import StorageError
from ensemble.store import read_json, write_json
from ensemble.tokenizers.tokenizer import ActionTokenizer

KINDS = pytest.mark.parametrize("kind", ["tiny", "fast"])
HORIZON, WIDTH = 20, 2  # of the fixture's chunks


@st.composite
def any_chunks(draw):
    shape = [draw(st.integers(1, most)) for most in (6, 12, 4)]
    return draw(arrays.arrays(np.float64, shape, elements=st.floats(-3, 3)))


def framed(tokenizer, *ids):
    """One sequence as a model might say it."""
    return np.array([[tokenizer.bos, *ids, tokenizer.eos]])


@KINDS
@settings(max_examples=60)
@given(chunks=any_chunks(), scale=st.sampled_from([1.0, 10.0, 33.3]))
def test_a_round_trip_is_within_half_a_step_of_every_coefficient(kind, chunks, scale) -> None:
    tokenizer = ActionTokenizer.fit(chunks, kind, scale=scale, vocabulary=2000)
    decoded, whole = tokenizer.decode(tokenizer.encode(chunks, strict=True))
    waves, again = (dct(each.astype(float), axis=1, norm="ortho") for each in (chunks, decoded))
    assert whole.all()
    assert decoded.dtype == np.float32
    assert np.abs(again - waves).max() <= 0.5 / scale + 1e-5


@KINDS
@settings(max_examples=40)
@given(chunks=any_chunks())
def test_encoding_what_was_decoded_gives_the_same_tokens(kind, chunks) -> None:
    tokenizer = ActionTokenizer.fit(chunks, kind, vocabulary=2000)
    tokens = tokenizer.encode(chunks)
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(tokens)[0]), tokens)


def test_tokens_are_bos_ids_eos_and_padding(fitted) -> None:
    tokens = fitted.encode(oscillations(50, HORIZON, WIDTH))
    assert tokens.shape == (50, fitted.max_length)
    assert (tokens[:, 0] == fitted.bos).all()
    ends = (tokens == fitted.eos).argmax(axis=1)
    after = np.arange(fitted.max_length) > ends[:, None]
    np.testing.assert_array_equal(after, tokens == fitted.pad)
    inner = tokens[~after & (tokens != fitted.eos)].reshape(-1)
    assert inner.max() < fitted.vocabulary
    assert (np.sort(inner)[50:] > fitted.unk).all()


def test_a_batch_gives_what_its_chunks_give_one_by_one_in_any_order(fitted) -> None:
    chunks = oscillations(200, HORIZON, WIDTH)
    tokens = fitted.encode(chunks)
    np.testing.assert_array_equal(np.concatenate([fitted.encode(chunk[None]) for chunk in chunks]), tokens)
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_array_equal(fitted.encode(chunks[order]), tokens[order])
    decoded = fitted.decode(tokens)[0]
    np.testing.assert_array_equal(np.concatenate([fitted.decode(row[None])[0] for row in tokens]), decoded)
    np.testing.assert_array_equal(fitted.decode(tokens[order])[0], decoded[order])


def test_slabs_do_not_show(fitted, monkeypatch) -> None:
    chunks = oscillations(200, HORIZON, WIDTH)
    tokens = fitted.encode(chunks)
    monkeypatch.setattr("ensemble.tokenizers.tokenizer._SLAB", 7)
    monkeypatch.setattr("ensemble.tokenizers.tiny._ROWS", 3)
    np.testing.assert_array_equal(fitted.encode(chunks), tokens)
    assert fitted.decode(tokens)[1].all()
    bad = chunks.copy()
    bad[100, 3, 1] = np.nan
    with pytest.raises(ValueError, match="chunk 100, step 3, entry 1: nan"):
        fitted.encode(bad)


def test_tokens_of_any_leading_shape_are_decoded(fitted) -> None:
    tokens = fitted.encode(oscillations(6, HORIZON, WIDTH))
    chunks, whole = fitted.decode(tokens.reshape(2, 3, -1))
    assert chunks.shape == (2, 3, HORIZON, WIDTH)
    assert whole.shape == (2, 3)
    np.testing.assert_array_equal(chunks.reshape(6, HORIZON, WIDTH), fitted.decode(tokens)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_place(fitted, value) -> None:
    chunks = oscillations(5, HORIZON, WIDTH)
    chunks[3, 7, 1] = value
    for refuse in (fitted.encode, fitted.unknown, lambda c: ActionTokenizer.fit(c, fitted.kind)):
        with pytest.raises(ValueError, match=f"chunk 3, step 7, entry 1: {value}"):
            refuse(chunks)


@pytest.mark.parametrize("shape", [(0, HORIZON, WIDTH), (0,), (3, HORIZON, WIDTH + 1), (3, HORIZON), (HORIZON, WIDTH)])
def test_chunks_of_another_shape_or_none_are_refused(fitted, shape) -> None:
    with pytest.raises(ValueError, match="shape"):
        fitted.encode(np.zeros(shape))


@KINDS
@pytest.mark.parametrize("shape", [(0, 5, 1), (5, 0, 1), (5, 5), (5,)])
def test_fitting_to_nothing_is_refused(kind, shape) -> None:
    with pytest.raises(ValueError, match="shape"):
        ActionTokenizer.fit(np.zeros(shape), kind)


def test_actions_beyond_any_scale_are_refused(fitted) -> None:
    for size in (1e5, 1e300):
        with pytest.raises(ValueError, match=r"chunk 1: a coefficient of .* normalize"):
            fitted.encode(np.stack([np.zeros((HORIZON, WIDTH)), np.full((HORIZON, WIDTH), size)]))


@KINDS
@pytest.mark.parametrize("scale", [0, -1, np.nan, np.inf])
def test_a_scale_that_is_no_positive_number_is_refused(kind, scale) -> None:
    with pytest.raises(ValueError, match="scale"):
        ActionTokenizer.fit(oscillations(3), kind, scale=scale)


@KINDS
def test_coefficients_that_do_not_fit_in_the_vocabulary_are_refused(kind) -> None:
    with pytest.raises(ValueError, match="smaller scale or a larger vocabulary"):
        ActionTokenizer.fit(oscillations(500), kind, vocabulary=20)


def test_an_unknown_coefficient_is_counted_and_becomes_the_nearest_or_is_refused(fitted, caplog) -> None:
    chunks = oscillations(3, HORIZON, WIDTH)
    coefficients = fitted.quantizer.quantize(chunks)
    coefficients[1, 4] = fitted.codec.alphabet.high + 9
    far = fitted.quantizer.reconstruct(coefficients)
    assert fitted.unknown(far).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match=f"chunk 1: coefficient {fitted.codec.alphabet.high + 9} is not"):
        fitted.encode(far, strict=True)
    with caplog.at_level(logging.WARNING):
        tokens = fitted.encode(far)
    assert "1 coefficients of 1 chunks (of 3)" in caplog.text
    coefficients[1, 4] -= 9
    np.testing.assert_array_equal(fitted.quantizer.quantize(fitted.decode(tokens)[0]), coefficients)


@KINDS
def test_a_chunk_of_too_many_tokens_is_cut_and_counted_or_refused_by_number(kind, caplog) -> None:
    smooth, rough = np.zeros((50, 20, 1)), oscillations(50, 20, 1)
    tokenizer = ActionTokenizer.fit(np.concatenate([smooth, rough]), kind, max_length=22)
    coefficients = np.random.default_rng(0).choice(tokenizer.codec.alphabet.integers, (1, 20)).astype(np.int32)
    jagged = tokenizer.quantizer.reconstruct(coefficients)
    chunks = np.concatenate([smooth, jagged, smooth[:1]])
    short = ActionTokenizer(tokenizer.quantizer, tokenizer.codec, 4)
    with pytest.raises(ValueError, match=r"chunk 50 takes \d+ tokens .* max_length of 4"):
        short.encode(chunks, strict=True)
    with caplog.at_level(logging.WARNING):
        tokens = short.encode(chunks)
    assert "1 chunks (of 52) take more than 4 tokens" in caplog.text
    np.testing.assert_array_equal(tokens[50, :3], tokenizer.encode(jagged)[0, :3])
    assert tokens[50, 3] == short.eos
    assert short.decode(tokens)[1].tolist() == [True] * 50 + [False, True]
    spelled = short.quantizer.quantize(short.decode(tokens[50:51])[0])[0]
    kept = np.flatnonzero(spelled)[-1] + 1
    np.testing.assert_array_equal(spelled[:kept], coefficients[0, :kept])
    assert kept < np.flatnonzero(coefficients[0])[-1]


@KINDS
def test_a_length_that_cuts_more_than_one_chunk_in_a_hundred_is_refused(kind) -> None:
    smooth, rough = np.zeros((400, 20, 1)), oscillations(40, 20, 1)
    tokenizer = ActionTokenizer.fit(np.concatenate([smooth, rough]), kind)
    coefficients = np.random.default_rng(0).choice(tokenizer.codec.alphabet.integers, (5, 20)).astype(np.int32)
    jagged = tokenizer.quantizer.reconstruct(coefficients)
    short = ActionTokenizer(tokenizer.quantizer, tokenizer.codec, 4)
    short.encode(np.concatenate([smooth, jagged[:4]]))
    with pytest.raises(ValueError, match=r"chunk 400 takes \d+ .* max_length of 4; so do 5 of 405 chunks"):
        short.encode(np.concatenate([smooth, jagged]))
    with pytest.raises(ValueError, match=r"max_length of 2; so do 405 of 405"):
        ActionTokenizer.fit(np.concatenate([smooth, jagged]), kind, max_length=2, vocabulary=600)


def test_a_sequence_that_is_too_short_is_filled_with_zeros_and_marked(fitted) -> None:
    tokens = fitted.encode(oscillations(1, HORIZON, WIDTH))
    full = fitted.quantizer.quantize(fitted.decode(tokens)[0])[0]
    end = int((tokens[0] == fitted.eos).argmax())
    for kept in range(1, end):
        chunk, whole = fitted.decode(framed(fitted, *tokens[0, 1:kept]))
        part = fitted.quantizer.quantize(chunk)[0]
        spelled = np.flatnonzero(part != full)
        assert not whole[0]
        if len(spelled):
            np.testing.assert_array_equal(part[: spelled[0]], full[: spelled[0]])
            assert (part[spelled[0] :] == 0).all()


def test_a_sequence_that_is_too_long_is_cut_and_marked(fitted) -> None:
    tokens = fitted.encode(oscillations(1, HORIZON, WIDTH))
    ids = tokens[0][tokens[0] > fitted.unk]
    chunk, whole = fitted.decode(framed(fitted, *ids, *ids))
    np.testing.assert_array_equal(chunk, fitted.decode(tokens)[0])
    assert not whole[0]


def test_what_is_no_token_is_passed_over_and_marked(fitted) -> None:
    tokens = fitted.encode(oscillations(1, HORIZON, WIDTH))
    ids = tokens[0][tokens[0] > fitted.unk]
    for strange in (fitted.unk, fitted.vocabulary, fitted.vocabulary + 1000, -1):
        chunk, whole = fitted.decode(framed(fitted, *ids[:1], strange, *ids[1:]))
        np.testing.assert_array_equal(chunk, fitted.decode(tokens)[0])
        assert not whole[0]


def test_only_what_stands_before_the_first_eos_counts(fitted) -> None:
    tokens = fitted.encode(oscillations(4, HORIZON, WIDTH))
    end = (tokens == fitted.eos).argmax(axis=1)
    after = np.arange(tokens.shape[1]) > end[:, None]
    noise = np.random.default_rng(0).integers(0, fitted.vocabulary + 5, tokens.shape)
    chunks, whole = fitted.decode(np.where(after, noise, tokens))
    np.testing.assert_array_equal(chunks, fitted.decode(tokens)[0])
    assert whole.all()


def test_random_tokens_give_finite_chunks(fitted) -> None:
    tokens = np.random.default_rng(0).integers(-3, fitted.vocabulary + 3, (2000, 15))
    chunks, whole = fitted.decode(tokens)
    assert np.isfinite(chunks).all()
    assert not whole.all()


@pytest.mark.parametrize("tokens", [np.zeros((2, 3)), np.zeros((0, 3), int), np.array(3)])
def test_what_are_no_tokens_is_refused(fitted, tokens) -> None:
    with pytest.raises(ValueError, match="not integers"):
        fitted.decode(tokens)


def test_a_saved_tokenizer_is_the_same(fitted, tmp_path) -> None:
    fitted.save(tmp_path / "tokenizer.json")
    again = ActionTokenizer.load(tmp_path / "tokenizer.json")
    chunks = oscillations(100, HORIZON, WIDTH)
    tokens = fitted.encode(chunks)
    assert again.fingerprint == fitted.fingerprint
    for name in ("kind", "vocabulary", "horizon", "width", "scale", "max_length", "bos", "eos", "pad"):
        assert getattr(again, name) == getattr(fitted, name)
    np.testing.assert_array_equal(again.encode(chunks), tokens)
    np.testing.assert_array_equal(again.decode(tokens)[0], fitted.decode(tokens)[0])


def test_fitting_twice_gives_the_same_tokenizer(fitted) -> None:
    again = ActionTokenizer.fit(oscillations(500, HORIZON, WIDTH), fitted.kind)
    assert again.fingerprint == fitted.fingerprint


def test_a_damaged_file_is_refused(fitted, tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    fitted.save(path)
    content, text = read_json(path), path.read_text()
    for change in ({"scale": 11.0}, {"sha256": None}, {"max_length": 3}, {"codec": {}}):
        write_json(path, {**content, **change})
        with pytest.raises(StorageError, match="damaged"):
            ActionTokenizer.load(path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(StorageError, match="damaged"):
        ActionTokenizer.load(path)
    write_json(path, {**content, "version": 2})
    with pytest.raises(StorageError, match="version 2"):
        ActionTokenizer.load(path)
    for other in ([], {"vocab": {}}):
        write_json(path, other)
        with pytest.raises(StorageError, match="no tokenizer"):
            ActionTokenizer.load(path)
    with pytest.raises(StorageError, match="cannot be read"):
        ActionTokenizer.load(tmp_path / "missing.json")
