"""Axes of searched parameters: linear, logarithmic or a list of options, and a place for "not used".

What a parameter is follows from its distribution in the experiment file; where that cannot be found, from its values.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ensemble.reporting.figures.style import tick
from ensemble.reporting.number_format import setting

Scale = Literal["linear", "log", "options"]
_SCALES: dict[str, Scale] = {
    "choice": "options",
    "uniform": "linear",
    "int": "linear",
    "log_uniform": "log",
    "int_log": "log",
}
_FEW = 6  # different numbers that are shown as a list
NOT_USED = -0.14  # below the axis, which reaches from 0 to 1


@dataclass(frozen=True, slots=True)
class ParameterAxis:
    """Where the values of one parameter lie on an axis from 0 to 1, and what its ticks say."""

    name: str
    scale: Scale
    options: tuple[Any, ...]  # of a list, in order
    low: float
    high: float
    conditional: bool  # some trials have no value

    def place(self, parameters: Mapping[str, Any]) -> float:
        """Return the place of a trial's value; NOT_USED where it has none."""
        if self.name not in parameters:
            return NOT_USED
        value = parameters[self.name]
        if self.scale == "options":
            return (self.options.index(value) + 0.5) / len(self.options)
        low, high, at = (self._turn(v) for v in (self.low, self.high, value))
        return (at - low) / (high - low) if high > low else 0.5

    def _turn(self, value: float) -> float:
        return math.log10(value) if self.scale == "log" else float(value)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and texts of the ticks, "not used" included."""
        none = [(NOT_USED, "not used")] if self.conditional else []
        if self.scale == "options":
            return [*none, *((self.place({self.name: v}), shorten(setting(v))) for v in self.options)]
        return [*none, *((self.place({self.name: v}), tick(v)) for v in self._round_values())]

    def _round_values(self) -> list[float]:
        if self.scale == "log":
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            decades = [10.0**k for k in range(first, last + 1)]
            if len(decades) >= 3:
                return decades[:: max(1, math.ceil(len(decades) / 5))]
            rounded = [m * 10.0**k for k in range(first - 1, last + 1) for m in (1, 2, 5)]
            return [v for v in rounded if self.low <= v * (1 + 1e-9) and v <= self.high * (1 + 1e-9)] or [self.low]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        unit = 10 ** math.floor(math.log10(span))
        step = next(s * unit for s in (0.2, 0.5, 1.0, 2.0) if span / (s * unit) <= 5)
        return [float(v) for v in np.arange(math.ceil(self.low / step - 1e-9), self.high / step + 1e-9) * step]


def parameter_axis(name: str, trials: Sequence[Mapping[str, Any]], experiment: Mapping[str, Any]) -> ParameterAxis:
    """Build the axis of a parameter from its values in `trials` and its distribution in the experiment file."""
    values = [parameters[name] for parameters in trials if name in parameters]
    conditional = len(values) < len(trials)
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    different = {repr(value): value for value in values}
    declared = declared_scale(experiment, name)
    if (
        len(numbers) < len(values)
        or not numbers
        or declared == "options"
        or (declared is None and len(different) <= _FEW)
    ):
        ordered = sorted(different.values(), key=lambda v: (isinstance(v, str), v is None, _key(v)))
        return ParameterAxis(name, "options", tuple(ordered), 0, 1, conditional)
    low, high = min(numbers), max(numbers)
    looks_log = low > 0 and high / low >= 30
    scale: Scale = declared if declared is not None else "log" if looks_log else "linear"
    return ParameterAxis(name, scale if low > 0 else "linear", (), low, high, conditional)


def declared_scale(experiment: Mapping[str, Any], name: str) -> Scale | None:
    """Look up in the experiment file what kind of distribution a parameter has; None where it is not found."""
    node: Any = experiment
    for part in name.split("."):
        match = re.fullmatch(r"(.*?)((?:\[[^\]]*\])*)", part)
        assert match is not None
        if isinstance(node, list) and match[1].isdecimal() and int(match[1]) < len(node):
            node = node[int(match[1])]
        else:
            node = node.get(match[1]) if isinstance(node, Mapping) else None
        for label in re.findall(r"\[([^\]]*)\]", match[2]):
            node = _option(node, label)
    kinds = [kind for kind in _SCALES if isinstance(node, Mapping) and kind in node]
    return _SCALES[kinds[0]] if kinds else None


def _option(node: Any, label: str) -> Any:
    """Return the option of a choice by its `name`, its `family` or its index."""
    options = node.get("choice") if isinstance(node, Mapping) else None
    if not isinstance(options, list):
        return None
    named = [o for o in options if isinstance(o, Mapping) and label in (o.get("name"), o.get("family"))]
    if named:
        return named[0]
    return options[int(label)] if label.isdecimal() and int(label) < len(options) else None


def _key(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else 0


def shorten(text: str, most: int = 14) -> str:
    """Cut a long text in the middle."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}..{text[-(most // 2 - 1) :]}"
