"""The `model:` section: the dynamics model's config, and the families there are, distinguished by `model.family`.

Adding a family is one config class (see `family.py`) and one file in `models/`: in this package with an entry in
`_FAMILIES`, elsewhere without one, since `family: my_lab.models:Mine` is imported wherever it is read.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from ensemble.config.base import OtherMembers, Section
from ensemble.config.family import DynamicsConfig, FamilyConfig, Prediction, TaskName
from ensemble.config.policy import Pi0Config, Pi0FastConfig
from ensemble.errors import UsageError
from ensemble.text import nearest

if TYPE_CHECKING:  # it brings numpy and pyarrow, which a mistyped file does not wait for
    from ensemble.schema import Feature

Activation = Literal["tanh", "relu", "elu", "identity", "silu"]
Width = Annotated[int, Field(ge=1, le=1_000_000)]


class MLPConfig(Section):
    """A stack of linear layers, each followed by the activation and, if asked, a layer norm."""

    layer_sizes: list[Width] = Field([], max_length=100, description="widths; [] is the identity")
    activation: Activation = Field("relu", description="after each linear layer")
    layernorm: bool = Field(False, description="after each activation")


class HeadConfig(MLPConfig):
    """The stack between the transformer and the last layer: by default one hidden layer."""

    layer_sizes: list[Width] = Field([64], max_length=100, description="widths; [] is the identity")


class InputConfig(MLPConfig):
    """One named input: features concatenated, then their own MLP encoder."""

    features: list[str] = Field(min_length=1, description="features, concatenated in this order")


class GPTDynamicsConfig(DynamicsConfig):
    """GPT dynamics model of NeRD (arXiv 2508.15755) and axion's neural solver."""

    network: ClassVar[str] = "ensemble.models.gpt_dynamics:GPTDynamics"

    family: Literal["gpt_dynamics"] = Field("gpt_dynamics", description="model family")
    history: int = Field(
        10, ge=1, le=100_000, description="points of a training window, and of the context in a rollout"
    )
    block_size: int = Field(16, ge=1, le=100_000, description="positions the model knows; at least history")
    n_layer: int = Field(6, ge=1, le=1000, description="transformer blocks")
    n_head: int = Field(12, ge=1, le=10_000, description="attention heads; divides n_embd")
    n_embd: int = Field(192, ge=1, le=100_000, description="width")
    dropout: float = Field(0.0, ge=0, lt=1, description="of embeddings, attention and residual branches")
    bias: bool = Field(False, description="biases in linear layers and norms of the blocks")
    inputs: dict[str, InputConfig] = Field(
        {}, description="name: features and encoder; {} is one input of every state and control feature"
    )
    head: HeadConfig = Field(HeadConfig(), description="between the transformer and the last layer")
    prediction: Literal["relative", "absolute"] = Field("relative", description="target: next - state, or next")
    normalize_input: bool = Field(True, description="by the training split's mean and variance")
    normalize_output: bool = Field(True, description="by the target's mean and variance; weighs the loss as well")
    output_tanh: bool = Field(False, description="tanh on the normalized output")

    @property
    def target(self) -> Prediction | None:
        """The prediction target: the field `prediction`."""
        return self.prediction

    @property
    def tokens(self) -> int:
        """Length of the sequences that go through the transformer."""
        return self.history

    def named_inputs(self, features: Sequence["Feature"]) -> dict[str, tuple[str, ...]]:
        """Return the features of `inputs`, or by default one input of every state and control feature."""
        if not self.inputs:
            return super().named_inputs(features)
        names = [feature.name for feature in features]
        problems = [
            f"model.inputs.{name}.features: no feature {wanted!r}; {_suggestion(wanted, names)}"
            for name, entry in self.inputs.items()
            for wanted in entry.features
            if wanted not in names
        ]
        if problems:
            raise UsageError("\n".join(problems))
        return {name: tuple(entry.features) for name, entry in self.inputs.items()}

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        if self.history > self.block_size:
            raise ValueError(f"history {self.history} is longer than block_size {self.block_size}")
        return self


