"""The `train:` section: optimizer, schedule, length, validation, precision."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ensemble.config.base import MOST_STEPS, Section

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamConfig(Section):
    """torch.optim.Adam."""

    name: Literal["adam"] = Field("adam", description="optimizer")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="decay of the two moments", strict=False)
    weight_decay: float = Field(0.0, ge=0, description="L2 term in the gradient")


class AdamWConfig(Section):
    """torch.optim.AdamW."""

    name: Literal["adamw"] = Field("adamw", description="optimizer")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="decay of the two moments", strict=False)
    weight_decay: float = Field(0.01, ge=0, description="decoupled decay")


class SGDConfig(Section):
    """torch.optim.SGD."""

    name: Literal["sgd"] = Field("sgd", description="optimizer")
    lr: float = Field(1e-2, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum")
    weight_decay: float = Field(0.0, ge=0, description="L2 term in the gradient")


def _named(default: str) -> BeforeValidator:
    """Return a validator that adds the default `name` to a section, so that `--set train.optimizer.lr=1e-4` works."""

    def add_name(value: Any) -> Any:
        return {"name": default, **value} if isinstance(value, dict) else value

    return BeforeValidator(add_name)


OptimizerConfig = Annotated[
    Annotated[AdamConfig | AdamWConfig | SGDConfig, Field(discriminator="name")], _named("adam")
]


class ConstantConfig(Section):
    """The learning rate stays where it is, after the warm-up."""

    name: Literal["constant"] = Field("constant", description="schedule")
    warmup_steps: int = Field(0, ge=0, le=MOST_STEPS, description="steps of linear rise from 0")
    per: Literal["step", "epoch"] = Field("step", description="how often the rate moves")


class LinearConfig(ConstantConfig):
    """lr (1 - r) + lr_end r, with r the finished share of the run."""

    name: Literal["linear"] = Field("linear", description="schedule")  # type: ignore[assignment]
    lr_end: float = Field(1e-4, ge=0, description="rate at the end")


class CosineConfig(ConstantConfig):
    """lr_end + (lr - lr_end) (1 + cos(pi r)) / 2."""

    name: Literal["cosine"] = Field("cosine", description="schedule")  # type: ignore[assignment]
    lr_end: float = Field(1e-4, ge=0, description="rate at the end")


class PlateauConfig(ConstantConfig):
    """lr * factor^n: lowered for a member whose validation loss has not improved (torch's ReduceLROnPlateau)."""

    name: Literal["plateau"] = Field("plateau", description="schedule")  # type: ignore[assignment]
    factor: float = Field(0.5, gt=0, lt=1, description="of each reduction")
    patience: int = Field(5, ge=0, le=MOST_STEPS, description="validations without a better loss that are forgiven")
    threshold: float = Field(1e-4, ge=0, description="relative improvement that counts")


ScheduleConfig = Annotated[
    Annotated[ConstantConfig | LinearConfig | CosineConfig | PlateauConfig, Field(discriminator="name")],
    _named("linear"),
]


class RolloutConfig(Section):
    """Open-loop rollouts measured at each validation and on the test split."""

    horizon: int = Field(10, ge=1, le=1_000_000, description="steps predicted without seeing the truth")
    test_horizon: int | None = Field(
        None, ge=1, le=1_000_000, description="horizon on the test split; default: horizon"
    )
    windows: int = Field(
        256, ge=1, le=10_000_000, description="start points (policies: observations), the same for every member"
    )
    test_windows: int | None = Field(
        None, ge=1, le=10_000_000, description="policies: windows of the test split, for both measures"
    )
    context: int | None = Field(
        None, ge=1, le=1_000_000, description="true points seen before; default: the model's history"
    )


class TrainConfig(Section):
    """How each member is trained."""

    steps: int = Field(2000, ge=1, le=MOST_STEPS, description="optimizer steps")
    batch_size: int = Field(512, ge=2, le=1_000_000, description="windows per member and step, over all workers")
    epoch_steps: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="steps that count as an epoch; default: one pass"
    )
    optimizer: OptimizerConfig = Field(AdamConfig(), description="adam, adamw or sgd")
    schedule: ScheduleConfig = Field(LinearConfig(), description="constant, linear, cosine or plateau")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of an exponential average of the weights, which is then what is measured"
    )
    gradient_clip: float | None = Field(1.0, gt=0, description="largest gradient norm of a member; null: none")
    validate_every: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="steps between validations; default: steps / 20"
    )
    validation_windows: int = Field(
        2048, ge=1, le=10_000_000, description="at most so many windows, the same for every member"
    )
    rollout: RolloutConfig = Field(RolloutConfig(), description="open-loop rollouts")
    patience: int | None = Field(
        None, ge=1, le=MOST_STEPS, description="validations without a better loss before a member stops"
    )
    checkpoint_every: int | None = Field(
        None,
        ge=1,
        le=MOST_STEPS,
        description="steps between checkpoints, a multiple of validate_every; default: the first validation after 30 s",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of matrix products; weights stay fp32")
    compile: bool = Field(False, description="torch.compile the step")
    init_from: str | None = Field(None, description="run directory, or its members/<id>, to start the weights from")
    statistics: Literal["keep", "recompute"] = Field("keep", description="normalization with init_from")

    @property
    def validation_interval(self) -> int:
        """Steps between two validations, which are the rungs of a trial."""
        return self.validate_every or max(1, self.steps // 20)

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.schedule.warmup_steps > self.steps:
            raise ValueError(f"schedule.warmup_steps {self.schedule.warmup_steps} is longer than steps {self.steps}")
        every = self.validation_interval
        if self.checkpoint_every is not None and self.checkpoint_every % every:
            raise ValueError(f"checkpoint_every {self.checkpoint_every} is no multiple of validate_every {every}")
        return self
