"""Constraints of a search: expressions over the values of an experiment, as `model.n_embd >= 16 * model.n_head`.

A small part of Python's grammar: comparisons (chained too), and, or, not, arithmetic on numbers, text, lists, min, max
and abs. A name is the dotted path of a value. Expressions are interpreted here, never evaluated by Python, and numbers
are bounded.
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ensemble.config.document import Problem, TreeNode
from ensemble.config.experiment import Experiment
from ensemble.config.fields import keys_of
from ensemble.config.hints import by_likelihood
from ensemble.errors import UsageError
from ensemble.text import nearest

LONGEST, DEEPEST = 500, 40  # characters and levels of an expression
# Of powers, and of whole numbers: 9 ** 9 ** 9 would otherwise fill memory.
LARGEST_EXPONENT, LARGEST_BITS = 64, 1024

_EXAMPLE = "model.n_embd >= 16 * model.n_head"
_KNOWN = "comparisons, and, or, not, + - * / // % **, numbers, text, lists, min, max and abs"
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None}  # in YAML's spelling
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, among: value in among,
    ast.NotIn: lambda value, among: value not in among,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}


class ConstraintError(UsageError):
    """A constraint without a value for some configuration, as `train.patience > 3` without a patience."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(f"search.constraints.{index}: {message}")
        self.index, self.message = index, message


@dataclass(frozen=True)
class Constraint:
    """One parsed expression, all of whose names exist in experiments."""

    text: str
    tree: ast.expr
    paths: tuple[str, ...]  # dotted, in the order of the text


def violated(experiment: Experiment, constraints: Sequence[str]) -> str | None:
    """Return the first constraint that does not hold, as text with its values, or None.

    A constraint with a path that this configuration lacks (an option not taken) does not apply. Raises ConstraintError
    for values of the wrong type, ValueError for an expression that `parse_constraint` refuses.
    """
    values = experiment.model_dump(mode="json") if constraints else {}
    for index, text in enumerate(constraints):
        constraint = parse_constraint(text)
        named = {path: found for path in constraint.paths if (found := _lookup(values, path)) is not _ABSENT}
        if len(named) < len(constraint.paths):
            continue
        shown = ", ".join(f"{path} = {_shown(value)}" for path, value in named.items())
        try:
            holds = _truth(_value(constraint.tree, named))
        except (TypeError, ArithmeticError, ValueError) as error:
            raise ConstraintError(index, f"{text}: {error} ({shown})") from error
        if not holds:
            return f"{text} does not hold ({shown})"
    return None


def check_constraints(root: TreeNode) -> list[Problem]:
    """Return the problems of a file's expressions; entries of other types are left to the section's own check."""
    problems = []
    node = root
    for key in ("search", "constraints"):
        node = node.value[key] if isinstance(node.value, Mapping) and key in node.value else TreeNode((), root.position)
    for index, child in node.children():
        if isinstance(child.value, str) and isinstance(index, int):
            try:
                parse_constraint(child.value)
            except ValueError as error:
                problems.append(Problem(child.position, ("search", "constraints", index), str(error)))
    return problems


@lru_cache(maxsize=256)
def parse_constraint(text: str) -> Constraint:
    """Parse an expression; ValueError, in terms of the file, for syntax, unknown names and unsupported operations."""
    # Syntax. The length first, since Python's parser can exhaust the stack on long input.
    if len(text) > LONGEST:
        raise ValueError(f"an expression of {len(text)} characters; at most {LONGEST} are read")
    try:
        # Python warns of invalid escapes, which mean nothing in a YAML file.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        near = text.strip()[max(0, (error.offset or 1) - 1) :][:20]
        raise ValueError(f"no expression such as {_EXAMPLE}: {error.msg}" + (f" at {near!r}" if near else "")) from None
    except (ValueError, RecursionError, MemoryError):
        raise ValueError(f"no expression such as {_EXAMPLE}") from None
    if _depth(tree) > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")

    # Names and type
    paths = tuple(dict.fromkeys(_paths(tree)))
    if not paths:
        raise ValueError(f"names no value of the experiment, as {_EXAMPLE} does")
    for path in paths:
        _check_path(path)
    if not _decides(tree):
        raise ValueError(f"is a value and no condition; compare it, as in {text.strip()} == 0")
    return Constraint(text, tree, paths)


def _depth(tree: ast.AST) -> int:
    """Return the depth of a tree, or any number above DEEPEST."""
    # A loop and not a recursion: a deep tree must not overflow the stack before it is refused.
    deepest, todo = 0, [(tree, 1)]
    while todo and deepest <= DEEPEST:
        node, depth = todo.pop()
        deepest = max(deepest, depth)
        todo += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return deepest


def _paths(node: ast.expr) -> Iterator[str]:
    """Yield the dotted paths below a node; ValueError for an unsupported node."""
    if isinstance(node, ast.Name | ast.Attribute):
        if (path := _dotted(node)) not in _CONSTANTS:
            yield path
        return
    for child in _operands(node):
        yield from _paths(child)


