"""Numbers as text: as many digits as the spread supports, and no more."""

import math
import sys
from collections.abc import Sequence
from decimal import Decimal

_UNCERTAIN_DIGITS = 2  # of the standard deviation
_CERTAIN_DIGITS = 4  # where no deviation is known
_MOST_DIGITS = 6  # single precision has no more


def number(value: float | None, digits: int = _CERTAIN_DIGITS) -> str:
    """Write a number with so many significant digits: `0.08123`, `1.235e-05`; "-" for none."""
    if value is None or math.isnan(value):
        return "-"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{_decimals(value, digits)}f}"


def plus_minus(mean: float, std: float) -> str:
    """Write mean ± std; the deviation has two digits and the mean ends where it does: `0.0812 ± 0.0043`."""
    if math.isnan(mean) or math.isnan(std):
        return number(mean)
    scale, decimals = _layout(mean, std)
    text = f"{mean / 10**scale:.{decimals}f} ± {std / 10**scale:.{decimals}f}"
    return f"({text})e{scale:+03d}" if scale else text


def interval(low: float, high: float, mean: float, std: float, method: str) -> str:
    """Write an interval with the digits of its mean, and the method: `[0.0706, 0.0918] t`."""
    if math.isnan(low) or math.isnan(high):
        return "-"
    scale, decimals = _layout(mean, std)
    text = f"[{low / 10**scale:.{decimals}f}, {high / 10**scale:.{decimals}f}]"
    return f"{text}e{scale:+03d} {method}" if scale else f"{text} {method}"


def count(value: int | None) -> str:
    """Write a whole number with thousands apart: `2,743,812`."""
    return "-" if value is None else f"{value:,}"


def times(ratio: float | None) -> str:
    """Write a ratio: `12x`, `3.4x`, `0.82x`."""
    if ratio is None or math.isnan(ratio):
        return "-"
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{number(ratio, 2)}x"


def setting(value: object) -> str:
    """Write a hyperparameter's value as in an experiment file: `1e-4`, `192`, `true`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.4g}"
    return f"{Decimal(text).normalize():e}" if 0 < abs(value) < 0.01 or 1e5 <= abs(value) < math.inf else text


def _layout(mean: float, std: float) -> tuple[int, int]:
    """Return the power of ten taken out and the decimals that remain."""
    largest = max(abs(mean), std)
    if largest < sys.float_info.min:  # zero, or too small to scale
        return 0, _CERTAIN_DIGITS
    power = math.floor(math.log10(largest))
    scale = power if power < -3 or power > 4 else 0
    if std < sys.float_info.min:
        return scale, _decimals(largest / 10**scale, _CERTAIN_DIGITS)
    shown = min(_decimals(std / 10**scale, _UNCERTAIN_DIGITS), _decimals(largest / 10**scale, _MOST_DIGITS))
    return scale, shown


def _decimals(value: float, digits: int) -> int:
    """Return the decimals with which `value` shows so many significant digits (9.99 rounds up to 10.0)."""
    if not value:
        return digits - 1
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return max(0, digits - 1 - power)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shorten dotted keys as far as they differ: `train.optimizer.lr` is `lr`, `train.optimizer.name` `optimizer`."""
    trimmed = {key: key.removesuffix(".name").removesuffix(".family").split(".") for key in keys}
    names = {}
    for key, parts in trimmed.items():
        others = [other for k, other in trimmed.items() if k != key]
        lengths = range(1, len(parts) + 1)
        size = next((n for n in lengths if not any(other[-n:] == parts[-n:] for other in others)), None)
        names[key] = key if size is None else ".".join(parts[-size:])
    return names
