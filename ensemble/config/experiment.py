"""The experiment: every section of the file in one tree."""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ensemble.config.base import LARGEST_INTEGER, MOST_SEEDS, MOST_STEPS, Description, Name, Section
from ensemble.config.data import DataConfig
from ensemble.config.family import FamilyConfig
from ensemble.config.model import GPTDynamicsConfig, ModelConfig, family_class
from ensemble.config.train import TrainConfig
from ensemble.errors import UsageError
from ensemble.text import did_you_mean

DEFAULT_TRIALS = 32  # without search.trials

Seeds = Annotated[
    Annotated[int, Field(ge=1, le=MOST_SEEDS)]
    | Annotated[list[Annotated[int, Field(ge=0, le=LARGEST_INTEGER)]], Field(min_length=1, max_length=MOST_SEEDS)],
    Description(f"a number of seeds from 1 to {MOST_SEEDS}, or a list of at most as many, such as [0, 1, 7]"),
]


def _distinct(seeds: int | list[int]) -> int | list[int]:
    if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
        raise ValueError(f"the seed {Counter(seeds).most_common(1)[0][0]} is given twice")
    return seeds


class SearchConfig(Section):
    """How configurations are suggested, stopped early and compared while searching."""

    sampler: Literal["tpe", "random", "gp", "cma", "qmc", "nsga2", "grid"] = Field(
        "tpe", description="sampler of configurations; grid: every combination, in the order of the file"
    )
    trials: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description=f"configurations to try; default: {DEFAULT_TRIALS}, with a grid all of them"
    )
    seeds: Seeds = Field(3, description="seeds of each configuration: a number (0, 1, ..) or a list")
    metric: str = Field(
        "validation/rollout_rmse",
        description="what is compared: its mean over the seeds; for policies by default validation/action_mae",
    )
    mode: Literal["min", "max"] = Field("min", description="which end is better")
    also: dict[str, Literal["min", "max"]] = Field(
        {}, description="further objectives, as in {parameters: min}; then the best are a Pareto front"
    )
    pruner: Literal["asha", "hyperband", "median", "wilcoxon", "i_epoch", "none"] = Field(
        "asha", description="rule of early stopping (wilcoxon pairs by seed and rung: a rule of thumb, no test)"
    )
    grace: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = Field(
        None, description="steps before the first decision; default: the last validation before train.steps / eta^2"
    )
    eta: int = Field(3, ge=2, le=1000, description="asha, hyperband: one in eta continues from rung to rung")
    keep: int = Field(3, ge=1, le=100_000, description="i_epoch: how many continue after the one rung at `grace`")
    order: Literal["async", "sync"] = Field(
        "async", description="sync: suggestions and decisions do not depend on which trial happened to end first"
    )
    lag: int = Field(
        4, ge=1, le=10_000, description="sync: suggestion n knows trials 0 .. n - lag; so many run at once at most"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of the sampler")
    startup: int = Field(10, ge=1, le=100_000, description="random suggestions before the sampler learns")
    points: list[dict[str, Any]] = Field([], description="configurations to begin with: nested or dotted keys")
    constraints: list[str] = Field([], description='what must hold, as in "model.n_embd >= 16 * model.n_head"')
    warm_start: list[str] = Field([], description="run directories of earlier searches of this space and objective")
    race: bool = Field(False, description="begin with `race_start` seeds and add seeds only where the best may be")
    race_start: int = Field(2, ge=2, le=MOST_SEEDS, description="race: seeds that every configuration gets")
    budget: Annotated[int, Field(ge=1, le=10**15)] | None = Field(
        None, description="member-steps of the whole search: no trial starts once they are spent"
    )

    _seeds_differ = field_validator("seeds")(_distinct)

    @property
    def most_trials(self) -> int | None:
        """How many configurations are tried at most; None: a grid tries as many as the space holds."""
        return self.trials or (None if self.sampler == "grid" else DEFAULT_TRIALS)

    @model_validator(mode="after")
    def _objectives_fit(self) -> Self:
        if self.metric in self.also:
            raise ValueError(f"also: {self.metric} is the metric already")
        if self.also and self.warm_start:
            raise ValueError("also: warm_start knows one objective; leave one of the two out")
        if self.also and self.pruner != "none":
            raise ValueError(f"also: several objectives need `pruner: none`, found {self.pruner}")
        if self.also and self.sampler in ("cma", "grid"):
            raise ValueError(f"also: the sampler {self.sampler} knows one objective; use tpe, nsga2, gp, random or qmc")
        return self


class EnsembleConfig(Section):
    """The seed ensemble: of the one configuration there is, or of the finalists of a search."""

    seeds: Seeds = Field(
        10, description="seeds: a number (0, 1, ..; for finalists: the first that the search never used) or a list"
    )
    finalists: int = Field(
        3, ge=0, le=1000, description="the best of a search, trained again from scratch on fresh seeds; 0: none"
    )

    _seeds_differ = field_validator("seeds")(_distinct)


class ResourcesConfig(Section):
    """What one trial holds."""

    workers: int = Field(1, ge=1, le=10_000, description="Ray Train workers of a trial; above 1 they train with DDP")
    cpus_per_worker: int = Field(1, ge=1, le=10_000, description="cores")
    gpus_per_worker: float | None = Field(
        None, ge=0, le=10_000, description="GPUs; default: 1 where there are any, else 0"
    )
    threads: int = Field(1, ge=1, le=1024, description="torch threads of each process; part of the result's identity")
    pack: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_SEEDS)] = Field(
        "auto", description="members trained in one pass"
    )
    memory: int | None = Field(None, ge=1, le=2**60, description="bytes a trial reserves")


