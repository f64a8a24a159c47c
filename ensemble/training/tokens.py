"""Action chunks as tokens, for families over tokens: a tokenizer fitted once on the training split, and its table."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ensemble.config import Experiment
from ensemble.data.windows import Windows
from ensemble.errors import DataError, StorageError
from ensemble.models.base import Normalization
from ensemble.run_directory import MemberDirectory
from ensemble.schema import Feature, Float32, Int64, role_columns
from ensemble.tokenizers.tokenizer import ActionTokenizer

_SLAB = 1 << 14  # windows gathered at a time

_fitted: dict[Hashable, "ChunkTokens"] = {}  # of this process: all seeds and most trials of a study share one


class ChunkTokens:
    """A tokenizer over the chunks of windows, in the units of the model: raw, or normalized."""

    def __init__(self, tokenizer: ActionTokenizer, mean: Float32, scale: Float32) -> None:
        self.tokenizer = tokenizer
        self._mean = mean
        self._scale = scale

    def table(self, windows: Windows) -> Tensor:
        """Return the tokens (windows, L) of all windows; DataError where many are too long for them."""
        return self._encoded(windows, np.arange(windows.count))

    def fixed_table(self, windows: Windows, n: int) -> Tensor:
        """Return the tokens (n, L) of the windows that `fixed_windows` returns."""
        return self._encoded(windows, windows.fixed(n))

    def _encoded(self, windows: Windows, index: Int64) -> Tensor:
        with _refusals():
            parts = [
                self.tokenizer.encode((chunks_of(windows, part) - self._mean) / self._scale) for part in _slabs(index)
            ]
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))

    def decode(self, tokens: Int64) -> Float32:
        """Return the chunks (.., H, A) of tokens (.., L); what spells no whole chunk is completed with zeros."""
        return self.tokenizer.decode(tokens)[0]


def chunks_of(windows: Windows, index: Int64) -> Float32:
    """Return the action chunks (n, H, A) of windows."""
    points = windows.gather(index).numpy()
    chunks: Float32 = points[:, :-1][..., role_columns(windows.data.features, "control")]
    return chunks


@contextmanager
def _refusals() -> Iterator[None]:
    """Say what a tokenizer refuses as a fault of the configuration for these data."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"model.tokenizer: {error}") from error


def _slabs(index: Int64) -> list[Int64]:
    return np.array_split(index, range(_SLAB, len(index), _SLAB))


def fit_tokens(experiment: Experiment, train: Windows, normalization: Normalization) -> ChunkTokens:
    """Fit the tokenizer of an experiment to its training windows, once a process.

    Raises DataError where the chunks cannot be spelled as the configuration wants.
    """
    model, data = experiment.model, experiment.data
    wanted = model.chunk_tokenizer
    assert wanted is not None
    known = (train.data.fingerprint, train.length, train.count, str(data.split), str(data.starts), str(wanted))
    key = (known, model.normalizes_actions)
    if key not in _fitted:
        mean, scale = action_units(train.data.features, normalization, model.normalizes_actions)
        chunks = np.concatenate([chunks_of(train, part) for part in _slabs(np.arange(train.count))])
        with _refusals():
            tokenizer = ActionTokenizer.fit(
                (chunks - mean) / scale, wanted.kind,
                scale=wanted.scale, vocabulary=wanted.vocabulary, max_length=wanted.max_length,
            )  # fmt: skip
        _fitted[key] = ChunkTokens(tokenizer, mean, scale)
    return _fitted[key]


def action_units(features: Sequence[Feature], normalization: Normalization, normalize: bool) -> tuple[Float32, Float32]:
    """Return the mean (A,) and the scale (A,) by which actions are normalized; 0 and 1 where they are not."""
    columns = role_columns(features, "control")
    mean, scale = normalization.mean[columns], np.sqrt(normalization.variance[columns] + np.float32(1e-5))
    return (mean, scale) if normalize else (np.zeros_like(mean), np.ones_like(scale))


def read_tokens(directory: Path) -> Callable[[Int64], Float32]:
    """Return how a trained member's tokens become chunks; StorageError where its tokenizer is missing."""
    path = MemberDirectory(directory).tokenizer_file
    if not path.is_file():
        raise StorageError(f"{path}: no such tokenizer")
    tokenizer = ActionTokenizer.load(path)
    return lambda tokens: tokenizer.decode(tokens)[0]