def _operands(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return []
        case ast.BoolOp(values=values):
            return values
        case ast.Compare(left=left, ops=ops, comparators=rest) if all(type(op) in _COMPARISONS for op in ops):
            return [left, *rest]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return [left, right]
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
            return [operand]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return elements
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS and arguments:
            return arguments
    raise ValueError(f"{ast.unparse(node)!r} is not understood; there are {_KNOWN}")


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError(f"{ast.unparse(node)!r} is not understood; a name is a path such as model.n_embd")


def _decides(node: ast.expr) -> bool:
    """Return whether a node is a condition: `model.n_embd % model.n_head` alone would mean its opposite."""
    if isinstance(node, ast.BoolOp):
        return all(_decides(value) for value in node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _decides(node.operand)
    flag = isinstance(node, ast.Constant) and isinstance(node.value, bool)
    return flag or isinstance(node, ast.Compare | ast.Name | ast.Attribute)


@lru_cache(maxsize=1)
def _known_paths() -> tuple[tuple[str, ...], frozenset[str]]:
    """Return all paths of values, with `<name>` for names chosen in the file, and all paths of sections."""
    values: dict[str, None] = {}
    sections = set()
    for key in keys_of(Experiment):
        # Without the options of unions: a constraint does not say which member it means.
        path = re.sub(r"\[\w+\]", "", key.path)
        if key.kind.section is not None or key.kind.tag is not None:
            sections.add(path)
        else:
            values[path] = None
    return tuple(values), frozenset(sections)


def _check_path(path: str) -> None:
    values, sections = _known_paths()
    if path in values or any("<" in known and _fits(path, known) for known in values):
        return
    if path in sections:
        below = [known for known in values if known.startswith(path + ".")][:3]
        raise ValueError(f"{path} is a section; name one of its values, such as {', '.join(below)}")
    last = path.rpartition(".")[2]
    homes = by_likelihood(known for known in values if known.rpartition(".")[2] == last)
    near = homes[:1] or nearest(path, values)
    raise ValueError(f"unknown name {path!r}" + (f"; did you mean {near[0]!r}?" if near else f"; as in {_EXAMPLE}"))


def _fits(path: str, known: str) -> bool:
    pairs = list(zip(path.split("."), known.split("."), strict=False))
    return path.count(".") == known.count(".") and all(theirs in (mine, "<name>") for mine, theirs in pairs)


_ABSENT: Any = object()


def _lookup(values: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _value(node: ast.expr, named: Mapping[str, Any]) -> Any:
    """Return the value of a node; TypeError, ArithmeticError or ValueError where it has none."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            path = _dotted(node)
            return _CONSTANTS[path] if path in _CONSTANTS else named[path]
        case ast.BoolOp(op=op, values=values):
            decide = all if isinstance(op, ast.And) else any
            return decide(_truth(_value(value, named)) for value in values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(_value(operand, named))
        case ast.UnaryOp(op=op, operand=operand):
            return _SIGNS[type(op)](_number(_value(operand, named)))
        case ast.Compare():
            return _compare(node, named)
        case ast.BinOp(left=left, op=op, right=right):
            return _combine(op, _number(_value(left, named)), _number(_value(right, named)))
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(element, named) for element in elements]
        case ast.Call(func=ast.Name(id=name), args=arguments):
            values = [_value(argument, named) for argument in arguments]
            return _FUNCTIONS[name](*map(_number_or_numbers, values))
    raise AssertionError(ast.dump(node))  # refused by _operands


def _compare(node: ast.Compare, named: Mapping[str, Any]) -> bool:
    left = _value(node.left, named)
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node, named)
        try:
            holds = _COMPARISONS[type(op)](left, right)
        except TypeError:
            raise TypeError(f"{_shown(left)} and {_shown(right)} cannot be compared so") from None
        if not holds:
            return False
        left = right
    return True


def _combine(op: ast.operator, left: float, right: float) -> Any:
    # A power is bounded before it is computed; of other operations the result.
    if isinstance(op, ast.Pow):
        whole = isinstance(left, int) and isinstance(right, int)
        if abs(right) > LARGEST_EXPONENT or (whole and int(left).bit_length() * right > LARGEST_BITS):
            raise ValueError(f"{left} ** {right} is too large")
    result = _ARITHMETIC[type(op)](left, right)
    if isinstance(result, complex) or (isinstance(result, int) and result.bit_length() > LARGEST_BITS):
        raise ValueError("a number is too large, or the root of a negative one")
    return result


def _number(value: Any) -> Any:
    # A bool is an int for Python, but `true + 1` in a constraint is a mistake.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"needs a number, found {_shown(value)}")
    return value


def _number_or_numbers(value: Any) -> Any:
    return [_number(item) for item in value] if isinstance(value, list) else _number(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"needs true or false, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
