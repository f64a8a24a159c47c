"""YAML files as plain values with the position of every key and value: file, line and column.

PyYAML parses the text; scalars follow the core schema of YAML 1.2 (`1e-4` is a number, `no` is text, `010` is ten).
Deliberately no loader of Python objects: tags beyond the core ones, duplicate keys and merge keys are refused.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ensemble.config.base import LARGEST_INTEGER
from ensemble.errors import UsageError

MAX_BYTES = 4_000_000
MAX_NODES = 100_000
MAX_DEPTH = 60
_LABEL = re.compile(r"[A-Z]\w*: ")  # of a paragraph of the leading comment

Scalar = str | int | float | bool | None
Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a file (line and column from 1), or a command-line option (line 0)."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class TreeNode:
    """One value of a file: a scalar, a tuple of nodes, or a mapping of nodes with the positions of its keys."""

    value: "Scalar | tuple[TreeNode, ...] | Mapping[str, TreeNode]"
    position: Position
    keys: Mapping[str, Position] = field(default_factory=dict)

    def plain(self) -> Any:
        """Return the value without positions: dict, list and scalars."""
        if isinstance(self.value, Mapping):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain() for child in self.value]
        return self.value

    def children(self) -> "Iterator[tuple[str | int, TreeNode]]":
        """Yield (key or index, child)."""
        if isinstance(self.value, Mapping):
            yield from self.value.items()
        elif isinstance(self.value, tuple):
            yield from enumerate(self.value)


@dataclass(frozen=True, slots=True)
class Problem:
    """One error of a file, with its position and path."""

    position: Position
    path: Keys
    message: str

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.position, dotted(self.path), self.message) if str(part))


def dotted(path: Keys) -> str:
    """Join keys and indices with dots."""
    return ".".join(str(part) for part in path)


def refuse(problems: list[Problem], most: int = 10) -> UsageError:
    """Return the error that lists at most `most` problems, one per line, in the order of the file."""
    placed = sorted(problems, key=lambda p: (p.position.line == 0, p.position.line, p.position.column))
    lines = list(dict.fromkeys(str(problem) for problem in placed))
    rest = [f"... and {len(lines) - most} more"] if len(lines) > most else []
    return UsageError("\n".join(lines[:most] + rest))


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without byte order mark; UsageError where it is unreadable, too large or not UTF-8."""
    try:
        # Bounded: the path of a data file instead of an experiment file must not fill memory.
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB, which is no experiment file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise UsageError(f"{path}:{line}:{column}: not UTF-8 text (byte 0x{error.object[error.start]:02x})") from error


