"""Pairs of an observation and the chunk of actions that follows it, as tiny pi0's `training_pairs_original.npz`.

`state (N, S)`, `action_chunk (N, H)` or `(N, H, A)`. A pair becomes an episode of H + 1 points: its controls are the
chunk; the states after the first are not in the file and repeat it. Features have the names and labels of the simulated
pendulum's, so that either data set can validate models of the other.

`training_pairs_fast.npz` has `token_seq (N, L)` instead of chunks. They are decoded with `fast_tokenizer.json` from the
same folder and its authors' settings (50 actions, coefficients in steps of 0.1), so the actions are rounded.
"""

from collections.abc import Callable

import numpy as np

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import ArrayInfo, Container, Values, require
from ensemble.data.layouts.recording import Recording, raw_feature, same_rows
from ensemble.errors import DataError
from ensemble.schema import Float32, Int64
from ensemble.text import plural
from ensemble.tokenizers.coefficients import Bools
from ensemble.tokenizers.original import read_original
from ensemble.tokenizers.tokenizer import ActionTokenizer

TITLE = "observation and action-chunk pairs"
NAME = "pairs"
_STATE, _CHUNK, _TOKENS = "state", "action_chunk", "token_seq"
_REPEATED = (
    "only the first state of a pair is in the file, the others repeat it: windows begin there (data.starts: [0]), "
    "and dynamics cannot be learnt from it"
)
_ROUNDED = "actions were decoded from token_seq: rounded, as the tokenizer left them"
_TOKENIZER = "fast_tokenizer.json"
_BROKEN = 0.01  # allowed share of sequences that decode to no whole chunk; one is always allowed
_UNGROUPED = "which trajectory a pair is from is not in the file: a split by episode is one by pair"


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists; tokens replace chunks."""
    return {_STATE: container.has(_STATE), _CHUNK: container.has(_CHUNK) or container.has(_TOKENS)}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent or its tokens decode to no chunks."""
    if container.has(_TOKENS) and not container.has(_CHUNK):
        return _open_tokens(container)
    require(container, (_STATE, _CHUNK), NAME)
    state, chunk = container.array(_STATE), container.array(_CHUNK)
    pairs = same_rows(container, {info.key: info.shape[0] for info in (state, chunk)})
    _check_shapes(container, state, chunk)
    horizon, width = chunk.shape[1], chunk.width(2)

    def actions(part: slice) -> Values:
        return container.read(_CHUNK, part).reshape(-1, horizon, width)

    return _recording(container, state, (pairs, horizon, width), chunk.dtype, actions, ())


def _open_tokens(container: Container) -> Recording:
    """Open a file of tokens. All are decoded here, so that errors are reported before any conversion."""
    # Shapes
    require(container, (_STATE, _TOKENS), NAME)
    state, tokens = container.array(_STATE), container.array(_TOKENS)
    pairs = same_rows(container, {info.key: info.shape[0] for info in (state, tokens)})
    if not pairs or len(state.shape) != 2 or len(tokens.shape) != 2 or 0 in (state.width(), tokens.shape[1]):
        raise DataError(
            f"{container.path}: {_STATE} {state.shape} and {_TOKENS} {tokens.shape} are not (N, S) and (N, L)"
        )

    # Tokenizer and chunks
    file = container.path.with_name(_TOKENIZER)
    if not file.is_file():
        raise DataError(
            f"{container.path}: {_TOKENS} are tokens of a tokenizer that is not there: put its {file} next to it"
        )
    chunks, whole = _decode(container, read_original(file, max_length=tokens.shape[1]))
    broken = np.flatnonzero(~whole)
    # Cut sequences are rare; many broken ones mean another tokenizer.
    count = f"{len(broken)} of {pairs} sequences of {_TOKENS}"
    text = f"{count} decode to no complete chunk by {file.name}, the first pair-"
    if len(broken) > max(1, _BROKEN * pairs):
        raise DataError(f"{container.path}: {text}{broken[0]}: is it of other pairs?")
    notices = [_ROUNDED]
    if len(broken):
        notices.append(f"{text}{broken[0]}: the highest frequencies that are missing are 0")
    return _recording(container, state, chunks.shape, chunks.dtype, chunks.__getitem__, tuple(notices))


def _decode(container: Container, tokenizer: ActionTokenizer) -> tuple[Float32, Bools]:
    try:
        return tokenizer.decode(container.read(_TOKENS))
    except ValueError as error:
        raise DataError(f"{container.path}: {_TOKENS}: {error}") from error


def _recording(
    container: Container,
    state: ArrayInfo,
    shape: tuple[int, ...],
    dtype: object,
    actions: Callable[[slice], Values],
    notices: tuple[str, ...],
) -> Recording:
    pairs, horizon, width = shape

    def read(first: int, last: int) -> dict[str, Values]:
        part = slice(first, last)
        return {
            "observations": _repeated(container.read(_STATE, part), horizon + 1),
            "actions": _padded(actions(part)),
        }

    return Recording(
        layout=NAME,
        summary=f"{TITLE}: {plural(pairs, 'pair')}, chunks of {plural(horizon, 'action')}",
        features=(
            raw_feature("observations", state.width(), state.dtype, "state"),
            raw_feature("actions", width, dtype, "control"),
        ),
        keys=tuple(f"pair-{number}" for number in range(pairs)),
        points=_lengths(pairs, horizon),
        given=(None,) * pairs,
        dt=None,
        notices=(_REPEATED, _UNGROUPED, *notices),
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
    """Return (n, S) as (n * points, S): the same state at every point of an episode."""
    return np.repeat(state, points, axis=0)


def _padded(chunk: Values) -> Values:
    """Return (n, H, A) as (n * (H + 1), A): a zero row after each chunk."""
    rows = np.zeros((len(chunk), chunk.shape[1] + 1, chunk.shape[2]), chunk.dtype)
    rows[:, :-1] = chunk
    return rows.reshape(-1, chunk.shape[2])
