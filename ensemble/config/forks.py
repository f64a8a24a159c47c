"""The tree of an experiment file with its distributions, and the configurations it spans.

A tree is *planted* once: each distribution becomes a `Fork` with a name, those inside the options of a choice as well
(conditional parts). It is then *resolved*, define-by-run: whoever asks (the grid here, a sampler in search/) answers
each fork that is reached, in the order of the file.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import exp, inf, log
from random import Random
from typing import Any

from pydantic import ValidationError

from ensemble.config.document import Keys, Node, Problem, dotted
from ensemble.config.space import KINDS, Choice, Distribution, Int, IntLog, LogUniform

SEARCHED = ("model", "train")


@dataclass(frozen=True, kw_only=True)
class Fork(Node):
    """A distribution in the tree. `candidates` are a choice's options, or the two ends of a range."""

    name: str
    distribution: Distribution
    candidates: tuple[Node, ...]

    def size(self) -> float:
        """Number of values (options count once), infinite where they are not a list."""
        if isinstance(self.distribution, Choice):
            return len(self.candidates)
        if isinstance(self.distribution, Int):
            return len(self._values(self.distribution))
        return inf

    def nth(self, index: int) -> Node:
        """Return the value at a position of the grid; a range without a list has its two ends."""
        if isinstance(self.distribution, Int):
            return Node(self._values(self.distribution)[index], self.position)
        return self.candidates[index]

    @staticmethod
    def _values(distribution: Int) -> range:
        return range(distribution.low, distribution.high + 1, distribution.step)


Ask = Callable[[Fork], Node]
Answers = tuple[tuple[Fork, Node], ...]  # choices and the option taken


def plant(root: Node) -> tuple[Node, list[Problem]]:
    """Replace every distribution of `model` and `train` by a named fork; problems list the ill-formed ones."""
    problems: list[Problem] = []
    if not isinstance(root.value, Mapping):
        return root, problems
    sections = {
        key: _plant(child, (key,), key, problems) if key in SEARCHED else child for key, child in root.value.items()
    }
    for key, child in root.value.items():
        if key not in SEARCHED:
            problems += [
                Problem(node.position, path, "only model and train are searched")
                for path, node in _strays(child, (key,))
            ]
    return Node(sections, root.position, root.keys), problems


def _plant(node: Node, path: Keys, name: str, problems: list[Problem]) -> Node:
    if isinstance(node.value, tuple):
        items = tuple(_plant(c, (*path, i), f"{name}.{i}", problems) for i, c in enumerate(node.value))
        return Node(items, node.position)
    if not isinstance(node.value, Mapping):
        return node
    if kinds := [key for key in node.value if key in KINDS]:
        return _fork(node, kinds[0], path, name, problems)
    children = {key: _plant(c, (*path, key), f"{name}.{key}", problems) for key, c in node.value.items()}
    return Node(children, node.position, node.keys)


def _fork(node: Node, kind: str, path: Keys, name: str, problems: list[Problem]) -> Node:
    assert isinstance(node.value, Mapping)
    form, wanted = KINDS[kind]
    allowed = {kind, "step"} if kind == "int" else {kind}
    if strange := [key for key in node.value if key not in allowed]:
        hint = "; did you mean 'step'?" if kind == "int" and strange[0].startswith("st") else ""
        problems.append(Problem(node.keys[strange[0]], path, f"{kind}: unknown key {strange[0]!r}{hint}"))
        return node
    content = node.value[kind]
    try:
        distribution = form.model_validate(node.plain())
    except ValidationError as error:
        own = [str(e["ctx"]["error"]) for e in error.errors() if e["type"] == "value_error"]
        problems.append(Problem(content.position, path, f"{kind}: {own[0] if own else 'needs ' + wanted}"))
        return node
    if isinstance(distribution, Choice):
        assert isinstance(content.value, tuple)
        labels = _labels(content.value)
        candidates = tuple(
            _plant(c, path, f"{name}[{label}]", problems) for c, label in zip(content.value, labels, strict=True)
        )
    else:
        assert isinstance(content.value, tuple)
        places = [c.position for c in content.value]
        candidates = tuple(Node(v, p) for v, p in zip((distribution.low, distribution.high), places, strict=True))
    return Fork(None, node.position, name=name, distribution=distribution, candidates=candidates)


def _labels(options: tuple[Node, ...]) -> list[str]:
    """Name options of a choice by their `name` or `family` where no other has it, else by index."""
    tags = [option_name(option.plain()) for option in options]
    return [tag if tag is not None and tags.count(tag) == 1 else str(i) for i, tag in enumerate(tags)]


def option_name(option: object) -> str | None:
    """Return the `name` or `family` of an option that is a section; None where it has none."""
    tags = [option.get(tag) for tag in ("name", "family")] if isinstance(option, Mapping) else []
    return next((tag for tag in tags if isinstance(tag, str) and not tag.isdecimal()), None)


