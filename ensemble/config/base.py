"""The base of every section of an experiment file: frozen, without unknown keys or silent conversions of types."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints


class Section(BaseModel):
    """A section of an experiment file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


def unset(value: object) -> bool:
    """Return whether a field is at an empty default; such a later field is left out of dumps, which hashes are made of.

    With `Field(.., exclude_if=unset)` files from before the field keep their hashes.
    """
    return not value


@dataclass(frozen=True)
class Description:
    """Text for the values of a type, in messages and the schema; an argument of `Annotated`."""

    text: str


@dataclass(frozen=True)
class OtherMembers:
    """How a union of sections finds members that it does not list, by their tag; an annotation of the union."""

    find: Callable[[str], type[Section] | None]


Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100),
    Description("a name of letters, digits and . _ - that starts with a letter or digit"),
]
"""A name that becomes part of a path: no separators, no `..`, not absolute."""
