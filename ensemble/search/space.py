"""The space of an experiment file in Optuna's words: distributions, define-by-run suggestions, and starting points.

Names are the file's own, with the option of a choice in brackets (`train.optimizer[sgd].momentum`), so conditional
parts to any depth are parameters that simply do not occur where they are not reached.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from ensemble.config import Experiment, ExperimentFile
from ensemble.config.forks import option_name
from ensemble.config.space import Choice, Distribution, Int, LogUniform, Uniform
from ensemble.errors import UsageError
from ensemble.search.describe_space import distribution_words, option_words
from ensemble.text import did_you_mean

Parameters = dict[str, CategoricalChoiceType]


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """Return a distribution of the file as Optuna's; both ends of a range belong to it."""
    if isinstance(distribution, Choice):
        return CategoricalDistribution(labels(distribution))
    if isinstance(distribution, Uniform | LogUniform):
        return FloatDistribution(distribution.low, distribution.high, log=isinstance(distribution, LogUniform))
    if isinstance(distribution, Int):
        return IntDistribution(distribution.low, distribution.high, step=distribution.step)
    return IntDistribution(distribution.low, distribution.high, log=True)


def labels(choice: Choice) -> list[CategoricalChoiceType]:
    """Return what stands for each option: itself where it is a scalar, else its name, its JSON or its words.

    Options that would be called the same have their JSON instead, which is never another's.
    """
    found = [_label(option) for option in choice.options]
    return [
        json.dumps(option) if isinstance(option, Mapping) and found.count(label) > 1 else label
        for option, label in zip(choice.options, found, strict=True)
    ]


def _label(option: Any) -> CategoricalChoiceType:
    if option is None or isinstance(option, bool | int | float | str):
        return option
    return option_name(option) or (option_words(option) if isinstance(option, Mapping) else json.dumps(option))


def configuration_of(trial: Trial, file: ExperimentFile) -> Experiment:
    """Return the configuration that an Optuna trial suggests; UsageError where its values do not fit together."""

    def ask(name: str, distribution: Distribution) -> Any:
        wanted = optuna_distribution(distribution)
        if isinstance(wanted, CategoricalDistribution):
            return wanted.choices.index(trial.suggest_categorical(name, wanted.choices))
        if isinstance(wanted, FloatDistribution):
            return trial.suggest_float(name, wanted.low, wanted.high, log=wanted.log)
        assert isinstance(wanted, IntDistribution)
        return trial.suggest_int(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)

    return file.resolve(ask)


def settings_of(parameters: Mapping[str, Any], file: ExperimentFile) -> dict[str, Any]:
    """Return dotted path: value of what is searched, as suggested parameters have it."""

    def answer(name: str, distribution: Distribution) -> Any:
        value = parameters[name]
        return labels(distribution).index(value) if isinstance(distribution, Choice) else value

    return file.settings(answer)


def grid_parameters(file: ExperimentFile) -> Iterator[Parameters]:
    """Yield the parameters of every combination in the order of the file, the first name slowest."""
    trail: list[int] = []
    while True:
        sizes: list[int] = []
        found: Parameters = {}

        def ask(name: str, distribution: Distribution, sizes: list[int] = sizes, found: Parameters = found) -> Any:
            values = labels(distribution) if isinstance(distribution, Choice) else list(_listed(distribution))
            if len(sizes) == len(trail):
                trail.append(0)
            index = trail[len(sizes)]
            sizes.append(len(values))
            found[name] = values[index]
            return index if isinstance(distribution, Choice) else values[index]

        with suppress(UsageError):  # values that do not fit together
            file.resolve(ask)
            yield found
        while trail and trail[-1] + 1 == sizes[len(trail) - 1]:
            trail.pop()
        if not trail:
            return
        trail[-1] += 1


def _listed(distribution: Distribution) -> range:
    assert isinstance(distribution, Int)  # what has no list is refused by `configurations`
    return range(distribution.low, distribution.high + 1, distribution.step)


class _OutsideError(UsageError):
    """A point has a value that its distribution does not hold."""


def point_parameters(file: ExperimentFile, point: Mapping[str, Any], where: str) -> Parameters:
    """Return the parameters that a point fixes; keys are nested, dotted or both, missing ones are left to the sampler.

    Raises UsageError, naming `where`, for a key that is not searched and for a value outside its distribution.
    """
    values = _flat(point)
    used: set[str] = set()
    fixed: Parameters = {}

    def ask(name: str, distribution: Distribution) -> Any:
        path = _path(name)
        if isinstance(distribution, Choice):
            index = _option(distribution, values, path, used)
            if index is None:
                _refuse_value(path, values, distribution, where)
                return 0
            fixed[name] = labels(distribution)[index]
            return index
        if path not in values:
            return distribution.low
        used.add(path)
        off = isinstance(distribution, Int) and values[path] not in _listed(distribution)
        if (
            off
            or not isinstance(values[path], int | float)
            or not distribution.low <= values[path] <= distribution.high
        ):
            _refuse_value(path, values, distribution, where)
        fixed[name] = values[path]
        return values[path]

    try:
        experiment = file.resolve(ask)
    except _OutsideError:
        raise
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    _refuse_unused(file, experiment, values, used, where)
    return fixed


