"""Distributions of an experiment file, allowed in place of any value of `model` and `train`.

In a file: `{choice: [..]}`, `{uniform: [a, b]}`, `{log_uniform: [a, b]}`, `{int: [a, b], step: s}`,
`{int_log: [a, b]}`. Ranges include both ends. Their combinations are in forks.py.
"""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from ensemble.config.base import Section

_LARGEST = 2**53  # of a whole number in a range: its values are counted, and are exact as floats
_Whole = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]


class Choice(Section):
    """One of several values; a value may be a section with its own distributions."""

    options: tuple[Any, ...] = Field(alias="choice", strict=False)

    @model_validator(mode="after")
    def _has_options(self) -> Self:
        if not self.options:
            raise ValueError("an empty choice")
        for i, option in enumerate(self.options):
            if any(_same(option, other) for other in self.options[:i]):
                raise ValueError(f"the choice holds {option!r} twice")
        return self


class _Range(Section):
    kind: ClassVar[str]
    positive: ClassVar[bool] = False

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value, both included."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.ends
        if low > high:
            raise ValueError(f"the low end {low} is above the high end {high}")
        if self.positive and low <= 0:
            raise ValueError(f"a logarithmic range starts above 0, found {low}")
        return self


class _FloatRange(_Range):
    bounds: tuple[float, float]

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return self.bounds

    @property
    def low(self) -> float:
        """Lowest value."""
        return self.ends[0]

    @property
    def high(self) -> float:
        """Highest value."""
        return self.ends[1]


class Uniform(_FloatRange):
    """A number between two ends, both included."""

    kind = "uniform"
    bounds: tuple[float, float] = Field(alias="uniform", strict=False)


class LogUniform(_FloatRange):
    """A number between two ends, its logarithm uniform."""

    kind = "log_uniform"
    positive = True
    bounds: tuple[float, float] = Field(alias="log_uniform", strict=False)


class _IntRange(_Range):
    bounds: tuple[_Whole, _Whole]

    @property
    def ends(self) -> tuple[int, int]:
        """Lowest and highest value."""
        return self.bounds

    @property
    def low(self) -> int:
        """Lowest value."""
        return self.ends[0]

    @property
    def high(self) -> int:
        """Highest value."""
        return self.ends[1]


class Int(_IntRange):
    """A whole number: low, low + step, .. up to high."""

    kind = "int"
    bounds: tuple[_Whole, _Whole] = Field(alias="int", strict=False)
    step: int = Field(1, ge=1, le=_LARGEST, description="distance between two values")

    @property
    def ends(self) -> tuple[int, int]:
        """Lowest value, and the highest one that is a whole number of steps away."""
        # A reversed range stays as given, for the message.
        low, high = self.bounds
        return low, high if low > high else high - (high - low) % self.step


class IntLog(_IntRange):
    """A whole number, its logarithm uniform."""

    kind = "int_log"
    positive = True
    bounds: tuple[_Whole, _Whole] = Field(alias="int_log", strict=False)


Distribution = Choice | Uniform | LogUniform | Int | IntLog
KINDS: dict[str, tuple[type[Distribution], str]] = {
    "choice": (Choice, "a list of values"),
    "uniform": (Uniform, "two numbers, [low, high]"),
    "log_uniform": (LogUniform, "two numbers, [low, high]"),
    "int": (Int, "two whole numbers of at most 2^53, [low, high], and perhaps a step of at least 1"),
    "int_log": (IntLog, "two whole numbers of at most 2^53, [low, high]"),
}


def _same(a: Any, b: Any) -> bool:
    # Python's 1 == True == 1.0 are three values of a file.
    return type(a) is type(b) and bool(a == b)
