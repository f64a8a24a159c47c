"""The JSON file of the tiny FAST's authors: {"vocab": {token: id}, "merges": [[[a, b], "a,b"], ..]}, read and written.

A token is its integers joined by commas. Scale, chunk and length are not in the file: they are arguments of the reader.
"""

import json
from pathlib import Path
from typing import Any

from ensemble.errors import StorageError
from ensemble.store import read_json, write_text
from ensemble.tokenizers.coefficients import Quantizer
from ensemble.tokenizers.merging import Merge, Token
from ensemble.tokenizers.sequences import FIRST, SPECIALS
from ensemble.tokenizers.tiny import TinyCodec
from ensemble.tokenizers.tokenizer import ActionTokenizer


def read_original(
    path: Path, *, scale: float = 10.0, horizon: int = 50, width: int = 1, max_length: int = 25
) -> ActionTokenizer:
    """Read the authors' `fast_tokenizer.json`; the defaults are their settings.

    Ids are kept, even where the file skips some. Raises StorageError where it is missing or damaged.
    """
    content = read_json(path)
    try:
        codec = _codec(content["vocab"], content["merges"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(f"{path}: is not a tokenizer of FAST_Flow_Matching: {error}") from error
    return ActionTokenizer(Quantizer(scale, horizon, width), codec, max_length)


def write_original(tokenizer: ActionTokenizer, path: Path) -> None:
    """Write a tokenizer of the kind "tiny" in the authors' format; ValueError for another kind."""
    codec = tokenizer.codec
    if not isinstance(codec, TinyCodec):
        raise ValueError(f"the authors' file is of the kind 'tiny', and this tokenizer is '{codec.kind}'")
    names = [_name(token) for token in codec.tokens]
    ids = {name: number for number, name in enumerate([*SPECIALS, *names]) if name}
    merges = [[[names[left], names[right]], f"{names[left]},{names[right]}"] for left, right in codec.merges]
    write_text(path, json.dumps({"vocab": ids, "merges": merges}, indent=2, ensure_ascii=False))


def _codec(ids: dict[str, int], listed: list[Any]) -> TinyCodec:
    if [ids[name] for name in SPECIALS] != list(range(FIRST)):
        raise ValueError(f"{', '.join(SPECIALS)} are not the ids 0 to {FIRST - 1}")
    named = {number: name for name, number in ids.items()}
    if len(named) < len(ids) or any(type(number) is not int or number < 0 for number in named):
        raise ValueError("two tokens have one id, or an id is no number from 0 on")
    # A single huge id in a damaged file would allocate a list of that length.
    if max(named) >= 2 * len(named):
        raise ValueError(f"an id of {max(named)} among {len(named)} tokens")
    # Skipped ids stay as empty tokens, since trained weights have a row of their embedding for them.
    tokens = [_token(named[n]) if n in named else () for n in range(FIRST, max(named) + 1)]
    merges = [_merge(ids, pair, merged) for pair, merged in listed]
    return TinyCodec(tokens, merges)


def _merge(ids: dict[str, int], pair: list[str], merged: str) -> Merge:
    left, right = pair
    if f"{left},{right}" != merged or ids[merged] < FIRST:
        raise ValueError(f"{left} and {right} do not merge to {merged}")
    return ids[left] - FIRST, ids[right] - FIRST


def _token(name: str) -> Token:
    return tuple(int(integer) for integer in name.split(","))


def _name(token: Token) -> str:
    return ",".join(map(str, token))
