"""What follows from closed loops, in words: which converges more, which is smoother, whether an ensemble helps.

Every difference is of the same episodes, and carries its interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.closed_loop.statistics import (
    Difference,
    EvaluationRow,
    RowsBySetting,
    Setting,
    compare_controllers,
    compare_members,
)
from ensemble.text import plural

_QUESTIONS = (
    ("converge_rate", "converges more often", 1),
    ("cart_velocity_std", "is smoother (cart velocity std)", -1),
)
_JOINT = {"mean": "The mean of its members' chunks", "median": "The member nearest to the median"}
_MOST = 3  # rivals that are compared in words


@dataclass(frozen=True, slots=True)
class Contender:
    """One configuration: its members' rows by setting, and those of its members as one controller."""

    config_hash: str
    label: str
    family: str
    members: dict[Setting, list[EvaluationRow]]
    joint: dict[str, dict[Setting, list[EvaluationRow]]]

    @property
    def rate(self) -> float:
        """Its mean converge rate over settings and members."""
        return float(np.mean([row["converge_rate"] for rows in self.members.values() for row in rows]))


def verdict(contenders: Sequence[Contender]) -> tuple[str, ...]:
    """Say what is known about configurations, and about each ensemble against its members."""
    able = [each for each in contenders if each.members]
    return (*_between(_rivals(able)), *(line for each in able[:_MOST] for line in _together(each, len(able) > 1)))


def _rivals(contenders: Sequence[Contender]) -> list[Contender]:
    """Return what is compared, best first: the best of each family where there are several, else all."""
    ranked = sorted(contenders, key=lambda each: -each.rate)
    families = dict.fromkeys(each.family for each in ranked)
    if len(families) > 1:
        ranked = [next(each for each in ranked if each.family == family) for family in families]
    return ranked[: _MOST + 1]


def _between(ranked: Sequence[Contender]) -> Iterator[str]:
    names = _names(ranked)
    for other, name in zip(ranked[1:], names[1:], strict=True):
        for metric, words, sign in _QUESTIONS:
            found = compare_members(ranked[0].members, other.members, metric)
            if found is None:
                yield f"{names[0]} and {name} have no setting in common in which every member has a {metric}."
            else:
                yield _sentence(found, (names[0], name), words, sign, _over(found))


def _names(ranked: Sequence[Contender]) -> list[str]:
    """Name contenders by family where that tells them apart."""
    families = [each.family for each in ranked]
    return families if len(set(families)) == len(families) else [each.label for each in ranked]


def _together(each: Contender, several: bool) -> Iterator[str]:
    """Compare the members as one with the mean of them, and with the best."""
    best = _best(each.members)
    of = f"{each.label}: " if several else ""
    for kind, rows in each.joint.items():
        found = compare_controllers(rows, each.members, "converge_rate")
        if found is None:
            continue
        if found.a == found.b == 0:
            yield f"{of}{_JOINT[kind]} never converges, and neither does any member."
            continue
        against = _side(found, "converges more often than its members do", "converges less often than its members do",
                        "converges about as often as its members do")  # fmt: skip
        line = f"{of}{_JOINT[kind]} {against}: {_numbers(found)} ({_over(found)})."
        alone = {at: [row for row in own if row["seed"] == best] for at, own in each.members.items()}
        found = compare_controllers(rows, alone, "converge_rate")
        if found is not None:
            word = _side(found, "better than", "worse than", "not distinguishable from")
            line += (
                f" It is {word} its best member, seed {best}, picked on these very episodes and so somewhat flattered: "
                f"{_numbers(found)}."
            )
        yield line


def _best(members: RowsBySetting) -> int:
    rates: dict[int, list[float]] = {row["seed"]: [] for rows in members.values() for row in rows}
    for rows in members.values():
        for row in rows:
            rates[row["seed"]].append(row["converge_rate"])
    return max(rates, key=lambda seed: float(np.mean(rates[seed])))


def _side(found: Difference, above: str, below: str, between: str) -> str:
    if not found.sure:
        return between
    return above if found.mean > 0 else below


def _sentence(found: Difference, names: tuple[str, str], words: str, sign: int, over: str) -> str:
    if not found.sure:
        return f"Neither {names[0]} nor {names[1]} surely {words}: {_numbers(found)} ({over})."
    first = found.mean * sign > 0
    winner, loser = names if first else names[::-1]
    return f"{winner} {words} than {loser}: {_numbers(found if first else _turned(found))} ({over})."


def _turned(d: Difference) -> Difference:
    return Difference(d.b, d.a, -d.mean, -d.high, -d.low, d.seeds, d.episodes, d.settings)


def _numbers(d: Difference) -> str:
    a, b, mean = (f"{value:.3f}" for value in (d.a, d.b, d.mean))
    bounds = "unknown" if np.isnan(d.low) else f"[{d.low:.3f}, {d.high:.3f}]"
    return f"{a} against {b}, difference {mean}, 95 % interval {bounds}"


def _over(d: Difference) -> str:
    seeds = f"{plural(d.seeds, 'pair')} of seeds and " if d.seeds else ""
    return f"t over {seeds}the same {plural(d.episodes, 'episode')}, mean of {plural(d.settings, 'setting')}"
