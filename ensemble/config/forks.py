"""The tree of an experiment file with its distributions, and the configurations it spans.

`plant` replaces each distribution by a named `Fork`, those inside the options of a choice as well (conditional parts).
`resolve` then builds one configuration, define-by-run: a function (the grid here, a sampler in search/) returns a value
for each fork that is reached, in the order of the file.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import exp, inf, log
from random import Random
from typing import Any

from pydantic import ValidationError

from ensemble.config.document import Keys, Problem, TreeNode, dotted
from ensemble.config.space import KINDS, Choice, Distribution, Int, IntLog, LogUniform

SEARCHED = ("model", "train")


@dataclass(frozen=True, kw_only=True)
class Fork(TreeNode):
    """A distribution in the tree. `candidates` are a choice's options, or the two ends of a range."""

    name: str
    distribution: Distribution
    candidates: tuple[TreeNode, ...]

    def size(self) -> float:
        """Number of values; infinite for a range that is not listed (uniform, log_uniform, int_log).

        The forks inside an option do not count.
        """
        if isinstance(self.distribution, Choice):
            return len(self.candidates)
        if isinstance(self.distribution, Int):
            return len(self._values(self.distribution))
        return inf

    def nth(self, index: int) -> TreeNode:
        """Return the value at an index of the grid; a range that is not listed has its two ends."""
        if isinstance(self.distribution, Int):
            return TreeNode(self._values(self.distribution)[index], self.position)
        return self.candidates[index]

    @staticmethod
    def _values(distribution: Int) -> range:
        return range(distribution.low, distribution.high + 1, distribution.step)


Ask = Callable[[Fork], TreeNode]
Answers = tuple[tuple[Fork, TreeNode], ...]  # choices, each with the chosen option


def plant(root: TreeNode) -> tuple[TreeNode, list[Problem]]:
    """Replace every distribution of `model` and `train` by a named fork; also return problems of malformed ones."""
    problems: list[Problem] = []
    if not isinstance(root.value, Mapping):
        return root, problems

    # Forks
    sections = {
        key: _plant(child, (key,), key, problems) if key in SEARCHED else child for key, child in root.value.items()
    }

    # Distributions in other sections
    for key, child in root.value.items():
        if key not in SEARCHED:
            problems += [
                Problem(node.position, path, "only model and train are searched")
                for path, node in _misplaced(child, (key,))
            ]
    return TreeNode(sections, root.position, root.keys), problems


def _plant(node: TreeNode, path: Keys, name: str, problems: list[Problem]) -> TreeNode:
    if isinstance(node.value, tuple):
        items = tuple(_plant(c, (*path, i), f"{name}.{i}", problems) for i, c in enumerate(node.value))
        return TreeNode(items, node.position)
    if not isinstance(node.value, Mapping):
        return node
    if kinds := [key for key in node.value if key in KINDS]:
        return _fork(node, kinds[0], path, name, problems)
    children = {key: _plant(c, (*path, key), f"{name}.{key}", problems) for key, c in node.value.items()}
    return TreeNode(children, node.position, node.keys)


def _fork(node: TreeNode, kind: str, path: Keys, name: str, problems: list[Problem]) -> TreeNode:
    # The distribution
    assert isinstance(node.value, Mapping)
    form, wanted = KINDS[kind]
    allowed = {kind, "step"} if kind == "int" else {kind}
    if unknown := [key for key in node.value if key not in allowed]:
        hint = "; did you mean 'step'?" if kind == "int" and unknown[0].startswith("st") else ""
        problems.append(Problem(node.keys[unknown[0]], path, f"{kind}: unknown key {unknown[0]!r}{hint}"))
        return node
    content = node.value[kind]
    try:
        distribution = form.model_validate(node.plain())
    except ValidationError as error:
        own = [str(e["ctx"]["error"]) for e in error.errors() if e["type"] == "value_error"]
        problems.append(Problem(content.position, path, f"{kind}: {own[0] if own else 'needs ' + wanted}"))
        return node

    # Its candidates
    if isinstance(distribution, Choice):
        assert isinstance(content.value, tuple)
        labels = _labels(content.value)
        candidates = tuple(
            _plant(c, path, f"{name}[{label}]", problems) for c, label in zip(content.value, labels, strict=True)
        )
    else:
        assert isinstance(content.value, tuple)
        positions = [c.position for c in content.value]
        ends = (distribution.low, distribution.high)
        candidates = tuple(TreeNode(v, p) for v, p in zip(ends, positions, strict=True))
    return Fork(None, node.position, name=name, distribution=distribution, candidates=candidates)


def _labels(options: tuple[TreeNode, ...]) -> list[str]:
    """Return a label per option of a choice: its `name` or `family` if that is unique, else its index."""
    tags = [option_name(option.plain()) for option in options]
    return [tag if tag is not None and tags.count(tag) == 1 else str(i) for i, tag in enumerate(tags)]


def option_name(option: object) -> str | None:
    """Return the `name` or `family` of an option that is a section, or None."""
    # Digits alone could be confused with an index.
    tags = [option.get(tag) for tag in ("name", "family")] if isinstance(option, Mapping) else []
    return next((tag for tag in tags if isinstance(tag, str) and not tag.isdecimal()), None)


def _misplaced(node: TreeNode, path: Keys) -> Iterator[tuple[Keys, TreeNode]]:
    # Only with a list: `choice` may also be a name that the file chose, as of a validation set.
    kinds = [k for k in node.value if k in KINDS] if isinstance(node.value, Mapping) else []
    if isinstance(node.value, Mapping) and kinds and isinstance(node.value[kinds[0]].value, tuple):
        yield path, node
        return
    for key, child in node.children():
        yield from _misplaced(child, (*path, key))


