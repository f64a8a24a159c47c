"""What a model family declares in its config class, importable without torch: everything the other folders switch on.

A family is one subclass of `DynamicsConfig` or `PolicyConfig` and the network that its `network` names. `model.py`
lists those of this package; any other goes by the import path of its class, as in `family: my_lab.models:Mine`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ensemble.config.base import Section

if TYPE_CHECKING:  # it brings numpy and pyarrow, which a mistyped file does not wait for
    from ensemble.schema import Feature

TaskName = Literal["dynamics", "policy"]
Prediction = Literal["relative", "absolute"]
Role = Literal["state", "control"]
Draw = Literal["fresh", "frozen"]  # noise anew at each step, or once per window


class TokenizerConfig(Section):
    """How an action chunk becomes tokens: cosine transform, rounding, merged symbols (arXiv 2501.09747)."""

    kind: Literal["tiny", "fast"] = Field("tiny", description="whole numbers as symbols, or the published FAST's bytes")
    scale: float = Field(10.0, gt=0, description="steps a unit of the cosine coefficients; more is finer")
    vocabulary: int = Field(256, ge=5, le=1_000_000, description="tokens, the four special ones among them")
    max_length: int = Field(
        25, ge=3, le=100_000, description="tokens of a chunk, from [BOS] to [EOS]; a rare longer one is cut"
    )


class FamilyConfig(Section):
    """The config of one model family.

    Attributes:
        network: import path `module:Class` of its network, a `models.base.Family`; imported when a pack is built.
        task: what its models are trained for.
        required_roles: roles of which the data must have a feature.
        search_metric: the default of search.metric.
        loss_details: further validation metrics, as `forward(batch, details=True)` names them.
    """

    network: ClassVar[str]
    task: ClassVar[TaskName]
    required_roles: ClassVar[tuple[Role, ...]] = ("state",)
    search_metric: ClassVar[str]
    loss_details: ClassVar[tuple[str, ...]] = ()

    family: str = Field(description="model family")  # narrowed by the families of this package, and first in every file

    @property
    def window(self) -> int:
        """Transitions of a training window."""
        raise NotImplementedError

    @property
    def prediction_passes(self) -> int | None:
        """Forward passes that a whole prediction takes; None: one a step of the horizon."""
        return None

    @property
    def noise_draw(self) -> Draw | None:
        """Whether noise is drawn anew at each step or once per window; None: no noise."""
        return None

    @property
    def target(self) -> Prediction | None:
        """The prediction target: `relative` next - state, `absolute` next state; None: no state is predicted.

        A family whose file chooses it returns the field for it, as `GPTDynamicsConfig` its `prediction`.
        """
        return None

    @property
    def chunk_tokenizer(self) -> TokenizerConfig | None:
        """How action chunks become tokens; None for a family that reads none."""
        return None

    @property
    def normalizes_actions(self) -> bool:
        """Whether the network's actions, which a tokenizer is fitted on, are normalized."""
        return False

    def named_inputs(self, features: Sequence["Feature"]) -> dict[str, tuple[str, ...]]:
        """Return which features each named input of the network takes; UsageError for one that the data lack."""
        raise NotImplementedError


class DynamicsConfig(FamilyConfig):
    """A model of the next state, from the points of its history and the controls at them."""

    task: ClassVar[TaskName] = "dynamics"
    search_metric: ClassVar[str] = "validation/rollout_rmse"

    history: int = Field(
        1, ge=1, le=100_000, description="points of a training window, and of the context in a rollout"
    )

    @property
    def window(self) -> int:
        """Transitions of a training window."""
        return self.history

    @property
    def target(self) -> Prediction | None:
        """The prediction target, by default the change of the state."""
        return "relative"

    def named_inputs(self, features: Sequence["Feature"]) -> dict[str, tuple[str, ...]]:
        """Return one input of every state and control feature."""
        return {"low_dim": tuple(f.name for f in features if f.role in ("state", "control"))}


class PolicyConfig(FamilyConfig):
    """A model of a chunk of actions, from the state that is observed before the first of them."""

    task: ClassVar[TaskName] = "policy"
    required_roles: ClassVar[tuple[Role, ...]] = ("state", "control")
    search_metric: ClassVar[str] = "validation/action_mae"

    chunk: int = Field(
        50, ge=1, le=100_000, description="actions of a chunk; a training window has as many transitions"
    )

    @property
    def window(self) -> int:
        """Transitions of a training window."""
        return self.chunk

    @property
    def prediction_passes(self) -> int | None:
        """Forward passes that a chunk takes, by default one."""
        return 1

    def named_inputs(self, features: Sequence["Feature"]) -> dict[str, tuple[str, ...]]:
        """Return "observation", every state feature, and "action", every control feature."""
        by_role = {role: tuple(f.name for f in features if f.role == role) for role in ("state", "control")}
        return {"observation": by_role["state"], "action": by_role["control"]}
