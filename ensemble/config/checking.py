"""From a tree of nodes to an `Experiment`, or to problems in terms of the file, each with its position."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from ensemble.config.document import Keys, Position, Problem, TreeNode, dotted
from ensemble.config.experiment import Experiment
from ensemble.config.fields import FieldLocation, Kind, describe, describe_value, locate
from ensemble.config.forks import SEARCHED, variants
from ensemble.config.hints import unknown_key_hint
from ensemble.text import did_you_mean


def build(tree: TreeNode) -> Experiment:
    """Validate one configuration; raises pydantic's ValidationError."""
    # As JSON: strict validation of Python values would refuse a list where a tuple is declared.
    return Experiment.model_validate_json(json.dumps(tree.plain()))


def check(root: TreeNode, searched: bool) -> list[Problem]:
    """Return the problems of every value that the file can take; with `searched`, not those of combinations."""
    # Every candidate once, not every combination: of these a search may have any number of impossible ones.
    problems: list[Problem] = []
    for tree in variants(root):
        try:
            build(tree)
        except ValidationError as error:
            problems += translate(error, tree, combinations=not searched)
    return list(dict.fromkeys(problems))


def reason(error: ValidationError, tree: TreeNode) -> str:
    """Return why a combination of valid values is impossible."""
    return "; ".join(f"{dotted(p.path)}: {p.message}" if p.path else p.message for p in translate(error, tree))


def translate(error: ValidationError, tree: TreeNode, combinations: bool = True) -> list[Problem]:
    """Return pydantic's errors as problems, one per location and one per union."""
    groups: dict[Keys, list[tuple[FieldLocation, Any]]] = {}
    for each in error.errors(include_url=False):
        if each["type"] == "value_error" and not combinations and each["loc"][:1] in ((), *((s,) for s in SEARCHED)):
            continue
        # Pydantic reports every member of a union: they are grouped by the union's path.
        location = locate(Experiment, each["loc"])
        groups.setdefault(location.union[0] if location.union else location.path, []).append((location, each))
    return [problem for path, group in groups.items() for problem in _union_problems(path, group, tree)]


def _union_problems(path: Keys, group: list[tuple[FieldLocation, Any]], tree: TreeNode) -> Iterator[Problem]:
    union = group[0][0].union
    if union is None:
        yield from (_problem(location, each, tree) for location, each in group)
        return
    # Errors inside a member say more than that the value is none of the members.
    specific = [(p, e) for p, e in group if len(p.path) > len(path) or e["type"] == "value_error"]
    if specific:
        yield from (_problem(location, each, tree) for location, each in specific)
    else:
        yield _wanted(FieldLocation(path, union[1], None), tree)


def _problem(location: FieldLocation, error: Any, tree: TreeNode) -> Problem:
    path, kind = location.path, error["type"]
    if kind == "extra_forbidden":
        return _unknown(location, tree)
    if kind == "missing":
        name = str(path[-1])
        # Without an owner it is an entry of a tuple that is too short.
        if location.owner is None:
            return Problem(_find(tree, path[:-1])[1], path[:-1], "needs one more entry")
        meaning = location.owner.model_fields[name].description or ""
        return Problem(_find(tree, path[:-1])[1], path, f"missing key {name!r} ({meaning})")
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        return Problem(_overridden(tree, path, message) or position_of(tree, path), path, message)
    if kind == "no_family":
        return Problem(position_of(tree, (*path, "family")), (*path, "family"), str(error["ctx"]["reason"]))
    if kind in ("union_tag_invalid", "union_tag_not_found") and location.kind.tag:
        return _unknown_tag(location, tree)
    if error["loc"][-1:] == ("[key]",):
        wanted = f"the name {path[-1]!r} is not allowed; it must be {describe(location.kind)}"
        return Problem(_key_position(tree, path), path, wanted)
    return _wanted(location, tree)


def _wanted(location: FieldLocation, tree: TreeNode) -> Problem:
    value, position = _find(tree, location.path)
    kinds = [kind for kind in location.kind.members if get_origin(kind.bare) is Literal]
    names = [str(name) for kind in kinds for name in get_args(kind.bare)]
    hint = did_you_mean(value, names) if isinstance(value, str) else ""
    if isinstance(value, str) and location.kind.tag and value in location.kind.tagged():
        hint = f"; did you mean {{{location.kind.tag}: {value}}}?"
    # A mapping of one key is usually meant as a distribution.
    if isinstance(value, Mapping) and len(value) == 1:
        hint = did_you_mean(next(iter(value)), ["choice", "uniform", "log_uniform", "int", "int_log"])
    return Problem(
        position, location.path, f"needs {_describe_wanted(location.kind)}, found {describe_value(value)}{hint}"
    )


def _describe_wanted(kind: Kind) -> str:
    if kind.tag is not None:
        return f"a section with the key {kind.tag!r}"
    return describe(kind)


def _unknown(location: FieldLocation, tree: TreeNode) -> Problem:
    name = str(location.path[-1])
    assert location.owner is not None
    hint = unknown_key_hint(name, location.owner, tree.plain())
    return Problem(_key_position(tree, location.path), location.path, f"unknown key {name!r}{hint}")


def _unknown_tag(location: FieldLocation, tree: TreeNode) -> Problem:
    tag = location.kind.tag
    assert tag is not None
    names = list(location.kind.tagged())
    value, position = _find(tree, (*location.path, tag))
    section, _ = _find(tree, location.path)
    if not isinstance(section, Mapping) or tag not in section:
        return Problem(position, location.path, f"missing key {tag!r}, one of {', '.join(names)}")
    hint = did_you_mean(value, names) if isinstance(value, str) else ""
    return Problem(
        position, (*location.path, tag), f"needs one of {', '.join(names)}, found {describe_value(value)}{hint}"
    )


def position_of(tree: TreeNode, path: Keys) -> Position:
    """Return the position of the value at a path, or of its nearest existing parent."""
    return _find(tree, path)[1]


def _overridden(tree: TreeNode, path: Keys, message: str) -> Position | None:
    """Return the command-line option that set one of the values in a message about their section, if any."""
    node = tree
    for part in path:
        node = dict(node.children()).get(part, TreeNode(None, node.position))
    mentioned = set(re.findall(r"[\w.]+", message))
    for names, value in _values(node):
        spellings = {dotted(names[start:]) for start in range(len(names))}
        # Line 0 is an option.
        if not value.position.line and spellings & mentioned:
            return value.position
    return None


def _values(node: TreeNode, path: Keys = ()) -> Iterator[tuple[Keys, TreeNode]]:
    for key, child in node.children():
        yield from _values(child, (*path, key))
    if not any(True for _ in node.children()):
        yield path, node


def _find(tree: TreeNode, path: Keys) -> tuple[Any, Position]:
    """Return the plain value at a path with its position; None with that of the nearest parent where it is missing."""
    node = tree
    for part in path:
        child = dict(node.children()).get(part)
        if child is None:
            return None, node.position
        node = child
    return node.plain(), node.position


def _key_position(tree: TreeNode, path: Keys) -> Position:
    node = tree
    for part in path[:-1]:
        node = dict(node.children())[part]
    return node.keys.get(str(path[-1]), node.position)
