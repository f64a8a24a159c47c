"""The space of an experiment file in Optuna's terms: distributions, define-by-run suggestions, and starting points.

Names are the file's own, with the option of a choice in brackets (`train.optimizer[sgd].momentum`), so a conditional
part at any depth is a set of parameters that do not occur where it is not reached.
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
from ensemble.config.space import KINDS, Choice, Distribution, Int, LogUniform, Uniform
from ensemble.config.tree import leaves
from ensemble.errors import UsageError
from ensemble.search.describe_space import describe_distribution, describe_option
from ensemble.text import did_you_mean

Parameters = dict[str, CategoricalChoiceType]


def optuna_distribution(distribution: Distribution) -> BaseDistribution:
    """Return a distribution of the file as Optuna's; both ends of a range are included."""
    if isinstance(distribution, Choice):
        return CategoricalDistribution(labels(distribution))
    if isinstance(distribution, Uniform | LogUniform):
        return FloatDistribution(distribution.low, distribution.high, log=isinstance(distribution, LogUniform))
    if isinstance(distribution, Int):
        return IntDistribution(distribution.low, distribution.high, step=distribution.step)
    return IntDistribution(distribution.low, distribution.high, log=True)


def labels(choice: Choice) -> list[CategoricalChoiceType]:
    """Return a label for each option: itself where it is a scalar, else its name, its JSON or its description.

    Options with equal labels have their JSON instead, which is unique.
    """
    short = [_label(option) for option in choice.options]
    return [
        json.dumps(option) if isinstance(option, Mapping) and short.count(label) > 1 else label
        for option, label in zip(choice.options, short, strict=True)
    ]


def _label(option: Any) -> CategoricalChoiceType:
    if option is None or isinstance(option, bool | int | float | str):
        return option
    return option_name(option) or (describe_option(option) if isinstance(option, Mapping) else json.dumps(option))


def configuration_of(trial: Trial, file: ExperimentFile) -> Experiment:
    """Return the configuration that an Optuna trial suggests; UsageError where its values are incompatible."""

    def ask(name: str, distribution: Distribution) -> Any:
        optuna_form = optuna_distribution(distribution)
        if isinstance(optuna_form, CategoricalDistribution):
            return optuna_form.choices.index(trial.suggest_categorical(name, optuna_form.choices))
        if isinstance(optuna_form, FloatDistribution):
            return trial.suggest_float(name, optuna_form.low, optuna_form.high, log=optuna_form.log)
        assert isinstance(optuna_form, IntDistribution)
        return trial.suggest_int(name, optuna_form.low, optuna_form.high, step=optuna_form.step, log=optuna_form.log)

    return file.resolve(ask)


def settings_of(parameters: Mapping[str, Any], file: ExperimentFile) -> dict[str, Any]:
    """Return dotted path: value of each searched key under these suggested parameters."""

    def answer(name: str, distribution: Distribution) -> Any:
        value = parameters[name]
        return labels(distribution).index(value) if isinstance(distribution, Choice) else value

    return file.settings(answer)


def grid_parameters(file: ExperimentFile) -> Iterator[Parameters]:
    """Yield the parameters of every combination in the order of the file, the first name slowest."""
    # A counter with one digit for each distribution that is reached. Which ones are reached depends on the options
    # chosen before, so digits are added while a combination is resolved and removed when they overflow.
    digits: list[int] = []
    while True:
        sizes: list[int] = []
        parameters: Parameters = {}

        def ask(
            name: str, distribution: Distribution, sizes: list[int] = sizes, parameters: Parameters = parameters
        ) -> Any:
            values = labels(distribution) if isinstance(distribution, Choice) else list(_listed_values(distribution))
            if len(sizes) == len(digits):
                digits.append(0)
            index = digits[len(sizes)]
            sizes.append(len(values))
            parameters[name] = values[index]
            return index if isinstance(distribution, Choice) else values[index]

        with suppress(UsageError):  # incompatible values
            file.resolve(ask)
            yield parameters
        while digits and digits[-1] + 1 == sizes[len(digits) - 1]:
            digits.pop()
        if not digits:
            return
        digits[-1] += 1


def _listed_values(distribution: Distribution) -> range:
    assert isinstance(distribution, Int)  # `configurations` refuses a grid over any other range
    return range(distribution.low, distribution.high + 1, distribution.step)


class _OutsideError(UsageError):
    """A point has a value outside its distribution."""