def leading_comment(text: str) -> str:
    """Return the comment lines on top of an experiment file, which hold its question."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return "".join(f"{line}\n" for line in lines)


def comment_paragraphs(comment: str) -> str:
    """Join the lines of a comment into paragraphs, one a line, without the line that is for editors."""
    paragraphs = [""]
    for line in comment.splitlines():
        if "yaml-language-server" in line:
            continue
        text = line.lstrip("#").removeprefix(" ")
        if _continues(paragraphs[-1], text):
            paragraphs[-1] += " " + " ".join(text.split())
        else:
            paragraphs.append(" ".join(text.split()))
    return "\n".join(paragraphs).strip()


def _continues(above: str, line: str) -> bool:
    """Tell whether a line of a comment continues the paragraph above it.

    It does where it is indented, where that has a label (`Question: ..`) and it has none, or where no sentence ends.
    """
    if not above or not line.strip() or _LABEL.match(line):
        return False
    return line[0].isspace() or bool(_LABEL.match(above)) or not above.endswith((".", "?", "!"))


def parse(text: str, source: str, path: Keys = (), option: bool = False) -> tuple[TreeNode, list[Problem]]:
    """Parse one YAML document; errors of syntax raise UsageError, all others are returned as problems.

    `option`: `source` is a command-line option, whose lines and columns mean nothing.
    """
    # Syntax. The depth first: composing is recursive.
    try:
        _check_depth(text, source)
        root = yaml.compose(text, _CoreLoader)
    except yaml.MarkedYAMLError as error:
        raise UsageError(_syntax(error, text, source, option)) from error
    except UnicodeEncodeError as error:  # an argument of other bytes, which Python passes on as lone surrogates
        raise UsageError(f"{source}: not UTF-8 text") from error
    except yaml.reader.ReaderError as error:
        position = "" if option else ":" + _line_column(text, error.position)
        raise UsageError(f"{source}{position}: a character that YAML does not allow") from error

    # Values
    if root is None:
        return TreeNode(None, Position(source, 0 if option else 1, 1)), []
    reader = _Reader(source, option)
    reader.measure(root)
    return reader.node(root, path), reader.problems


def _line_column(text: str, at: int) -> str:
    before = text[:at]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _syntax(error: yaml.MarkedYAMLError, text: str, source: str, option: bool) -> str:
    mark = error.problem_mark or error.context_mark
    text_of_error = ", ".join(part for part in (error.context, error.problem) if part)
    if mark is None or option:
        return f"{source}: {text_of_error}"
    lines = text.split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    # PyYAML's own message for a tab is about a token that cannot start, not about the tab.
    tab = line.find("\t", 0, len(line) - len(line.lstrip()))
    if tab >= 0:
        return f"{source}:{mark.line + 1}:{tab + 1}: a tab; YAML is indented with spaces"
    return f"{source}:{mark.line + 1}:{mark.column + 1}: {text_of_error}"


def _check_depth(text: str, source: str) -> None:
    depth = 0
    for event in yaml.parse(text, _CoreLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 0
            raise UsageError(f"{source}:{line}: nested deeper than {MAX_DEPTH} levels")


class _Reader:
    """Converts PyYAML's nodes and collects their problems."""

    def __init__(self, source: str, option: bool) -> None:
        self.source, self.option = source, option
        self.problems: list[Problem] = []
        self._size: dict[int, tuple[int, int] | None] = {}  # id: nodes after expansion and depth; None while open
        self._done: dict[int, TreeNode] = {}

    def position(self, node: yaml.Node) -> Position:
        if self.option:
            return Position(self.source)
        return Position(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def measure(self, node: yaml.Node) -> tuple[int, int]:
        """Return number of nodes and depth with aliases expanded, in time linear in the text."""
        if id(node) in self._size:
            known = self._size[id(node)]
            if known is None:
                raise UsageError(f"{self.position(node)}: an alias inside its own anchor")
            return known
        # Few lines of nested aliases can expand to billions of values; UsageError long before that.
        self._size[id(node)] = None
        parts = [self.measure(child) for child in _parts(node)]
        size, depth = 1 + sum(s for s, _ in parts), 1 + max((d for _, d in parts), default=0)
        if size > MAX_NODES or depth > MAX_DEPTH:
            raise UsageError(
                f"{self.position(node)}: more than {MAX_NODES} values or {MAX_DEPTH} levels once aliases are expanded"
            )
        self._size[id(node)] = size, depth
        return size, depth

    def node(self, node: yaml.Node, path: Keys) -> TreeNode:
        # Once per anchor, so that aliases share their value and problems are reported once.
        if id(node) not in self._done:
            self._done[id(node)] = self._build(node, path)
        return self._done[id(node)]

    def _build(self, node: yaml.Node, path: Keys) -> TreeNode:
        position = self.position(node)
        kind = node.tag.removeprefix(_CORE)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return TreeNode(tuple(self.node(child, (*path, i)) for i, child in enumerate(node.value)), position)
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            try:
                return TreeNode(self._bounded(_scalar(kind, node.value), position, path), position)
            except ValueError:
                self.problems.append(Problem(position, path, f"{_short(node.value)} cannot be read as !!{kind}"))
                return TreeNode(None, position)
        tag = node.tag.replace(_CORE, "!!")
        self.problems.append(Problem(position, path, f"the tag {tag} is refused; files hold plain values only"))
        return TreeNode(None, position)

    def _bounded(self, value: Scalar, position: Position, path: Keys) -> Scalar:
        """Return a scalar; a whole number of 64 bits or more is a problem, since no row could hold it."""
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            text = f"whole numbers are at most {LARGEST_INTEGER} (2^63 - 1), found {_short(str(value))[1:-1]}"
            self.problems.append(Problem(position, path, text))
            return None
        return value

    def _mapping(self, node: yaml.MappingNode, path: Keys) -> TreeNode:
        values: dict[str, TreeNode] = {}
        keys: dict[str, Position] = {}
        for key_node, value_node in node.value:
            key, position = key_node.value, self.position(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _CORE + "str":
                shown = key[:40] if isinstance(key, str) else "a list or mapping"
                self.problems.append(Problem(position, path, f"keys are text, found {shown}; put it in quotes"))
            elif key == "<<":
                self.problems.append(Problem(position, path, "the merge key << is not part of YAML 1.2"))
            elif key in keys:
                message = f"key {key!r} is given twice, at lines {keys[key].line} and {position.line}"
                self.problems.append(Problem(position, (*path, key), message))
            else:
                keys[key], values[key] = position, self.node(value_node, (*path, key))
        return TreeNode(values, self.position(node), keys)


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


_CORE = "tag:yaml.org,2002:"
_SCALARS = {  # the core schema, YAML 1.2.2 section 10.3.2
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "str": r"(?s:.*)",
}


def _scalar(kind: str, text: str) -> Scalar:
    if not re.fullmatch(_SCALARS[kind], text):
        raise ValueError(text)
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)


def _core_loader() -> Any:
    """Return a PyYAML loader with the scalars of YAML 1.2."""
    # PyYAML's own resolvers follow YAML 1.1, where `1e-4` is text and `no` is false.
    loader: Any = type("CoreLoader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {"yaml_implicit_resolvers": {}})
    for kind, pattern in _SCALARS.items():
        if kind != "str":
            loader.add_implicit_resolver(_CORE + kind, re.compile(rf"(?:{pattern})\Z"), None)
    return loader


_CoreLoader = _core_loader()
