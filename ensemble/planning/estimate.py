"""What an experiment file amounts to before anything runs: models, memory, FLOPs, hours, and what does not fit.

`survey` counts (no Ray, no training), `hours` multiplies by a speed, rough or calibrated. What it says of time is a
mean over configurations as they are drawn, so a search that learns to like large ones takes longer.
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
from ensemble.planning.sample import Sample, sample_space
from ensemble.planning.speed import Speed, measure_machine
from ensemble.schema import Feature
from ensemble.search.describe_space import finalist_members, seed_count, trial_count
from ensemble.search.rungs import kept_share
from ensemble.study.cluster import ClusterNode
from ensemble.text import byte_size

LONG_HOURS = 12.0  # on this machine; above, `tune` asks for --yes
ROUGH_DRAWS = 100  # configurations looked at where only the hours are asked for
_START, _START_TRIAL = 8.0, 0.4  # seconds: Ray and the data once; each trial's process


@dataclass(frozen=True)
class Case:
    """One configuration and what a member of it costs."""

    experiment: Experiment
    cost: Cost


@dataclass(frozen=True)
class Survey:
    """An experiment file counted out. `cases` are ordered from the smallest model to the largest."""

    file: ExperimentFile
    sample: Sample
    data: DataOutlook
    cases: tuple[Case, ...]
    capacity: Capacity

    @property
    def seeds(self) -> int:
        """Seeds of each configuration."""
        return seed_count(self.file)

    @property
    def trials(self) -> int:
        """Configurations that are tried."""
        return trial_count(self.file)

    @property
    def finalists(self) -> tuple[int, int]:
        """How many finalists there are, and the seeds of each."""
        return finalist_members(self.file, self.trials)

    @property
    def together(self) -> int:
        """Members in one trial: all seeds during a search; a plain ensemble spreads its own over the slots."""
        return self.seeds if self.file.searched else ceil(self.seeds / min(self.seeds, self.capacity.slots))

    @property
    def marks(self) -> tuple[Case, Case, Case]:
        """The smallest, the median and the largest model."""
        return self.cases[0], self.cases[len(self.cases) // 2], self.cases[-1]

    @cached_property
    def available(self) -> float:
        """Bytes that one trial may use."""
        return self.capacity.available(self.data.bytes)

    def pack(self, case: Case) -> int:
        """Return the largest pack of a trial of this configuration that fits; 0: not even one member does."""
        return fitting_pack(case.cost, self.together, self.available)

    @cached_property
    def too_large(self) -> str | None:
        """The first configuration of which no pack fits, in words, or None."""
        words = (too_large(case, self.together, self.available, self.capacity.device) for case in reversed(self.cases))
        return next((each for each in words if each), None)

    @cached_property
    def member_flops(self) -> float:
        """Mean FLOPs of one member that trains to its end."""
        return sum(case.experiment.train.steps * case.cost.flops for case in self.cases) / len(self.cases)


@dataclass(frozen=True)
class Hours:
    """How long it takes on the slots of the survey, in hours."""

    search: float  # nothing stopped early: an upper bound
    expected: float | None  # with what the pruner stops, or None where nobody can say
    finalists: float

    @property
    def total(self) -> float:
        """Hours to expect of everything: the upper bound where that is all there is."""
        return (self.search if self.expected is None else self.expected) + self.finalists


def survey(
    file: ExperimentFile,
    results: Path,
    device: str | None = None,
    nodes: Sequence[ClusterNode] | None = None,
    sample: Sample | None = None,
) -> Survey:
    """Count an experiment file out; `nodes` None is this machine.

    Raises UsageError when no node holds a trial, or when the data lack a feature that the model asks for.
    """
    capacity = capacity_of(file.first.resources, nodes, device)
    data = data_outlook(file.first, file.path.absolute().parent, results)
    sample = sample or sample_space(file)
    cases = sorted(cases_of(sample.configurations, data.features, capacity.device), key=_size)
    return Survey(file, sample, data, tuple(cases), capacity)


def cases_of(configurations: Sequence[Experiment], features: tuple[Feature, ...], device: str) -> list[Case]:
    """Count each configuration out."""
    return [Case(experiment, cost_of(experiment, features, device)) for experiment in configurations]


def _size(case: Case) -> tuple[int, float]:
    return case.cost.parameters, case.cost.flops


def rough_speed(found: Survey) -> Speed:
    """Return the speed of this machine after a quarter of a second of measuring it."""
    return Speed(measure_machine(found.file.first.resources.threads, found.capacity.device))


def hours(found: Survey, speed: Speed) -> Hours:
    """Multiply it out: mean trial x trials / slots, in whole rounds; what is stopped early saves its share."""
    member = sum(speed.member(case.experiment, case.cost) for case in found.cases) / len(found.cases)
    slots, share = found.capacity.slots, kept_share(found.file)
    if not found.file.searched:
        trials = ceil(found.seeds / found.together)
        rounds = ceil(trials / slots)
        return Hours((_START + rounds * (found.together * member + _overhead(speed))) / 3600, None, 0.0)
    rounds, trained = ceil(found.trials / slots), found.seeds * member * _within_budget(found)
    whole = _START + rounds * (trained + _overhead(speed))
    expected = None if share is None else _START + rounds * (trained * share + _overhead(speed))
    count, seeds = found.finalists
    last = ceil(count * seeds / slots) * member + (_START_TRIAL * count if count else 0)
    return Hours(whole / 3600, None if expected is None else expected / 3600, last / 3600)


def _overhead(speed: Speed) -> float:
    return _START_TRIAL + speed.setup


def _within_budget(found: Survey) -> float:
    """Return the share of a search's member-steps that `search.budget` admits."""
    budget = found.file.first.search.budget
    steps = sum(case.experiment.train.steps for case in found.cases) / len(found.cases)
    return min(1.0, budget / (steps * found.trials * found.seeds)) if budget else 1.0


