"""The base of every section of an experiment file: frozen, without unknown keys or silent conversions of types."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

MOST_STEPS = 1_000_000_000  # upper bound of everything that is counted in optimizer steps
MOST_SEEDS = 10_000  # of one configuration
MOST_EPISODES = MOST_POINTS = 10_000_000  # of a data set, and of one of its episodes
LARGEST_INTEGER = 2**63 - 1  # columns of whole numbers in the tables of a run hold no larger ones


class Section(BaseModel):
    """A section of an experiment file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a part whose default is not that of its own class: written in a file, it would lose the difference."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            if isinstance(default, Section) and (keys := _differing(default)):
                raise ValueError(
                    f"{cls.__name__}.{name}: its default differs from {type(default).__name__}'s own in "
                    f"{', '.join(keys)}; give those defaults in a subclass of {type(default).__name__}"
                )


def _differing(section: Section) -> list[str]:
    """Return the keys in which a section differs from one that is written empty."""
    fields = type(section).model_fields
    return [
        name for name in fields if getattr(section, name) != fields[name].default and not fields[name].is_required()
    ]


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
