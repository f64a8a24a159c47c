"""GPUs that are not here: memory of well-known cards, and how many trials of an experiment one holds.

A trial there has all seeds of a configuration. It holds CUDA itself (taken to be 450 MiB, as a process on a CPU), its
own copy of the data, all its members' parameters and one pack's step. These bytes are those of `planning/cost.py`,
which have not been measured on a GPU: the numbers are for choosing a card.
"""

import re
from dataclasses import dataclass

from ensemble.errors import UsageError
from ensemble.planning.cost import Cost, cost_of, fitting_pack, trial_bytes
from ensemble.planning.estimate import Case, Survey
from ensemble.text import did_you_mean

_GIB = 1 << 30
# GiB as PyTorch reports them, rounded down: a driver keeps a part of what the name of a card says.
_CARDS = {
    **{"T4": 14, "P100": 15, "V100": 15, "V100-32GB": 31, "A2": 14, "A10": 22, "A10G": 22, "A16": 14, "A30": 23},
    **{"A40": 44, "A100": 39, "A100-80GB": 79, "L4": 22, "L40": 44, "L40S": 44, "RTX A4000": 15, "RTX A5000": 23},
    **{"RTX A6000": 47, "RTX 2080 Ti": 10, "RTX 3060": 11, "RTX 3080": 9, "RTX 3090": 23, "RTX 4070": 11},
    **{"RTX 4080": 15, "RTX 4090": 23, "RTX 5080": 15, "RTX 5090": 31, "H100": 79, "H100 NVL": 93, "GH200": 94},
    **{"H200": 139, "B200": 178},
}
_UNITS = {"": _GIB, "g": _GIB, "gib": _GIB, "gb": 10**9, "m": 1 << 20, "mib": 1 << 20, "mb": 10**6}
_FINEST = 1000  # parts of a GPU that a trial may ask for


@dataclass(frozen=True)
class Card:
    """A GPU by its name and its memory in bytes."""

    name: str
    memory: int


@dataclass(frozen=True)
class GpuNeed:
    """What a trial of one configuration needs on a GPU, by the pack: bytes, and how many trials a card holds."""

    pack: int
    bytes: int
    trials: int | None  # None: no card was named

    @property
    def share(self) -> float:
        """The largest `resources.gpus_per_worker` with which so many trials run at the same time."""
        return (_FINEST // max(1, self.trials or 1)) / _FINEST


def find_card(text: str) -> Card:
    """Return the card of this name, or one with so much memory (`24GiB`); UsageError with the nearest name."""
    sized = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", text.strip().lower())
    names = {_plain(name): name for name in _CARDS}
    if _plain(text) in names:
        name = names[_plain(text)]
        return Card(name, _CARDS[name] * _GIB)
    if sized and sized[2] in _UNITS and float(sized[1]):
        return Card("GPU", int(float(sized[1]) * _UNITS[sized[2]]))
    hint = did_you_mean(text, [*_CARDS, *names]) or f"; known are {', '.join(_CARDS)}"
    raise UsageError(f"--gpu {text}: unknown card (its memory will do, as in --gpu 24GiB){hint}")


def _plain(name: str) -> str:
    """Return a name without what drivers and shops put around it: `NVIDIA H100 80GB HBM3` is `h100`."""
    bare = re.sub(r"nvidia|geforce|tesla|rtx|sxm\d?|pcie|hbm\d\w?|[^a-z0-9]", "", name.lower())
    # Only where there are two sizes does the size belong to the name.
    return bare if bare.startswith(("a100", "v100")) else re.sub(r"(?<=\d)\d\dgb$", "", bare)


def gpu_needs(survey: Survey, case: Case, card: Card | None = None) -> list[GpuNeed]:
    """Return what a trial of a configuration needs, in packs of 1 and in the largest pack (that the card holds)."""
    cost = _cost_there(survey, case)
    free = float("inf") if card is None else card.memory - survey.data.bytes
    largest = fitting_pack(cost, survey.seeds, free)
    return [_need(survey, cost, pack, card) for pack in dict.fromkeys((min(1, largest), largest))]


def _need(survey: Survey, cost: Cost, pack: int, card: Card | None) -> GpuNeed:
    needed = survey.data.bytes + trial_bytes(cost, survey.seeds, max(1, pack))
    return GpuNeed(pack, needed, None if card is None else card.memory // needed)


def _cost_there(survey: Survey, case: Case) -> Cost:
    """Return the cost of a member on a GPU, whose fused attention keeps less."""
    if survey.capacity.device == "cuda":
        return case.cost
    return cost_of(case.experiment, survey.data.features, "cuda")