def expected_hours(
    file: ExperimentFile, results: Path, device: str | None = None, nodes: Sequence[ClusterNode] | None = None
) -> float:
    """Return roughly how many hours the file takes on this machine (or on nodes as fast as it), in about a second.

    Nothing is calibrated: FLOPs and bytes over what a matrix product and an elementwise pass reach here.
    """
    found = survey(file, results, device, nodes, sample_space(file, ROUGH_DRAWS))
    return hours(found, rough_speed(found)).total


def too_large(case: Case, together: int, available: float, device: str = "cpu") -> str | None:
    """Say why a trial of `together` members of a configuration does not fit into `available` bytes; None: it fits."""
    if fitting_pack(case.cost, together, available):
        return None
    batch, needed = case.experiment.train.batch_size, trial_bytes(case.cost, together, 1)
    state, kept = byte_size(together * case.cost.state), byte_size(case.cost.activations)
    return (
        f"{model_words(case.experiment)} with batch {batch} needs {byte_size(needed)} for a trial of {together} "
        f"member(s), {state} of parameters and moments, {kept} of activations; a trial has {byte_size(available)} "
        f"on {'a GPU' if device == 'cuda' else 'a node'}"
    )


def fits(experiment: Experiment, features: tuple[Feature, ...], capacity: Capacity, data: int = 0) -> str | None:
    """Say why a trial of this one configuration does not fit where it would run; None: it fits."""
    case = Case(experiment, cost_of(experiment, features, capacity.device))
    seeds = experiment.search.seeds
    together = seeds if isinstance(seeds, int) else len(seeds)
    return too_large(case, together, capacity.available(data), capacity.device)


def refuse_too_large(found: Survey) -> None:
    """Raise UsageError, naming the first offending configuration, where one of the space fits no trial."""
    if found.too_large:
        raise UsageError(f"{found.file.path}: {found.too_large}")


def model_words(experiment: Experiment) -> str:
    """Return what sets the size of a model: `n_layer=12 n_head=16 n_embd=384`."""
    values = experiment.model.model_dump(mode="json", exclude_defaults=True)
    wanted = ("n_layer", "n_head", "n_embd", "block_size")
    shown = {name: getattr(experiment.model, name) for name in wanted if hasattr(experiment.model, name)}
    return " ".join(f"{name}={value}" for name, value in (shown or values).items())
