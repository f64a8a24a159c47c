"""From a tree of nodes to an `Experiment`, or to problems in the file's own words, each with its place."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from ensemble.config.document import Keys, Node, Position, Problem, dotted
from ensemble.config.experiment import Experiment
from ensemble.config.fields import Kind, Place, describe, found, keys_of, locate
from ensemble.config.forks import SEARCHED, variants
from ensemble.text import did_you_mean


def build(tree: Node) -> Experiment:
    """Validate one configuration; raises pydantic's ValidationError."""
    return Experiment.model_validate_json(json.dumps(tree.plain()))  # JSON: its lists may be tuples


def check(root: Node, searched: bool) -> list[Problem]:
    """Check every value that the file can take, alone; combinations that do not fit together pass when searched."""
    problems: list[Problem] = []
    for tree in variants(root):
        try:
            build(tree)
        except ValidationError as error:
            problems += translate(error, tree, combinations=not searched)
    return list(dict.fromkeys(problems))


def reason(error: ValidationError, tree: Node) -> str:
    """Say why a combination of acceptable values is impossible."""
    return "; ".join(f"{dotted(p.path)}: {p.message}" if p.path else p.message for p in translate(error, tree))


def translate(error: ValidationError, tree: Node, combinations: bool = True) -> list[Problem]:
    """Turn pydantic's errors into problems, one for each place; unions speak with one voice."""
    groups: dict[Keys, list[tuple[Place, Any]]] = {}
    for each in error.errors(include_url=False):
        if each["type"] == "value_error" and not combinations and each["loc"][:1] in ((), *((s,) for s in SEARCHED)):
            continue
        place = locate(Experiment, each["loc"])
        groups.setdefault(place.union[0] if place.union else place.path, []).append((place, each))
    return [problem for path, group in groups.items() for problem in _speak(path, group, tree)]


def _speak(path: Keys, group: list[tuple[Place, Any]], tree: Node) -> Iterator[Problem]:
    union = group[0][0].union
    if union is None:
        yield from (_problem(place, each, tree) for place, each in group)
        return
    telling = [(p, e) for p, e in group if len(p.path) > len(path) or e["type"] == "value_error"]
    if telling:
        yield from (_problem(place, each, tree) for place, each in telling)
    else:
        yield _wanted(Place(path, union[1], None), tree)


def _problem(place: Place, error: Any, tree: Node) -> Problem:
    path, kind = place.path, error["type"]
    if kind == "extra_forbidden":
        return _unknown(place, tree)
    if kind == "missing":
        name = str(path[-1])
        if place.owner is None:  # an entry of a tuple that is too short
            return Problem(_find(tree, path[:-1])[1], path[:-1], "needs one more entry")
        meaning = place.owner.model_fields[name].description or ""
        return Problem(_find(tree, path[:-1])[1], path, f"missing key {name!r} ({meaning})")
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        return Problem(_overridden(tree, path, message) or position_of(tree, path), path, message)
    if kind == "no_family":
        return Problem(position_of(tree, (*path, "family")), (*path, "family"), str(error["ctx"]["reason"]))
    if kind in ("union_tag_invalid", "union_tag_not_found") and place.kind.tag:
        return _unknown_tag(place, tree)
    if error["loc"][-1:] == ("[key]",):
        wanted = f"the name {path[-1]!r} does not do; it needs {describe(place.kind)}"
        return Problem(_key_position(tree, path), path, wanted)
    return _wanted(place, tree)


def _wanted(place: Place, tree: Node) -> Problem:
    value, position = _find(tree, place.path)
    kinds = [kind for kind in place.kind.members if get_origin(kind.bare) is Literal]
    names = [str(name) for kind in kinds for name in get_args(kind.bare)]
    hint = did_you_mean(value, names) if isinstance(value, str) else ""
    if isinstance(value, Mapping) and len(value) == 1:
        hint = did_you_mean(next(iter(value)), ["choice", "uniform", "log_uniform", "int", "int_log"])
    return Problem(position, place.path, f"needs {_in_words(place.kind)}, found {found(value)}{hint}")


def _in_words(kind: Kind) -> str:
    if kind.tag is not None:
        return f"a section with the key {kind.tag!r}"
    return describe(kind)


def _unknown(place: Place, tree: Node) -> Problem:
    name = str(place.path[-1])
    assert place.owner is not None
    hint = did_you_mean(name, list(place.owner.model_fields))
    if not hint:
        homes = [key.path for key in keys_of(Experiment) if key.path.rpartition(".")[2] == name]
        hint = f"; there is {homes[0]}" if homes else f"; known: {', '.join(place.owner.model_fields)}"
    return Problem(_key_position(tree, place.path), place.path, f"unknown key {name!r}{hint}")


def _unknown_tag(place: Place, tree: Node) -> Problem:
    tag = place.kind.tag
    assert tag is not None
    names = list(place.kind.tagged())
    value, position = _find(tree, (*place.path, tag))
    section, _ = _find(tree, place.path)
    if not isinstance(section, Mapping) or tag not in section:
        return Problem(position, place.path, f"missing key {tag!r}, one of {', '.join(names)}")
    hint = did_you_mean(value, names) if isinstance(value, str) else ""
    return Problem(position, (*place.path, tag), f"needs one of {', '.join(names)}, found {found(value)}{hint}")


def position_of(tree: Node, path: Keys) -> Position:
    """Return the position of the value at a path, or of the nearest one above where the file is silent."""
    return _find(tree, path)[1]


def _overridden(tree: Node, path: Keys, message: str) -> Position | None:
    """Return the command-line option that set one of the values below a section that a message speaks of."""
    node = tree
    for part in path:
        node = dict(node.children()).get(part, Node(None, node.position))
    words = set(re.findall(r"[\w.]+", message))
    for names, value in _values(node):
        spellings = {dotted(names[start:]) for start in range(len(names))}
        if not value.position.line and spellings & words:
            return value.position
    return None


def _values(node: Node, path: Keys = ()) -> Iterator[tuple[Keys, Node]]:
    for key, child in node.children():
        yield from _values(child, (*path, key))
    if not any(True for _ in node.children()):
        yield path, node


def _find(tree: Node, path: Keys) -> tuple[Any, Position]:
    """Return the plain value at a path, and its position (the nearest one above, where the file is silent)."""
    node = tree
    for part in path:
        child = dict(node.children()).get(part)
        if child is None:
            return None, node.position
        node = child
    return node.plain(), node.position


def _key_position(tree: Node, path: Keys) -> Position:
    node = tree
    for part in path[:-1]:
        node = dict(node.children())[part]
    return node.keys.get(str(path[-1]), node.position)
