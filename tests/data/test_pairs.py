"""Pairs of an observation and its action chunk, as tiny pi0's authors keep them."""

from pathlib import Path

import numpy as np
import pytest
from layout_files import config

from ensemble.config.loading import load
from ensemble.data.convert import convert
from ensemble.data.inspect import inspect_file, write_experiment
from ensemble.data.layouts.detect import detect, open_container
from ensemble.data.notes import has_manifest
from ensemble.data.splits import split_windows
from ensemble.data.trajectories import read_trajectories
from ensemble.data.windows import Windows
from ensemble.errors import DataError
from ensemble.tokenizers.original import write_original
from ensemble.tokenizers.tokenizer import ActionTokenizer

PAIRS, HORIZON = 40, 50


def write_pairs(path: Path, actions: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Write a file of pairs, chunks (N, H) or (N, H, actions); return states (N, 4) and chunks (N, H, A)."""
    random = np.random.default_rng(0)
    state = random.uniform(-0.5, 0.5, (PAIRS, 4)).astype(np.float32)
    chunk = random.normal(0, 0.2, (PAIRS, HORIZON, actions or 1)).astype(np.float32)
    np.savez(path, state=state, action_chunk=chunk if actions else chunk[:, :, 0])
    return state, chunk


@pytest.mark.parametrize("actions", [None, 1, 3])
def test_a_pair_is_the_one_window_of_its_episode(tmp_path: Path, actions: int | None) -> None:
    state, chunk = write_pairs(tmp_path / "training_pairs_original.npz", actions)
    manifest = convert([tmp_path / "training_pairs_original.npz"], tmp_path / "out", config())
    data = read_trajectories(tmp_path / "out")
    assert manifest.layout == "pairs"
    assert [(f.name, f.width, f.role) for f in data.features] == [
        ("observations", 4, "state"),
        ("actions", actions or 1, "control"),
    ]
    windows = Windows(data, data.episodes, HORIZON)
    points = windows.gather(np.arange(windows.count)).numpy()
    assert points.shape == (PAIRS, HORIZON + 1, 4 + chunk.shape[2])
    np.testing.assert_array_equal(points[:, 0, :4], state)
    np.testing.assert_array_equal(points[:, :-1, 4:], chunk)
    assert not points[:, -1, 4:].any()


def test_shorter_windows_of_pairs_begin_where_the_state_is_known(tmp_path: Path) -> None:
    state, chunk = write_pairs(tmp_path / "pairs.npz")
    manifest = convert([tmp_path / "pairs.npz"], tmp_path / "out", config())
    data = read_trajectories(tmp_path / "out")
    segments = split_windows(data, config(starts=[0]), 10)["train"]
    windows = Windows(data, segments, 10)
    points = windows.gather(np.arange(windows.count)).numpy()
    assert len(points) == 0.8 * PAIRS
    which = [int(np.flatnonzero((state == first).all(1))[0]) for first in points[:, 0, :4]]
    np.testing.assert_array_equal(points[:, :-1, 4:], chunk[which, :10])
    assert any("data.starts: [0]" in notice for notice in manifest.notices)
    assert any("one by pair" in notice for notice in manifest.notices)


def test_pairs_are_found_without_being_named_and_a_policy_is_proposed_for_them(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.npz")
    container = open_container(tmp_path / "pairs.npz")
    assert detect(container)[0].layout.name == "pairs"
    container.close()
    write_experiment(inspect_file(tmp_path / "pairs.npz"), tmp_path / "mine.yaml")
    first = load(tmp_path / "mine.yaml").first
    assert (first.model.family, first.model.window, first.data.starts) == ("pi0", HORIZON, [0])


def write_tokens(folder: Path) -> tuple[Path, np.ndarray, np.ndarray, ActionTokenizer]:
    """Write pairs of tokens, and their tokenizer into the same folder."""
    state, chunk = write_pairs(folder / "training_pairs_original.npz")
    smooth = np.cumsum(chunk, 1) / 5
    tokenizer = ActionTokenizer.fit(smooth, "tiny", vocabulary=600)
    write_original(tokenizer, folder / "fast_tokenizer.json")
    file = folder / "training_pairs_fast.npz"
    np.savez(file, state=state, token_seq=tokenizer.encode(smooth))
    return file, state, smooth, tokenizer


def test_pairs_of_tokens_are_decoded_by_the_tokenizer_beside_them(tmp_path: Path) -> None:
    file, state, smooth, tokenizer = write_tokens(tmp_path)
    manifest = convert([file], tmp_path / "out", config())
    data = read_trajectories(tmp_path / "out")
    points = Windows(data, data.episodes, HORIZON).gather(np.arange(PAIRS)).numpy()
    np.testing.assert_array_equal(points[:, 0, :4], state)
    np.testing.assert_array_equal(points[:, :-1, 4:], tokenizer.decode(tokenizer.encode(smooth))[0])
    assert np.abs(points[:, :-1, 4:] - smooth).max() < 0.5
    assert any("rounded" in notice for notice in manifest.notices)


def test_tokens_that_spell_no_chunk_are_counted_or_refused(tmp_path: Path) -> None:
    file, state, smooth, tokenizer = write_tokens(tmp_path)
    tokens = tokenizer.encode(smooth)
    tokens[7, 1] = tokenizer.unk
    np.savez(file, state=state, token_seq=tokens)
    notices = convert([file], tmp_path / "out", config()).notices
    assert any("1 of 40 sequences" in notice and "pair-7" in notice for notice in notices)
    tokens[9:11, 1:] = tokenizer.eos
    np.savez(file, state=state, token_seq=tokens)
    with pytest.raises(
        DataError, match=r"training_pairs_fast\.npz: 3 of 40 sequences .* the first pair-7: is it of other"
    ):
        convert([file], tmp_path / "refused", config())
    assert not has_manifest(tmp_path / "refused")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (np.full((3, 25), 2.0, np.float32), "token_seq: tokens are float32"),
        (np.full((3, 5, 5), 2, np.int32), r"token_seq \(3, 5, 5\)"),
        (np.full((2, 25), 2, np.int32), "unequal numbers of rows"),
    ],
)
def test_tokens_of_another_shape_are_refused(tmp_path: Path, tokens: np.ndarray, words: str) -> None:
    file = write_tokens(tmp_path)[0]
    np.savez(file, state=np.zeros((3, 4), np.float32), token_seq=tokens)
    with pytest.raises(DataError, match=words):
        convert([file], tmp_path / "out", config())


def test_tokens_without_their_tokenizer_are_refused_with_the_file_that_is_wanted(tmp_path: Path) -> None:
    file = write_tokens(tmp_path)[0]
    (tmp_path / "fast_tokenizer.json").unlink()
    with pytest.raises(
        DataError, match=r"training_pairs_fast\.npz: token_seq .*put its .*fast_tokenizer\.json next to it"
    ):
        convert([file], tmp_path / "out", config())
    assert not has_manifest(tmp_path / "out")


@pytest.mark.parametrize(
    ("state", "chunk", "words"),
    [
        ((3, 4), (2, 50), "unequal numbers of rows: state has 3, action_chunk has 2"),
        ((0, 4), (0, 50), "holds 0 pairs"),
        ((3,), (3, 50), r"state has shape \(3,\)"),
        ((3, 4), (3,), r"action_chunk \(3,\)"),
        ((3, 4), (3, 0), r"action_chunk \(3, 0\)"),
        ((3, 4), (3, 2, 2, 2), r"action_chunk \(3, 2, 2, 2\)"),
    ],
)
def test_pairs_of_other_shapes_are_refused(
    tmp_path: Path, state: tuple[int, ...], chunk: tuple[int, ...], words: str
) -> None:
    np.savez(tmp_path / "pairs.npz", state=np.zeros(state), action_chunk=np.zeros(chunk))
    with pytest.raises(DataError, match=words):
        convert([tmp_path / "pairs.npz"], tmp_path / "out", config())


def test_a_bad_number_in_a_pair_is_named(tmp_path: Path) -> None:
    state, chunk = write_pairs(tmp_path / "pairs.npz")
    chunk[7, 3] = np.nan
    np.savez(tmp_path / "pairs.npz", state=state, action_chunk=chunk)
    with pytest.raises(DataError, match=r"episode 7 \(pair-7\): actions\[0\] at step 3"):
        convert([tmp_path / "pairs.npz"], tmp_path / "out", config())
