"""What an experiment file amounts to before anything runs: models, memory, FLOPs, time, and what does not fit.

`survey` counts (no Ray, no training), `estimate_time` multiplies by a speed, rough or calibrated. The time is a mean
over configurations drawn at random, so a search that comes to prefer large ones takes longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

from ensemble.config import Experiment, ExperimentFile
from ensemble.errors import UsageError
from ensemble.planning.capacity import Capacity, capacity_of
from ensemble.planning.cost import Cost, cost_of, fitting_pack, trial_bytes
from ensemble.planning.data_outlook import DataOutlook, data_outlook
from ensemble.planning.sample import SpaceSample, sample_space
from ensemble.planning.speed import Speed, measure_machine
from ensemble.search.describe_space import finalist_members, seed_count, trial_count
from ensemble.search.rungs import kept_share
from ensemble.study.cluster import ClusterNode
from ensemble.text import byte_size, plural

LONG_SECONDS = 12 * 3600.0  # on this machine; above, `tune` needs --yes
_START_SECONDS, _START_TRIAL_SECONDS = 8.0, 0.4  # Ray and the data once; the process of each trial


@dataclass(frozen=True)
class Case:
    """One configuration and the cost of one member."""

    experiment: Experiment
    cost: Cost


@dataclass(frozen=True)
class Survey:
    """An experiment file in numbers. `cases` are ordered from the smallest model to the largest."""

    file: ExperimentFile
    sample: SpaceSample
    data: DataOutlook
    cases: tuple[Case, ...]
    capacity: Capacity

    @property
    def seeds(self) -> int:
        """Seeds of each configuration."""
        return seed_count(self.file)

    @property
    def trials(self) -> int:
        """Number of tried configurations."""
        return trial_count(self.file)

    @property
    def finalists(self) -> tuple[int, int]:
        """Number of finalists, and the seeds of each."""
        return finalist_members(self.file, self.trials)

    @property
    def members_per_trial(self) -> int:
        """Members in one trial: all seeds during a search; a plain ensemble spreads its own over the slots."""
        return self.seeds if self.file.searched else ceil(self.seeds / min(self.seeds, self.capacity.slots))

    @property
    def typical_cases(self) -> tuple[Case, Case, Case]:
        """The smallest, the median and the largest model."""
        return self.cases[0], self.cases[len(self.cases) // 2], self.cases[-1]

    @cached_property
    def available(self) -> float:
        """Bytes that one trial may use."""
        return self.capacity.available(self.data.bytes)

    def pack(self, case: Case) -> int:
        """Return the largest pack of a trial of this configuration that fits; 0: not even one member does."""
        return fitting_pack(case.cost, self.members_per_trial, self.available)

    @cached_property
    def too_large(self) -> str | None:
        """Description of the largest configuration of which no pack fits, or None."""
        largest = next((case for case in reversed(self.cases) if not self.pack(case)), None)
        return None if largest is None else self._describe_too_large(largest)

    def _describe_too_large(self, case: Case) -> str:
        members, batch = self.members_per_trial, case.experiment.train.batch_size
        whole = plural(members, "member")
        needed = byte_size(trial_bytes(case.cost, members, 1))
        state, activations = byte_size(members * case.cost.state), byte_size(case.cost.activations)
        return (
            f"{describe_model(case.experiment)} with batch {batch} needs {needed} for a trial of {whole}, "
            f"{state} of parameters and moments, {activations} of activations; a trial has {byte_size(self.available)} "
            f"on {'a GPU' if self.capacity.device == 'cuda' else 'a node'}"
        )

    @cached_property
    def member_flops(self) -> float:
        """Mean FLOPs of one complete training of a member."""
        return sum(case.experiment.train.steps * case.cost.flops for case in self.cases) / len(self.cases)


@dataclass(frozen=True)
class TimeEstimate:
    """Expected durations on the slots of a survey, in seconds."""

    search: float  # nothing stopped early: an upper bound
    expected: float | None  # with the pruner's savings; None where they are not known in advance
    finalists: float

    @property
    def total(self) -> float:
        """Expected seconds of search and finalists; the upper bound where `expected` is None."""
        return (self.search if self.expected is None else self.expected) + self.finalists


def survey(
    file: ExperimentFile,
    results: Path,
    device: str | None = None,
    nodes: Sequence[ClusterNode] | None = None,
    sample: SpaceSample | None = None,
) -> Survey:
    """Count models, data and memory of an experiment file; `nodes` None is this machine.

    Raises UsageError when no node has room for a trial, or when the data lack a feature of the model.
    """
    capacity = capacity_of(file.first.resources, nodes, device)
    data = data_outlook(file.first, file.path.absolute().parent, results)
    sample = sample or sample_space(file)
    cases = [Case(each, cost_of(each, data.features, capacity.device)) for each in sample.configurations]
    return Survey(file, sample, data, tuple(sorted(cases, key=_size)), capacity)


def _size(case: Case) -> tuple[int, float]:
    return case.cost.parameters, case.cost.flops


def rough_speed(survey: Survey) -> Speed:
    """Return the speed of this machine from a measurement of a quarter of a second."""
    return Speed(measure_machine(survey.file.first.resources.threads, survey.capacity.device))


def estimate_time(survey: Survey, speed: Speed) -> TimeEstimate:
    """Return mean time of a trial x trials / slots, in whole rounds, with and without the pruner's savings."""
    member = sum(speed.member(case.experiment, case.cost) for case in survey.cases) / len(survey.cases)
    slots, overhead = survey.capacity.slots, _START_TRIAL_SECONDS + speed.setup

    # A plain ensemble
    if not survey.file.searched:
        rounds = ceil(ceil(survey.seeds / survey.members_per_trial) / slots)
        return TimeEstimate(_START_SECONDS + rounds * (survey.members_per_trial * member + overhead), None, 0.0)

    # A search
    share = kept_share(survey.file)
    rounds, trained = ceil(survey.trials / slots), survey.seeds * member * _within_budget(survey)
    whole = _START_SECONDS + rounds * (trained + overhead)
    expected = None if share is None else _START_SECONDS + rounds * (trained * share + overhead)

    # Its finalists. Their seeds spread over the slots, as those of a plain ensemble do.
    count, seeds = survey.finalists
    last = ceil(count * seeds / slots) * member + (_START_TRIAL_SECONDS * count if count else 0)
    return TimeEstimate(whole, expected, last)


def _within_budget(survey: Survey) -> float:
    """Return the share of a search's member-steps that `search.budget` admits."""
    budget = survey.file.first.search.budget
    steps = sum(case.experiment.train.steps for case in survey.cases) / len(survey.cases)
    return min(1.0, budget / (steps * survey.trials * survey.seeds)) if budget else 1.0


def refuse_too_large(survey: Survey) -> None:
    """Raise UsageError, with the largest configuration, where one of the space fits no trial."""
    if survey.too_large:
        raise UsageError(f"{survey.file.path}: {survey.too_large}")


def describe_model(experiment: Experiment) -> str:
    """Return the settings of a model's size: `n_layer=12 n_head=16 n_embd=384`."""
    sizes = ("n_layer", "n_head", "n_embd", "block_size")
    given = {name: getattr(experiment.model, name) for name in sizes if hasattr(experiment.model, name)}
    # A family without them is described by all that differs from its defaults.
    values = given or experiment.model.model_dump(mode="json", exclude_defaults=True)
    return " ".join(f"{name}={value}" for name, value in values.items())
