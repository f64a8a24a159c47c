"""Pairs of an observation and the chunk of actions that follows it, as tiny pi0's `training_pairs_original.npz`.

`state (N, S)`, `action_chunk (N, H)` or `(N, H, A)`. A pair becomes an episode of H + 1 points: its controls are the
chunk, and since the states after the first are not in the file, each repeats the first. Features have the names and
labels of the simulated pendulum's, so that either data set may validate what the other trained. Pairs of tokens
(`training_pairs_fast.npz`) are refused: tokens are a rounded image of the same chunks, and a tokenizer is fitted anew.
"""

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.container import ArrayInfo, Container, Values, require
from ensemble.data.recording import Recording, raw_feature, same_rows
from ensemble.errors import DataError
from ensemble.schema import Int64

TITLE = "observation and action-chunk pairs"
NAME = "pairs"
_STATE, _CHUNK, _TOKENS = "state", "action_chunk", "token_seq"
_REPEATED = (
    "only the first state of a pair is in the file, the others repeat it: windows begin there (data.starts: [0]), "
    "and dynamics cannot be learnt from it"
)
_UNGROUPED = "which trajectory a pair is from is not in the file: a split by episode is one by pair"


def wanted(container: Container) -> dict[str, bool]:
    """Return what this layout needs and whether it is there; tokens stand for chunks, to be refused with a reason."""
    return {_STATE: container.has(_STATE), _CHUNK: container.has(_CHUNK) or container.has(_TOKENS)}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Understand a file of this layout; DataError where it contradicts itself or holds tokens."""
    if container.has(_TOKENS) and not container.has(_CHUNK):
        raise DataError(
            f"{container.path}: {_TOKENS} are tokens of a tokenizer that is not in the file; give the pairs that they "
            f"were made from, with {_STATE} and {_CHUNK} (training_pairs_original.npz), and pi0_fast fits one to them"
        )
    require(container, (_STATE, _CHUNK), NAME)
    state, chunk = container.array(_STATE), container.array(_CHUNK)
    pairs = same_rows(container, {info.key: info.shape[0] for info in (state, chunk)})
    _check_shapes(container, state, chunk)
    horizon, width = chunk.shape[1], chunk.width(2)

    def read(first: int, last: int) -> dict[str, Values]:
        part = slice(first, last)
        return {
            "observations": _repeated(container.read(_STATE, part), horizon + 1),
            "actions": _padded(container.read(_CHUNK, part).reshape(last - first, horizon, width)),
        }

    return Recording(
        layout=NAME,
        summary=f"{TITLE}: {pairs} pairs, chunks of {horizon} actions",
        features=(
            raw_feature("observations", state.width(), state.dtype, "state"),
            raw_feature("actions", width, chunk.dtype, "control"),
        ),
        keys=tuple(f"pair-{number}" for number in range(pairs)),
        points=_lengths(pairs, horizon),
        given=(None,) * pairs,
        dt=None,
        notices=(_REPEATED, _UNGROUPED),
        read=read,
    )


def _check_shapes(container: Container, state: ArrayInfo, chunk: ArrayInfo) -> None:
    if not state.shape[0]:
        raise DataError(f"{container.path}: holds 0 pairs")
    if len(state.shape) != 2 or len(chunk.shape) not in (2, 3) or 0 in (state.width(), *chunk.shape):
        raise DataError(
            f"{container.path}: {_STATE} has shape {state.shape} and {_CHUNK} {chunk.shape}, not (N, S) and (N, H) or "
            "(N, H, A)"
        )


def _lengths(pairs: int, horizon: int) -> Int64:
    return np.full(pairs, horizon + 1, np.int64)


def _repeated(state: Values, points: int) -> Values:
    """(n, S) -> (n * points, S): the same state at every point of an episode."""
    return np.repeat(state, points, axis=0)


def _padded(chunk: Values) -> Values:
    """(n, H, A) -> (n * (H + 1), A): a zero row after each chunk."""
    rows = np.zeros((len(chunk), chunk.shape[1] + 1, chunk.shape[2]), chunk.dtype)
    rows[:, :-1] = chunk
    return rows.reshape(-1, chunk.shape[2])
