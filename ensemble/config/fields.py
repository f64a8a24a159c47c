"""The tree of sections as types: descriptions of values, locations of errors, and all keys.

Everything is derived from pydantic's field definitions, so messages, the JSON schema and the text of `ensemble schema`
agree.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ensemble.config.base import Description, OtherMembers, Section
from ensemble.config.document import Keys


@dataclass(frozen=True, slots=True)
class Kind:
    """A type without its `Annotated` wrapping: the bare type and its annotations."""

    bare: Any
    notes: tuple[Any, ...] = ()

    @property
    def section(self) -> type[Section] | None:
        """The section class, or None."""
        return self.bare if isinstance(self.bare, type) and issubclass(self.bare, Section) else None

    @property
    def members(self) -> "tuple[Kind, ...]":
        """The members of a union, or the kind itself."""
        if get_origin(self.bare) in (Union, UnionType):
            return tuple(kind for part in get_args(self.bare) for kind in kind_of(part).members)
        return (self,)

    @property
    def tag(self) -> str | None:
        """The key that distinguishes the members of a union of sections, or None."""
        tags = [note.discriminator for note in self.notes if isinstance(note, FieldInfo) and note.discriminator]
        return str(tags[0]) if tags else None

    def tagged(self) -> dict[str, type[Section]]:
        """Return {tag: section} of a union with a tag."""
        assert self.tag is not None
        sections = [kind.section for kind in self.members if kind.section is not None]
        return {
            str(tag): section for section in sections for tag in get_args(section.model_fields[self.tag].annotation)
        }

    def tagged_member(self, tag: str) -> type[Section]:
        """Return the section of a tag, listed in the union or not; a bare Section where there is none."""
        others = [note.find(tag) for note in _notes(self) if isinstance(note, OtherMembers)]
        return next((found for found in (self.tagged().get(tag), *others) if found is not None), Section)

    def note(self, name: str) -> Any:
        """Return a constraint (`ge`, `min_length`, ..), or None."""
        for note in self.notes:
            for part in (note, *getattr(note, "metadata", ())):
                if getattr(part, name, None) is not None:
                    return getattr(part, name)
        return None


def kind_of(annotation: Any) -> Kind:
    """Unwrap `Annotated`."""
    if get_origin(annotation) is Annotated:
        bare, *notes = get_args(annotation)
        inner = kind_of(bare)
        return Kind(inner.bare, (*inner.notes, *notes))
    return Kind(annotation)


def field_kind(field: FieldInfo) -> Kind:
    """Return the type of a section's field with its constraints."""
    kind = kind_of(field.annotation)
    return Kind(kind.bare, (*kind.notes, field))


def describe(kind: Kind) -> str:
    """Return a description of the allowed values."""
    if text := next((note.text for note in _notes(kind) if isinstance(note, Description)), None):
        return str(text)
    if len(kind.members) > 1:
        parts = [describe(member if member.bare is NoneType else _with(member, kind)) for member in kind.members]
        return parts[0] + "".join(f", {part}" for part in parts[1:-1]) + f" or {parts[-1]}"
    if kind.section is not None:
        return f"a section with keys such as {', '.join(list(kind.section.model_fields)[:4])}"
    if get_origin(kind.bare) is Literal:
        values = [repr(value) for value in get_args(kind.bare)]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if get_origin(kind.bare) in (list, tuple):
        return _describe_list(kind)
    if get_origin(kind.bare) is dict:
        return f"a mapping of names to {describe(kind_of(get_args(kind.bare)[1]))}"
    return _PLAIN.get(kind.bare, "any value") + _bounds(kind)


_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


def _notes(kind: Kind) -> Iterator[Any]:
    for note in kind.notes:
        yield note
        yield from getattr(note, "metadata", ())


def _with(member: Kind, union: Kind) -> Kind:
    # Bounds of `int | None` belong to the union in pydantic's annotations.
    return Kind(member.bare, (*member.notes, *union.notes))


def _bounds(kind: Kind) -> str:
    if kind.note("ge") is not None and kind.note("le") is not None:
        return f" from {kind.note('ge')} to {kind.note('le')}"
    texts = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    bounds = [f"{text} {kind.note(name)}" for name, text in texts.items() if kind.note(name) is not None]
    return "".join(" " + part if i == 0 else f" and {part}" for i, part in enumerate(bounds))