def point_parameters(file: ExperimentFile, point: Mapping[str, Any], where: str) -> Parameters:
    """Return the parameters that a point fixes; keys are nested, dotted or both, the sampler chooses missing ones.

    Raises UsageError, naming `where`, for a key that is not searched and for a value outside its distribution.
    """
    values = leaves(point)
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
        off_grid = isinstance(distribution, Int) and values[path] not in _listed_values(distribution)
        if (
            off_grid
            or not isinstance(values[path], int | float)
            or not distribution.low <= values[path] <= distribution.high
        ):
            _refuse_value(path, values, distribution, where)
        fixed[name] = values[path]
        return values[path]

    try:
        experiment = file.resolve(ask)
    except _OutsideError:
        raise  # it names the place already
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    _refuse_unused(file, experiment, values, used, where)
    return fixed


def refuse_other_space(file: ExperimentFile, other: ExperimentFile) -> None:
    """Raise UsageError, naming the first difference, where two spaces or objectives differ."""
    for name in dict.fromkeys([*file.space, *other.space]):
        here, there = file.space.get(name), other.space.get(name)
        if here != there:
            raise UsageError(
                f"search.warm_start: {other.path}: {name} is {_describe(there)} there, {_describe(here)} here"
            )
    for key in ("metric", "mode", "also"):
        mine, theirs = getattr(file.first.search, key), getattr(other.first.search, key)
        if mine != theirs:
            raise UsageError(f"search.warm_start: {other.path}: search.{key} is {theirs} there, {mine} here")


def refuse_other_parameters(file: ExperimentFile, parameters: Mapping[str, Any], where: str) -> None:
    """Raise UsageError where this version has other names or labels for parameters of an earlier search."""
    for name, value in parameters.items():
        space = file.space.get(name)
        if space is None or (isinstance(space, Choice) and value not in labels(space)):
            raise UsageError(f"{where}: {name} = {value!r} is of another version of ensemble; leave it out")


def _describe(distribution: Distribution | None) -> str:
    return "not searched" if distribution is None else describe_distribution(distribution)


def _path(name: str) -> str:
    """Return the dotted path of a parameter: its name without the options in brackets."""
    parts, depth = [], 0
    for letter in name:
        depth += (letter == "[") - (letter == "]")
        if not depth and letter != "]":
            parts.append(letter)
    return "".join(parts)


def _option(choice: Choice, values: Mapping[str, Any], path: str, used: set[str]) -> int | None:
    """Return the index of the option that the point takes at `path`; None where it fits none."""
    if path in values:
        used.add(path)
        equal = [i for i, option in enumerate(choice.options) if _equal(option, values[path])]
        return equal[0] if equal else None
    # Keys below `path`: the first option that has all of them, with equal values where it fixes them, is taken.
    inside = {name[len(path) + 1 :]: value for name, value in values.items() if name.startswith(f"{path}.")}
    best: int | None = None
    for index, option in enumerate(choice.options):
        if isinstance(option, Mapping) and inside:
            flat = leaves(option)
            given = {name: flat[name] for name in inside if name in flat}
            if all(name in flat or _searched_under(option, name) for name in inside) and all(
                given[name] == inside[name] for name in given
            ):
                best = index if best is None else best
    if best is not None:
        used.update(f"{path}.{name}" for name in inside if name in leaves(choice.options[best]))
    return best


def _searched_under(option: Mapping[str, Any], name: str) -> bool:
    """Return whether a dotted name inside an option leads to a distribution."""
    node: Any = option
    for part in name.split("."):
        if not isinstance(node, Mapping):
            return False
        if part not in node:
            return any(key in KINDS for key in node)
        node = node[part]
    return True


def _equal(option: object, value: object) -> bool:
    # True == 1 in Python, and 1 is another option than true.
    return option == value and isinstance(option, bool) == isinstance(value, bool)


def _refuse_value(path: str, values: Mapping[str, Any], distribution: Distribution, where: str) -> None:
    if path in values or any(name.startswith(f"{path}.") for name in values):
        given = values.get(path, {n[len(path) + 1 :]: v for n, v in values.items() if n.startswith(f"{path}.")})
        raise _OutsideError(f"{where}: {path}: needs {describe_distribution(distribution)}, found {json.dumps(given)}")


def _refuse_unused(
    file: ExperimentFile, experiment: Experiment, values: Mapping[str, Any], used: set[str], where: str
) -> None:
    """Raise UsageError for a key that is not searched, unless it has the value of the file."""
    searched = list(file.varied(experiment))
    fixed = leaves(experiment.model_dump(mode="json"))
    for name, value in values.items():
        if name in used or (name in fixed and fixed[name] == value):
            continue
        hint = did_you_mean(name, searched) if name not in fixed else f"; the file says {fixed[name]!r}"
        raise UsageError(f"{where}: {name} is not searched{hint}")


def check_points(file: ExperimentFile) -> list[Parameters]:
    """Return the parameters of `search.points`; UsageError for the first that is not in the space."""
    points: Sequence[Mapping[str, Any]] = file.first.search.points
    return [point_parameters(file, point, f"search.points.{index}") for index, point in enumerate(points)]
