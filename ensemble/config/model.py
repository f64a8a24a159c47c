"""The `model:` section: one config class per model family, importable without torch.

A family names its network (`network`, an import path), so adding one is a class here or in `policy.py`, a file in
`models/`, and one entry in `ModelConfig`. Each says its `task` and its `window`, the transitions of a training window.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ensemble.config.base import Section
from ensemble.config.policy import Pi0Config, Pi0FastConfig
from ensemble.errors import UsageError
from ensemble.text import nearest

if TYPE_CHECKING:  # it brings numpy and pyarrow, which a mistyped file does not wait for
    from ensemble.schema import Feature

Activation = Literal["tanh", "relu", "elu", "identity", "silu"]


class MLPConfig(Section):
    """A stack of linear layers, each followed by the activation and, if asked, a layer norm."""

    layer_sizes: list[Annotated[int, Field(ge=1)]] = Field([], description="widths; [] is the identity")
    activation: Activation = Field("relu", description="after each linear layer")
    layernorm: bool = Field(False, description="after each activation")


class InputConfig(MLPConfig):
    """One named input: features concatenated, then their own MLP encoder."""

    features: list[str] = Field(min_length=1, description="features, concatenated in this order")


class GPTDynamicsConfig(Section):
    """GPT dynamics model of NeRD (arXiv 2508.15755) and axion's neural solver."""

    network: ClassVar[str] = "ensemble.models.gpt_dynamics:GPTDynamics"
    task: ClassVar[Literal["dynamics"]] = "dynamics"

    family: Literal["gpt_dynamics"] = Field("gpt_dynamics", description="model family")
    history: int = Field(10, ge=1, description="points of a training window, and of the context in a rollout")
    block_size: int = Field(16, ge=1, description="positions the model knows; at least history")
    n_layer: int = Field(6, ge=1, description="transformer blocks")
    n_head: int = Field(12, ge=1, description="attention heads; divides n_embd")
    n_embd: int = Field(192, ge=1, description="width")
    dropout: float = Field(0.0, ge=0, lt=1, description="of embeddings, attention and residual branches")
    bias: bool = Field(False, description="biases in linear layers and norms of the blocks")
    inputs: dict[str, InputConfig] = Field(
        {}, description="name: features and encoder; {} is one input of every state and control feature"
    )
    head: MLPConfig = Field(MLPConfig(layer_sizes=[64]), description="between the transformer and the last layer")
    prediction: Literal["relative", "absolute"] = Field("relative", description="target: next - state, or next")
    normalize_input: bool = Field(True, description="by the training split's mean and variance")
    normalize_output: bool = Field(True, description="by the target's mean and variance; weighs the loss as well")
    output_tanh: bool = Field(False, description="tanh on the normalized output")

    @property
    def window(self) -> int:
        """Transitions of a training window."""
        return self.history

    @property
    def tokens(self) -> int:
        """Length of the sequences that go through the transformer."""
        return self.history

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        if self.history > self.block_size:
            raise ValueError(f"history {self.history} is longer than block_size {self.block_size}")
        return self


def _with_family(value: Any) -> Any:
    """Let a section without `family` be of the first one, so that files from before the second still say the same."""
    return {"family": "gpt_dynamics", **value} if isinstance(value, dict) else value


ModelConfig = Annotated[
    Annotated[GPTDynamicsConfig | Pi0Config | Pi0FastConfig, Field(discriminator="family")],
    BeforeValidator(_with_family),
]


def input_features(config: ModelConfig, features: Sequence["Feature"]) -> dict[str, tuple[str, ...]]:
    """Return which features each named input of a model takes.

    A policy has two, "observation" of every state feature and "action" of every control feature; a dynamics model has
    those of its config, by default one of every state and control feature. Raises UsageError, naming the nearest
    feature, for one that the data do not have, and when there is no state or, for a policy, no control.
    """
    by_role = {role: tuple(f.name for f in features if f.role == role) for role in ("state", "control")}
    for role, names in by_role.items():
        if not names and (role == "state" or config.task == "policy"):
            words = f"none of the features is a {role}; give one that role in `data`"
            raise UsageError(f"model.family {config.family}: {words}")
    if config.task == "policy":
        return {"observation": by_role["state"], "action": by_role["control"]}
    return _named_inputs(config, features)


def _named_inputs(config: GPTDynamicsConfig, features: Sequence["Feature"]) -> dict[str, tuple[str, ...]]:
    if not config.inputs:
        return {"low_dim": tuple(f.name for f in features if f.role in ("state", "control"))}
    names = [feature.name for feature in features]
    problems = [
        f"model.inputs.{name}.features: no feature {wanted!r}; {_suggestion(wanted, names)}"
        for name, entry in config.inputs.items()
        for wanted in entry.features
        if wanted not in names
    ]
    if problems:
        raise UsageError("\n".join(problems))
    return {name: tuple(entry.features) for name, entry in config.inputs.items()}


def _suggestion(wanted: str, names: list[str]) -> str:
    return f"the nearest is {nearest(wanted, names, cutoff=0)[0]!r} (there are {', '.join(names)})"
