"""The experiment: every section of the file in one tree."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ensemble.config.base import Name, Section, Words
from ensemble.config.data import DataConfig
from ensemble.config.model import ModelConfig
from ensemble.config.train import TrainConfig

Seeds = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)],
    Words("a number of seeds of at least 1, or a list of seeds such as [0, 1, 7]"),
]


def _distinct(seeds: int | list[int]) -> int | list[int]:
    if isinstance(seeds, list) and len(set(seeds)) < len(seeds):
        raise ValueError(f"the seed {next(s for s in seeds if seeds.count(s) > 1)} is given twice")
    return seeds


class SearchConfig(Section):
    """How configurations are chosen and compared while searching."""

    sampler: Literal["grid"] = Field("grid", description="grid: every combination of the choices")
    seeds: Seeds = Field(3, description="seeds of each configuration: a number (0, 1, ..) or a list")
    metric: str = Field("validation/rollout_rmse", description="what is compared")
    mode: Literal["min", "max"] = Field("min", description="which end is better")

    _seeds_differ = field_validator("seeds")(_distinct)


class EnsembleConfig(Section):
    """The seed ensemble, trained when nothing is searched."""

    seeds: Seeds = Field(10, description="seeds: a number (0, 1, ..) or a list")

    _seeds_differ = field_validator("seeds")(_distinct)


class ResourcesConfig(Section):
    """What one trial holds."""

    workers: int = Field(1, ge=1, description="Ray Train workers of a trial; above 1 they train with DDP")
    cpus_per_worker: int = Field(1, ge=1, description="cores")
    gpus_per_worker: float | None = Field(None, ge=0, description="GPUs; default: 1 where there are any, else 0")
    threads: int = Field(1, ge=1, description="torch threads of each process; part of the result's identity")
    pack: Literal["auto"] | Annotated[int, Field(ge=1)] = Field("auto", description="members trained in one pass")
    memory: int | None = Field(None, ge=1, description="bytes a trial reserves")


class LoggingConfig(Section):
    """Where curves go beside the Parquet files."""

    tensorboard: bool = Field(True, description="event files per member")
    wandb: str | None = Field(None, description="Weights & Biases project (needs the extra: ensemble[wandb])")
    mlflow: str | None = Field(None, description="MLflow tracking URI (needs the extra: ensemble[mlflow])")


class Experiment(Section):
    """An experiment file with every default filled in and nothing left to choose."""

    experiment: Name = Field(description="name of the run directory, results/<name>; default: the file's name")
    data: DataConfig = Field(description="trajectories")
    model: ModelConfig = Field(ModelConfig(), description="architecture")
    train: TrainConfig = Field(TrainConfig(), description="training of each member")
    search: SearchConfig = Field(SearchConfig(), description="choice of configurations")
    ensemble: EnsembleConfig = Field(EnsembleConfig(), description="seed ensemble")
    resources: ResourcesConfig = Field(ResourcesConfig(), description="devices of a trial")
    logging: LoggingConfig = Field(LoggingConfig(), description="where curves go")
    storage: str | None = Field(None, description="results directory; default: --results")

    @model_validator(mode="after")
    def _batch_splits(self) -> Self:
        if self.train.batch_size % self.resources.workers:
            workers = self.resources.workers
            raise ValueError(
                f"train.batch_size {self.train.batch_size} is not divisible by resources.workers {workers}"
            )
        return self