def refuse_other_space(file: ExperimentFile, other: ExperimentFile) -> None:
    """Raise UsageError, naming the first difference, where two spaces or objectives are not the same."""
    for name in dict.fromkeys([*file.space, *other.space]):
        here, there = file.space.get(name), other.space.get(name)
        if here != there:
            raise UsageError(f"search.warm_start: {other.path}: {name} is {_words(there)} there, {_words(here)} here")
    for key in ("metric", "mode", "also"):
        mine, its = getattr(file.first.search, key), getattr(other.first.search, key)
        if mine != its:
            raise UsageError(f"search.warm_start: {other.path}: search.{key} is {its} there, {mine} here")


def refuse_other_parameters(file: ExperimentFile, parameters: Mapping[str, Any], where: str) -> None:
    """Raise UsageError where parameters of an earlier search are not named, or not valued, as this version does."""
    for name, value in parameters.items():
        space = file.space.get(name)
        if space is None or (isinstance(space, Choice) and value not in labels(space)):
            raise UsageError(f"{where}: {name} = {value!r} is of another version of ensemble; leave it out")


def _words(distribution: Distribution | None) -> str:
    return "not searched" if distribution is None else distribution_words(distribution)


def _flat(point: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in point.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def _path(name: str) -> str:
    """Return the dotted path of a parameter: its name without the options in brackets."""
    parts, depth = [], 0
    for letter in name:
        depth += (letter == "[") - (letter == "]")
        if not depth and letter != "]":
            parts.append(letter)
    return "".join(parts)


def _option(choice: Choice, values: Mapping[str, Any], path: str, used: set[str]) -> int | None:
    """Return which option the point takes at `path`; None where it says nothing that fits one."""
    if path in values:
        used.add(path)
        same = [i for i, option in enumerate(choice.options) if option == values[path] and _kind(option, values[path])]
        return same[0] if same else None
    inside = {name[len(path) + 1 :]: value for name, value in values.items() if name.startswith(f"{path}.")}
    best: int | None = None
    for index, option in enumerate(choice.options):
        if isinstance(option, Mapping) and inside:
            flat = _flat(option)
            given = {name: flat[name] for name in inside if name in flat}
            if all(name in flat or _searched_under(option, name) for name in inside) and all(
                given[name] == inside[name] for name in given
            ):
                best = index if best is None else best
    if best is not None:
        used.update(f"{path}.{name}" for name in inside if name in _flat(choice.options[best]))
    return best


def _searched_under(option: Mapping[str, Any], name: str) -> bool:
    """Say whether a dotted name inside an option leads to a distribution of its own."""
    node: Any = option
    for part in name.split("."):
        if not isinstance(node, Mapping):
            return False
        if part not in node:
            return any(key in ("choice", "uniform", "log_uniform", "int", "int_log") for key in node)
        node = node[part]
    return True


def _kind(option: object, value: object) -> bool:
    return isinstance(option, bool) == isinstance(value, bool)


def _refuse_value(path: str, values: Mapping[str, Any], distribution: Distribution, where: str) -> None:
    if path in values or any(name.startswith(f"{path}.") for name in values):
        shown = values.get(path, {n[len(path) + 1 :]: v for n, v in values.items() if n.startswith(f"{path}.")})
        raise _OutsideError(f"{where}: {path}: needs {distribution_words(distribution)}, found {json.dumps(shown)}")


def _refuse_unused(
    file: ExperimentFile, experiment: Experiment, values: Mapping[str, Any], used: set[str], where: str
) -> None:
    """Raise UsageError for a key that is neither searched nor what the file says anyway."""
    searched = list(file.varied(experiment))
    plain = _flat(experiment.model_dump(mode="json"))
    for name, value in values.items():
        if name in used or (name in plain and plain[name] == value):
            continue
        hint = did_you_mean(name, searched) if name not in plain else f"; the file says {plain[name]!r}"
        raise UsageError(f"{where}: {name} is not searched{hint}")


def same_parameters(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two suggestions are one, as they read in JSON."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def check_points(file: ExperimentFile) -> list[Parameters]:
    """Return the parameters of `search.points`; UsageError for the first that does not fit the space."""
    points: Sequence[Mapping[str, Any]] = file.first.search.points
    return [point_parameters(file, point, f"search.points.{index}") for index, point in enumerate(points)]