def _suggestion(wanted: str, names: list[str]) -> str:
    return f"the nearest is {nearest(wanted, names, cutoff=0)[0]!r} (there are {', '.join(names)})"


_DEFAULT = "gpt_dynamics"  # of a section without `family`: files from before the second family still say the same
_FAMILIES: Mapping[str, type[FamilyConfig]] = {
    "gpt_dynamics": GPTDynamicsConfig,
    "pi0": Pi0Config,
    "pi0_fast": Pi0FastConfig,
}


def family_class(name: str) -> type[FamilyConfig]:
    """Return the config class of a family: one of this package by its name, any other by its path `module:Class`.

    Raises UsageError when there is no such family, or its module cannot be imported.
    """
    if name in _FAMILIES:
        return _FAMILIES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(f"no model family {name!r}; there are {', '.join(_FAMILIES)}, and any module:Class")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:  # ValueError: an empty or relative name
        raise UsageError(f"no model family {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, FamilyConfig)):
        raise UsageError(f"no model family {name!r}: {found!r} is no subclass of DynamicsConfig or PolicyConfig")
    return found


def task_of_family(name: str) -> TaskName | None:
    """Return the task of a family of this package by its name, or None for any other, of which nothing is imported."""
    return _FAMILIES[name].task if name in _FAMILIES else None


def _other_member(name: str) -> type[Section] | None:
    return family_class(name) if ":" in name else None


def _of_any_family(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Validate the section by the class of its family: a member of the union, or one that is imported by its path."""
    if isinstance(value, FamilyConfig):
        return value
    if not isinstance(value, dict):
        return validate(value)
    section = {"family": _DEFAULT, **value}
    name = section["family"]
    if not isinstance(name, str) or ":" not in name:
        return validate(section)
    try:
        family = family_class(name)
    except UsageError as error:
        raise PydanticCustomError("no_family", "{reason}", {"reason": str(error)}) from error
    try:
        if info.mode == "json":  # where a list may be a tuple
            return family.model_validate_json(json.dumps(section))
        return family.model_validate(section)
    except ValidationError as error:
        raise ValidationError.from_exception_data(error.title, _below(name, error)) from error


def _below(tag: str, error: ValidationError) -> list[InitErrorDetails]:
    """Return the errors of a member of a union with its tag in front of their locations, as pydantic's unions do."""
    return [
        InitErrorDetails(type=each["type"], loc=(tag, *each["loc"]), input=each["input"], ctx=each.get("ctx", {}))
        for each in error.errors(include_url=False)
    ]


if TYPE_CHECKING:  # any family, not the union of those that are listed
    ModelConfig = FamilyConfig
else:
    ModelConfig = Annotated[
        SerializeAsAny[Annotated[GPTDynamicsConfig | Pi0Config | Pi0FastConfig, Field(discriminator="family")]],
        OtherMembers(_other_member),
        WrapValidator(_of_any_family),
    ]


def read_model(section: Mapping[str, Any]) -> FamilyConfig:
    """Return the config of a `model:` section, as `model.json` and the rows hold it; ValidationError if it is none."""
    config: FamilyConfig = TypeAdapter(ModelConfig).validate_json(json.dumps(section))
    return config


def input_features(config: FamilyConfig, features: Sequence["Feature"]) -> dict[str, tuple[str, ...]]:
    """Return which features each named input of a model takes.

    Raises UsageError, naming the nearest feature, for one that the data do not have, and when there is none of a role
    that the family requires.
    """
    roles = {feature.role for feature in features}
    for role in config.required_roles:
        if role not in roles:
            words = f"none of the features is a {role}; give one that role in `data`"
            raise UsageError(f"model.family {config.family}: {words}")
    return config.named_inputs(features)
