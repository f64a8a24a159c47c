"""Reading, checking and expanding experiment files.

`load` returns an `ExperimentFile` from a file and `--set` overrides, or raises one UsageError with all problems. No
heavy imports, so a mistyped key takes a fraction of a second. `find_space` looks for a file by its name: in ./,
./search_spaces and the shipped files.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError

from ensemble.config.checking import build, check, position_of, reason
from ensemble.config.constraints import ConstraintError, check_constraints, violated
from ensemble.config.document import MAX_DEPTH, Position, Problem, TreeNode, dotted, parse, read_text, refuse
from ensemble.config.experiment import Experiment
from ensemble.config.forks import Fork, drawn, forks, grid, grid_size, plant, resolve, searched_paths
from ensemble.config.space import Choice, Distribution
from ensemble.config.tree import flatten
from ensemble.errors import UsageError
from ensemble.text import did_you_mean

MAX_GRID = 10_000  # configurations; also the number of combinations that are tried for a first possible one
MAX_DRAWS = 1_000  # further random ones, for spaces beyond MAX_GRID


@dataclass(frozen=True)
class ExperimentFile:
    """A checked experiment file: one configuration, or a space of many."""

    path: Path
    tree: TreeNode
    first: Experiment  # the first possible configuration

    @property
    def searched(self) -> bool:
        """Whether the file has a distribution."""
        return bool(self.space)

    @cached_property
    def space(self) -> dict[str, Distribution]:
        """{name: distribution}. Names inside a choice include the option: `train.optimizer[sgd].momentum`."""
        return {fork.name: fork.distribution for fork, _ in forks(self.tree)}

    def configurations(self) -> list[Experiment]:
        """Return the grid in the order of the file, the first key slowest; one configuration without distributions.

        Impossible combinations are left out (see `infeasible`). UsageError with a range that is not listed (uniform,
        log_uniform, int_log).
        """
        return list(self._expanded[0])

    @property
    def infeasible(self) -> list[tuple[dict[str, Any], str]]:
        """The impossible combinations: their searched values and the reason."""
        return list(self._expanded[1])

    @cached_property
    def _expanded(self) -> tuple[list[Experiment], list[tuple[dict[str, Any], str]]]:
        # Refuse what is no grid, or too large a one
        for name, distribution in self.space.items():
            fork = next(fork for fork, _ in forks(self.tree) if fork.name == name)
            if fork.size() == float("inf"):
                kind = next(iter(distribution.model_dump(by_alias=True)))
                raise UsageError(
                    f"{fork.position}: {name}: a grid needs a choice or an int with a step, found {kind};"
                    " list its values, or let another `search.sampler` (tpe, random, ..) draw from it"
                )
        if (size := grid_size(self.tree)) > MAX_GRID:
            raise UsageError(f"{self.path}: a grid of {size:,.0f} configurations; at most {MAX_GRID:,} are trained")

        # Expand. By content: options that differ in spelling alone are one configuration.
        possible: dict[str, Experiment] = {}
        left_out: list[tuple[dict[str, Any], str]] = []
        for tree in grid(self.tree):
            try:
                experiment = _possible(tree)
            except _ImpossibleError as error:
                left_out.append((_pick(flatten(tree.plain()), self._searched), str(error)))
            else:
                possible.setdefault(experiment.model_dump_json(), experiment)
        return list(possible.values()), left_out

    def resolve(self, ask: Callable[[str, Distribution], Any]) -> Experiment:
        """Build one configuration, define-by-run: `ask(name, distribution)` returns a value for each that is reached.

        The value of a `Choice` is the index of its option, of a range a number. UsageError when the values do not fit
        together or break a constraint (for a sampler: an infeasible point).
        """
        return _possible(self._answered(ask))

    def settings(self, ask: Callable[[str, Distribution], Any]) -> dict[str, Any]:
        """Return {dotted path: value} of all searched and reached values of `ask`, without defaults."""
        return _pick(flatten(self._answered(ask).plain()), self._searched)

    def _answered(self, ask: Callable[[str, Distribution], Any]) -> TreeNode:
        def answer(fork: Fork) -> TreeNode:
            value = ask(fork.name, fork.distribution)
            return fork.candidates[value] if isinstance(fork.distribution, Choice) else TreeNode(value, fork.position)

        return resolve(self.tree, answer)

    def varied(self, experiment: Experiment) -> dict[str, Any]:
        """Return {dotted path: value} of all searched values of one configuration."""
        return _pick(flatten(experiment.model_dump(mode="json")), self._searched)

    @cached_property
    def _searched(self) -> tuple[str, ...]:
        return searched_paths(self.tree)


def load(path: Path | str, overrides: Sequence[str] = ()) -> ExperimentFile:
    """Read and check an experiment file; each override is `train.steps=500`, its value YAML.

    Raises UsageError with every problem (up to ten), one a line: `file:line:col: path: message; did you mean 'x'?`.
    """
    # Parse
    path = Path(path)
    root, problems = parse(read_text(path), str(path))
    if root.value is None:
        root = TreeNode({}, root.position)
    if not isinstance(root.value, Mapping):
        raise refuse([*problems, Problem(root.position, (), "needs a mapping of sections (data, model, train, ..)")])
    for text in overrides:
        root = _override(root, text, problems)
    root = _with_name(root, path)

    # Check distributions, constraints and values
    tree, malformed = plant(root)
    problems += [*malformed, *check_constraints(root)]
    searched = any(True for _ in forks(tree))
    # One problem per path: below a malformed distribution every value would be reported again.
    reported = {problem.path for problem in problems if problem.path}
    problems += [p for p in check(tree, searched) if not any(p.path[:n] in reported for n in range(1, len(p.path) + 1))]
    if problems:
        raise refuse(problems)
    return ExperimentFile(path, tree, _first_possible(tree, path))


class _ImpossibleError(UsageError):
    """Values that are valid alone but not together, or that break a constraint."""


def _possible(tree: TreeNode) -> Experiment:
    """Build one configuration of a checked file; _ImpossibleError with the reason where it is impossible."""
    try:
        experiment = build(tree)
    except ValidationError as error:
        raise _ImpossibleError(reason(error, tree)) from error
    if broken := violated(experiment, experiment.search.constraints):
        raise _ImpossibleError(broken)
    return experiment


def _first_possible(tree: TreeNode, path: Path) -> Experiment:
    """Return the first possible combination of the grid, or a random one beyond MAX_GRID; UsageError without any."""
    first, tried = "", 0
    # A fixed generator: the same file is accepted or refused every time.
    draws = MAX_DRAWS if grid_size(tree) > MAX_GRID else 0
    for candidate in chain(islice(grid(tree), MAX_GRID), drawn(tree, draws, Random(0))):
        tried += 1
        try:
            return _possible(candidate)
        except _ImpossibleError as error:
            values = _pick(flatten(candidate.plain()), searched_paths(tree))
            shown = ", ".join(f"{name} = {value}" for name, value in values.items())
            first = first or (f"the first, {shown}: {error}" if shown else str(error))
        except ConstraintError as error:
            constraint = ("search", "constraints", error.index)
            raise refuse([Problem(position_of(candidate, constraint), constraint, error.message)]) from error
    if tried == 1:
        raise UsageError(f"{path}: {first}")
    raise UsageError(f"{path}: none of {tried} combinations is possible; {first}")


def _pick(flat: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: flat[name] for name in names if name in flat}


def _with_name(root: TreeNode, path: Path) -> TreeNode:
    assert isinstance(root.value, Mapping)
    if "experiment" in root.value:
        return root
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:100] or "experiment"
    return TreeNode({"experiment": TreeNode(name, root.position), **root.value}, root.position, root.keys)


def _override(root: TreeNode, text: str, problems: list[Problem]) -> TreeNode:
    source = f"--set {text}"
    name, equals, value = text.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys):
        raise UsageError(f"{source}: needs key=value, as in train.steps=500")
    if len(keys) > MAX_DEPTH:
        raise UsageError(f"--set {name[:40]}..: nested deeper than {MAX_DEPTH} levels")
    node, further = parse(value, source, keys, option=True)
    problems += further
    try:
        return _put(root, keys, node, 0)
    except _NoSuchKeyError as error:
        problems.append(Problem(Position(source), keys, str(error)))
        return root


class _NoSuchKeyError(Exception):
    """An override of a key below a value without keys."""


def _put(node: TreeNode, keys: tuple[str, ...], new: TreeNode, depth: int) -> TreeNode:
    if depth == len(keys):
        return new
    if node.value is None:
        node = TreeNode({}, new.position)
    key = keys[depth]
    if isinstance(node.value, tuple) and key.isdecimal() and int(key) < len(node.value):
        items = list(node.value)
        items[int(key)] = _put(items[int(key)], keys, new, depth + 1)
        return TreeNode(tuple(items), node.position)
    if not isinstance(node.value, Mapping):
        raise _NoSuchKeyError(f"{dotted(keys[:depth])} has no key {key!r}; it is a value")
    # Below a choice it would be unclear which option is meant.
    if "choice" in node.value:
        raise _NoSuchKeyError(f"{dotted(keys[:depth])} is a choice; set {dotted(keys[:depth])} as a whole")
    below = node.value.get(key, TreeNode(None, new.position))
    positions = {**node.keys, key: new.position} if depth == len(keys) - 1 or key not in node.value else node.keys
    return TreeNode({**node.value, key: _put(below, keys, new, depth + 1)}, node.position, positions)


def shipped() -> Path:
    """Return the folder of the shipped experiment files.

    An installed wheel has them in `ensemble/search_spaces`, a clone in `search_spaces` next to the package.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def find_space(name: str) -> Path:
    """Return the experiment file of this name or path; `.yaml` may be left out.

    Searched in ./, ./search_spaces/ and the shipped files, in this order. UsageError with the nearest names.
    """
    # Look for the file
    given = Path(name)
    folders = [Path(), Path("search_spaces"), shipped()]
    bare = given.name not in ("", "..") and given.suffix not in (".yaml", ".yml")
    spellings = [given.with_name(given.name + ".yaml"), given] if bare else [given]
    for folder in folders:
        for spelling in spellings:
            if (folder / spelling).is_file():
                return folder / spelling

    # Suggest others
    known = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    looked = ", ".join(str(folder.resolve()) for folder in dict.fromkeys(folders) if not given.is_absolute())
    hint = did_you_mean(given.stem, known, 3, 0.5) or f"; there are {', '.join(sorted(known)) or 'none'}"
    raise UsageError(f"no experiment file {name!r}{hint}" + (f" (looked in {looked})" if looked else ""))