def _strays(node: Node, path: Keys) -> Iterator[tuple[Keys, Node]]:
    kinds = [k for k in node.value if k in KINDS] if isinstance(node.value, Mapping) else []
    if isinstance(node.value, Mapping) and kinds and isinstance(node.value[kinds[0]].value, tuple):
        yield path, node
        return
    for key, child in node.children():
        yield from _strays(child, (*path, key))


def resolve(node: Node, ask: Ask) -> Node:
    """Return the tree with every fork that is reached replaced by its answer."""
    if isinstance(node, Fork):
        return resolve(ask(node), ask)
    if isinstance(node.value, tuple):
        return Node(tuple(resolve(child, ask) for child in node.value), node.position)
    if isinstance(node.value, Mapping):
        return Node({key: resolve(child, ask) for key, child in node.value.items()}, node.position, node.keys)
    return node


def forks(node: Node, needs: Answers = ()) -> Iterator[tuple[Fork, Answers]]:
    """Yield every fork with the answers (fork, option) of the choices around it."""
    if isinstance(node, Fork):
        yield node, needs
        for candidate in node.candidates:
            yield from forks(candidate, (*needs, (node, candidate)))
    for _, child in node.children():
        yield from forks(child, needs)


def variants(root: Node) -> Iterator[Node]:
    """Yield trees that together show every candidate of every fork at least once, the others at their first."""
    yield _forced(root, ())
    for fork, needs in forks(root):
        reached = all(option is choice.candidates[0] for choice, option in needs)
        for candidate in fork.candidates[1 if reached else 0 :]:
            yield _forced(root, (*needs, (fork, candidate)))


def _forced(root: Node, answers: Answers) -> Node:
    forced = {fork.name: candidate for fork, candidate in answers}
    return resolve(root, lambda fork: forced.get(fork.name, fork.candidates[0]))


def grid(root: Node) -> Iterator[Node]:
    """Yield every combination in the order of the file, the first fork slowest; unlisted ranges give their two ends."""
    trail: list[int] = []
    while True:
        sizes: list[int] = []

        def ask(fork: Fork, sizes: list[int] = sizes) -> Node:
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
    """Draw a value: the index of a choice's option, or a number of a range, as `ExperimentFile.resolve` asks for it."""
    if isinstance(distribution, Choice):
        return random.randrange(len(distribution.options))
    if isinstance(distribution, Int):
        return random.randrange(distribution.low, distribution.high + 1, distribution.step)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntLog):  # every whole number owns the logarithms around it
        return min(high, max(low, round(exp(random.uniform(log(low - 0.5), log(high + 0.5))))))
    value = (
        exp(random.uniform(log(low), log(high))) if isinstance(distribution, LogUniform) else random.uniform(low, high)
    )
    return min(high, max(low, value))  # rounding may leave a range by a hair


def drawn(root: Node, count: int, random: Random) -> Iterator[Node]:
    """Yield combinations drawn at random."""

    def ask(fork: Fork) -> Node:
        value = draw(fork.distribution, random)
        return fork.candidates[value] if isinstance(fork.distribution, Choice) else Node(value, fork.position)

    for _ in range(count):
        yield resolve(root, ask)


def grid_size(node: Node) -> float:
    """Count the combinations of a grid; infinite with a range that is no list."""
    if isinstance(node, Fork):
        if isinstance(node.distribution, Choice):
            return sum(grid_size(candidate) for candidate in node.candidates)
        return node.size()
    product = 1.0
    for _, child in node.children():
        product *= grid_size(child)
    return product


def searched_paths(root: Node) -> tuple[str, ...]:
    """Return the dotted paths whose values differ between configurations, in the order of the file."""
    return tuple(dict.fromkeys(_searched(root, (), False)))


def _searched(node: Node, path: Keys, inside: bool) -> Iterator[str]:
    if isinstance(node, Fork):
        same = _constants(node, path)
        for candidate in node.candidates:
            yield from (name for name in _searched(candidate, path, True) if name not in same)
    elif isinstance(node.value, Mapping) and node.value:
        for key, child in node.value.items():
            yield from _searched(child, (*path, key), inside)
    elif inside or any(True for _ in forks(node)):
        yield dotted(path)


def _constants(fork: Fork, path: Keys) -> set[str]:
    """Return the dotted paths that have one and the same value in every option of a choice."""
    leaves = [dict(_leaves(candidate, path)) for candidate in fork.candidates]
    return {name for name in leaves[0] if len({repr(each.get(name, each)) for each in leaves}) == 1 and len(leaves) > 1}


def _leaves(node: Node, path: Keys) -> Iterator[tuple[str, object]]:
    """Yield (dotted path, value) of everything below a node that is not searched itself."""
    if isinstance(node.value, Mapping) and node.value:
        for key, child in node.value.items():
            yield from _leaves(child, (*path, key))
    elif not any(True for _ in forks(node)):
        yield dotted(path), node.plain()