def _describe_list(kind: Kind) -> str:
    items = get_args(kind.bare)
    inner = describe(kind_of(items[0]))
    plural = {"a whole number": "whole numbers", "a number": "numbers", "text": "texts"}.get(inner, f"({inner})")
    if get_origin(kind.bare) is tuple:
        return f"a list of {len(items)} {plural}"
    return (
        f"a list of {plural}"
        if not kind.note("min_length")
        else f"a list of at least {kind.note('min_length')} {plural}"
    )


def describe_value(value: Any) -> str:
    """Return a description of a value, for `needs .., found ..`."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 60 else value[:57] + '...'!r}"
    if isinstance(value, int | float):
        return f"the number {value!r}"
    if isinstance(value, Mapping):
        return "a mapping with " + ("the keys " + ", ".join(list(value)[:5]) if value else "no keys")
    return f"a list of {len(value)}" if value else "an empty list"


@dataclass(frozen=True, slots=True)
class FieldLocation:
    """The location of a validation error: path in the file, type, and the enclosing union without a tag, if any."""

    path: Keys
    kind: Kind
    owner: type[Section] | None  # the section with this key
    union: tuple[Keys, Kind] | None = None


def locate(root: type[Section], loc: Sequence[str | int]) -> FieldLocation:
    """Return the location in the file for pydantic's, which also names members of unions."""
    if loc[-1:] == ("[key]",):
        mapping = locate(root, loc[:-2])
        return FieldLocation((*mapping.path, loc[-2]), kind_of(get_args(mapping.kind.bare)[0]), None, mapping.union)
    location = FieldLocation((), Kind(root), None)
    for part in loc:
        location = _step(location, part)
    return location


def _step(location: FieldLocation, part: str | int) -> FieldLocation:
    path, kind, union = location.path, location.kind, location.union
    if kind.tag is not None:
        return FieldLocation(path, Kind(kind.tagged_member(str(part))), location.owner, union)
    # Pydantic writes no member for `X | None`, but one for every other union.
    members = [member for member in kind.members if member.bare is not NoneType]
    if len(members) > 1:
        member = next((m for m in members if _is_labelled(m, str(part))), Kind(str))
        return FieldLocation(path, member, location.owner, union or (path, kind))
    kind = members[0]
    if kind.section is not None:
        field = kind.section.model_fields.get(str(part))
        return FieldLocation((*path, part), field_kind(field) if field else Kind(Any), kind.section, union)
    items = get_args(kind.bare)
    if not items:
        return FieldLocation((*path, part), Kind(Any), None, union)
    item = items[1] if get_origin(kind.bare) is dict else items[min(int(part), len(items) - 1)]
    return FieldLocation((*path, part), kind_of(item), None, union)


def _is_labelled(kind: Kind, label: str) -> bool:
    """Return whether pydantic's label is this member's: `function-after[check(), FeatureMap]` or `list[int]`."""
    if kind.section is not None:
        return kind.section.__name__ in re.findall(r"\w+", label)
    return label.startswith(f"{getattr(get_origin(kind.bare), '__name__', '?')}[")


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section, for documentation."""

    path: str  # dotted; members of a union in brackets: train.optimizer[adam].lr
    kind: Kind
    default: Any  # PydanticUndefined where there is none
    meaning: str
    section: type[Section]


def keys_of(section: type[Section], prefix: str = "") -> Iterator[Key]:
    """Yield every key below a section, sections before their own keys."""
    for name, field in section.model_fields.items():
        path, kind = f"{prefix}{name}", field_kind(field)
        default = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
        yield Key(path, kind, default, field.description or "", section)
        if kind.tag is not None:
            for tag, member in kind.tagged().items():
                yield from keys_of(member, f"{path}[{tag}].")
        elif kind.section is not None:
            yield from keys_of(kind.section, f"{path}.")
        elif get_origin(kind.bare) is dict:
            for member_kind in kind_of(get_args(kind.bare)[1]).members:
                if member_kind.section is not None:
                    yield from keys_of(member_kind.section, f"{path}.<name>.")


def has_default(key: Key) -> bool:
    """Return whether a key may be left out."""
    return key.default is not PydanticUndefined