def resolve(node: TreeNode, ask: Ask) -> TreeNode:
    """Return the tree with every fork that is reached replaced by its answer."""
    if isinstance(node, Fork):
        return resolve(ask(node), ask)
    if isinstance(node.value, tuple):
        return TreeNode(tuple(resolve(child, ask) for child in node.value), node.position)
    if isinstance(node.value, Mapping):
        return TreeNode({key: resolve(child, ask) for key, child in node.value.items()}, node.position, node.keys)
    return node


def forks(node: TreeNode, needs: Answers = ()) -> Iterator[tuple[Fork, Answers]]:
    """Yield every fork with the (choice, option) pairs that lead to it."""
    if isinstance(node, Fork):
        yield node, needs
        for candidate in node.candidates:
            yield from forks(candidate, (*needs, (node, candidate)))
    for _, child in node.children():
        yield from forks(child, needs)


def variants(root: TreeNode) -> Iterator[TreeNode]:
    """Yield trees that together contain every candidate of every fork, all other forks at their first candidate."""
    yield _forced(root, ())
    for fork, needs in forks(root):
        # A fork on the path of first options is already at its first candidate in the first tree.
        reached = all(option is choice.candidates[0] for choice, option in needs)
        for candidate in fork.candidates[1 if reached else 0 :]:
            yield _forced(root, (*needs, (fork, candidate)))


def _forced(root: TreeNode, answers: Answers) -> TreeNode:
    forced = {fork.name: candidate for fork, candidate in answers}
    return resolve(root, lambda fork: forced.get(fork.name, fork.candidates[0]))


def grid(root: TreeNode) -> Iterator[TreeNode]:
    """Yield every combination in the order of the file, the first fork slowest; a range not listed gives its ends."""
    # An odometer whose number of digits varies: an option may lead to forks that another does not have.
    trail: list[int] = []
    while True:
        sizes: list[int] = []

        def ask(fork: Fork, sizes: list[int] = sizes) -> TreeNode:
            if len(sizes) == len(trail):
                trail.append(0)
            size = fork.size()
            sizes.append(len(fork.candidates) if size == inf else int(size))
            return fork.nth(trail[len(sizes) - 1])

        yield resolve(root, ask)
        while trail and trail[-1] + 1 == sizes[len(trail) - 1]:
            trail.pop()
        if not trail:
            return
        trail[-1] += 1


def draw(distribution: Distribution, random: Random) -> Any:
    """Draw a value for `ExperimentFile.resolve`: the index of a choice's option, or a number of a range."""
    if isinstance(distribution, Choice):
        return random.randrange(len(distribution.options))
    if isinstance(distribution, Int):
        return random.randrange(distribution.low, distribution.high + 1, distribution.step)
    low, high = distribution.low, distribution.high
    # Each whole number has the logarithms from half below to half above it.
    if isinstance(distribution, IntLog):
        return min(high, max(low, round(exp(random.uniform(log(low - 0.5), log(high + 0.5))))))
    value = (
        exp(random.uniform(log(low), log(high))) if isinstance(distribution, LogUniform) else random.uniform(low, high)
    )
    # Rounding of exp and log may leave the range by one bit.
    return min(high, max(low, value))


def drawn(root: TreeNode, count: int, random: Random) -> Iterator[TreeNode]:
    """Yield `count` random combinations."""

    def ask(fork: Fork) -> TreeNode:
        value = draw(fork.distribution, random)
        return fork.candidates[value] if isinstance(fork.distribution, Choice) else TreeNode(value, fork.position)

    for _ in range(count):
        yield resolve(root, ask)


def grid_size(node: TreeNode) -> float:
    """Return the number of combinations of a grid; infinite with a range that is not listed (see `Fork.size`)."""
    if isinstance(node, Fork):
        if isinstance(node.distribution, Choice):
            return sum(grid_size(candidate) for candidate in node.candidates)
        return node.size()
    product = 1.0
    for _, child in node.children():
        product *= grid_size(child)
    return product


def searched_paths(root: TreeNode) -> tuple[str, ...]:
    """Return the dotted paths whose values differ between configurations, in the order of the file."""
    return tuple(dict.fromkeys(_searched(root, (), False)))


def _searched(node: TreeNode, path: Keys, inside: bool) -> Iterator[str]:
    if isinstance(node, Fork):
        # A path with one value in every option is no difference between configurations.
        same = _constants(node, path)
        for candidate in node.candidates:
            yield from (name for name in _searched(candidate, path, True) if name not in same)
    elif isinstance(node.value, Mapping) and node.value:
        for key, child in node.value.items():
            yield from _searched(child, (*path, key), inside)
    elif inside or any(True for _ in forks(node)):
        yield dotted(path)


def _constants(fork: Fork, path: Keys) -> set[str]:
    """Return the dotted paths with the same value in every option of a choice."""
    leaves = [dict(_leaves(candidate, path)) for candidate in fork.candidates]
    return {name for name in leaves[0] if len({repr(each.get(name, each)) for each in leaves}) == 1 and len(leaves) > 1}


def _leaves(node: TreeNode, path: Keys) -> Iterator[tuple[str, object]]:
    """Yield (dotted path, value) of all values below a node that are not searched."""
    if isinstance(node.value, Mapping) and node.value:
        for key, child in node.value.items():
            yield from _leaves(child, (*path, key))
    elif not any(True for _ in forks(node)):
        yield dotted(path), node.plain()
