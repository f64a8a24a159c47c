"""Weights of tiny pi0 and tiny pi0-FAST in their authors' format: `torch.save(model.state_dict(), "..pth")`.

The only module that unpickles foreign weights, with torch's restricted reader: tensors and plain containers, no code.
Settings that are not in a file (heads, the length of a FAST chunk, the tokenizer's scale) are options of the import.
Deliberately not here: run directories (`import_run.py`) and names of parameters (`models/state_dicts.py`).
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]

from ensemble.errors import DataError
from ensemble.store import write_bytes

Family = Literal["pi0", "pi0_fast"]

_POINTER = b"version https://git-lfs"
_LAYER = re.compile(r"transformer\.layers\.(\d+)\.")
_INNER = "transformer.layers.0.linear1.weight"
# Matrices whose shapes determine the sizes of a model.
_SHAPE_SOURCES = {
    "pi0": ("state_embedding.weight", "action_embedding.weight", "position_embedding.weight", _INNER),
    "pi0_fast": ("state_embedding.weight", "token_embedding.weight", "position_embedding.weight", _INNER),
}
_EXPECTED = "only plain state dicts are read, torch.save(model.state_dict(), ..)"
_BROKEN = "no file of torch.save, or damaged"
# A damaged pickle can make its reader fail anywhere, with any of these.
_DAMAGE = (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict, float32 on the CPU.

    Raises DataError, with the path, where the file is missing or damaged, contains anything but named tensors, or
    tensors that are not float32 or not finite.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'a directory' if path.is_dir() else 'no such file'}")
    # A clone of the authors' repository without git-lfs has pointers in place of weights.
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise DataError(f"{path}: a pointer of git-lfs, not the weights; fetch them with `git lfs pull`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise DataError(f"{path}: {_refused(str(error))}; {_EXPECTED}") from error
    except _DAMAGE as error:
        raise DataError(f"{path}: {_BROKEN} ({type(error).__name__}); {_EXPECTED}") from error
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path}: holds {_kind(content)}; {_EXPECTED}")
    problems = [problem for name, value in content.items() if (problem := _problem(name, value))]
    if problems:
        raise DataError("\n".join(f"{path}: {problem}" for problem in problems[:4]))
    return {name: value.detach() for name, value in content.items()}


def _refused(message: str) -> str:
    found = re.search(r"GLOBAL (\S+)", message)
    return f"holds the object {found[1]}, which is not loaded" if found else _BROKEN


def _kind(content: object) -> str:
    return "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"


def _problem(name: object, value: object) -> str | None:
    """Return why an entry is no weight of a model, or None."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return f"{name} is a {type(value).__name__}, not a tensor by name; {_EXPECTED}"
    if value.dtype != torch.float32 or value.layout != torch.strided:
        kind = str(value.dtype if value.layout == torch.strided else value.layout).removeprefix("torch.")
        return f"{name} is {kind}, not float32"
    return None if bool(value.isfinite().all()) else f"{name} is not finite"


def write_state_dict(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a plain state dict for `torch.load(path, weights_only=True)`."""
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, buffer)
    write_bytes(path, buffer.getvalue())


def widths(family: Family, tensors: Mapping[str, Tensor]) -> tuple[int, int | None]:
    """Return the widths of states and actions; None where no weight has the width."""
    states = tensors["state_embedding.weight"].shape[1]
    return states, tensors["action_embedding.weight"].shape[1] if family == "pi0" else None


def model_of(family: Family, tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Return the keys of `model:` that the shapes of a state dict determine, dotted.

    Raises DataError, with the path, where these parameters are missing or no matrices.
    """
    _check_shape_sources(family, tensors, path)
    positions, width = tensors["position_embedding.weight"].shape
    model: dict[str, Any] = {
        "n_layer": len({found[1] for name in tensors if (found := _LAYER.match(name))}),
        "n_embd": width,
        "n_inner": tensors[_INNER].shape[0],
    }
    # pi0 has one position per action and one for the state.
    if family == "pi0":
        return {**model, "chunk": positions - 1}
    vocabulary = tensors["token_embedding.weight"].shape[0]
    return {**model, "tokenizer.vocabulary": vocabulary, "tokenizer.max_length": positions}


def _check_shape_sources(family: Family, tensors: Mapping[str, Tensor], path: Path) -> None:
    wrong = [name for name in _SHAPE_SOURCES[family] if name not in tensors or 0 in tensors[name].shape]
    wrong += [name for name in _SHAPE_SOURCES[family] if name not in wrong and tensors[name].ndim != 2]
    if not wrong:
        return
    other: Family = "pi0_fast" if family == "pi0" else "pi0"
    hint = f"; it looks like --family {other}" if all(name in tensors for name in _SHAPE_SOURCES[other]) else ""
    raise DataError(f"{path}: no matrix {', '.join(wrong)}, so it is no {family}{hint}")