class LoggingConfig(Section):
    """Where curves go besides the Parquet files."""

    tensorboard: bool = Field(True, description="event files per member")
    wandb: str | None = Field(None, description="Weights & Biases project (needs the extra: ensemble[wandb])")
    mlflow: str | None = Field(None, description="MLflow tracking URI (needs the extra: ensemble[mlflow])")


class EvaluationConfig(Section):
    """What dynamics models are measured by at the end, besides the rollouts of `train.rollout`."""

    warmup: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="points of each test episode that initialize a free run to its end, and are left out of the errors "
        "(RMSE in the entry's unit, FIT %); default: no free run",
    )
    horizons: dict[Name, Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        {}, description="named validation set: steps of its rollouts; default: train.rollout.horizon"
    )


def _family_of(model: Any) -> type[FamilyConfig] | None:
    """Return the config class that a `model:` section names; None where it names none, or one that does not exist."""
    if isinstance(model, FamilyConfig):
        return type(model)
    name = model.get("family") if isinstance(model, dict) else None
    try:
        return family_class(name) if isinstance(name, str) else None
    except UsageError:  # said where the section itself is validated
        return None


class Experiment(Section):
    """An experiment file with every default filled in and nothing left to choose."""

    experiment: Name = Field(description="name of the run directory, results/<name>; default: the file's name")
    data: DataConfig = Field(description="trajectories")
    model: ModelConfig = Field(GPTDynamicsConfig(), description="architecture")
    train: TrainConfig = Field(TrainConfig(), description="training of each member")
    search: SearchConfig = Field(SearchConfig(), description="choice of configurations")
    ensemble: EnsembleConfig = Field(EnsembleConfig(), description="seed ensemble")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="free runs over whole episodes")
    resources: ResourcesConfig = Field(ResourcesConfig(), description="devices of a trial")
    logging: LoggingConfig = Field(LoggingConfig(), description="where curves go")
    storage: str | None = Field(None, description="results directory; default: --results")

    @model_validator(mode="before")
    @classmethod
    def _metric_is_the_family_s(cls, value: Any) -> Any:
        """Let a search that names no metric compare what the family of its models is compared by."""
        if not isinstance(value, dict):
            return value
        family, search = _family_of(value.get("model")), value.get("search", {})
        if family is None or not isinstance(search, dict):
            return value
        return {**value, "search": {"metric": family.search_metric, **search}}

    @model_validator(mode="after")
    def _batch_splits(self) -> Self:
        if self.train.batch_size % self.resources.workers:
            workers = self.resources.workers
            raise ValueError(
                f"train.batch_size {self.train.batch_size} is not divisible by resources.workers {workers}"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_fits(self) -> Self:
        if self.evaluation != EvaluationConfig() and self.model.task != "dynamics":
            raise ValueError(f"evaluation is of dynamics models; {self.model.family} is a policy: `ensemble evaluate`")
        for name in self.evaluation.horizons:
            if name not in self.data.validation:
                there = ", ".join(self.data.validation) or "none"
                hint = did_you_mean(name, self.data.validation)
                raise ValueError(f"evaluation.horizons: no set {name!r} in data.validation{hint}; there are {there}")
        return self


def seed_numbers(seeds: int | list[int]) -> tuple[int, ...]:
    """Return the seeds that a number or a list stands for."""
    return tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)


def fresh_seeds(experiment: Experiment) -> tuple[int, ...]:
    """Return the seeds of finalists: those listed, or the smallest numbers that the search does not use."""
    wanted = experiment.ensemble.seeds
    if isinstance(wanted, list):
        return tuple(wanted)
    used = set(seed_numbers(experiment.search.seeds))
    return tuple(seed for seed in range(wanted + len(used)) if seed not in used)[:wanted]
