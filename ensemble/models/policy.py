"""What both policies share: which columns are observation and action, and their units.

Stands between a family's network (`pi0.py`, `pi0_fast.py`) and the batch: raw points in, normalized numbers out where
the config asks for it, and back.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.config.model import input_features
from ensemble.config.policy import TransformerPolicyConfig
from ensemble.models.base import EPS, Device, Normalization, wrap
from ensemble.models.cost import Sizes, StepCost, StepShape, attention_floats
from ensemble.schema import Feature, role_columns


class Policy(nn.Module):
    """Columns and units of a policy: the state of a window's first point, the controls of its transitions."""

    NORMS: ClassVar[int] = 2  # of a layer
    state_columns: Tensor  # (S,) int64, of the points' D columns
    control_columns: Tensor  # (A,) int64
    state_angles: Tensor  # (S,) bool
    state_mean: Tensor  # (S,)
    state_scale: Tensor  # (S,)
    action_mean: Tensor  # (A,)
    action_scale: Tensor  # (A,)

    def __init__(
        self,
        config: TransformerPolicyConfig,
        features: tuple[Feature, ...],
        normalization: Normalization,
        device: Device,
    ) -> None:
        """Hold the constants that all members share; UsageError where no feature is a state, or none a control."""
        super().__init__()
        input_features(config, features)
        columns = {role: role_columns(features, role) for role in ("state", "control")}
        self.states, self.controls = len(columns["state"]), len(columns["control"])
        angles = [angle for feature in features for angle in feature.angles]
        device = "cpu" if torch.device(device).type == "meta" else device
        constants = {
            "state_columns": columns["state"],
            "control_columns": columns["control"],
            "state_angles": [angles[column] for column in columns["state"]],
        }
        moments = normalization if config.normalize else Normalization.identity(features)
        scale = np.sqrt(moments.variance.astype(np.float32) + np.float32(EPS if config.normalize else 0))
        for name, role in (("state", "state"), ("action", "control")):
            self._hold(f"{name}_mean", moments.mean.astype(np.float32)[columns[role]], device)
            self._hold(f"{name}_scale", scale[columns[role]], device)
        for name, values in constants.items():
            self._hold(name, values, device)

    def _hold(self, name: str, values: object, device: Device) -> None:
        self.register_buffer(name, torch.tensor(values, device=device), persistent=False)

    def observation_of(self, points: Tensor) -> Tensor:
        """Return the states (.., B, S) at the first of points (.., B, T+1, D), raw."""
        return points[..., 0, :].index_select(-1, self.state_columns)

    def chunk_of(self, points: Tensor) -> Tensor:
        """Return the controls (.., B, T, A) of points (.., B, T+1, D), normalized where the config says so.

        These are the numbers that a tokenizer is fitted on.
        """
        return (points[..., :-1, :].index_select(-1, self.control_columns) - self.action_mean) / self.action_scale

    def _normalized(self, observation: Tensor) -> Tensor:
        """(.., S) -> (.., S): angles wrapped, then normalized."""
        wrapped = torch.where(self.state_angles, wrap(observation), observation)
        return (wrapped - self.state_mean) / self.state_scale

    def _raw(self, chunk: Tensor) -> Tensor:
        """(.., A) -> (.., A) in the data's units."""
        return chunk * self.action_scale + self.action_mean

    @classmethod
    def cost(
        cls, config: TransformerPolicyConfig, features: Sequence[Feature], sizes: Sizes, step: StepShape
    ) -> StepCost:
        """Return about what a step of a post-norm transformer costs; a test holds it to 15 % of torch's own account."""
        d, inner, product = config.n_embd, config.n_inner, step.product_bytes
        drops = config.dropout > 0
        attention = 4 * (3 * d + attention_floats(d, config.n_head, config.tokens, step, drops)) + product * 2 * d
        feedforward = 4 * inner + product * (d + inner)
        norms = cls.NORMS * 4 * (d + 2)
        masks = (3 * d + inner + config.n_head * config.tokens) if drops else 0
        saved = config.n_layer * (attention + feedforward + norms + masks) + cls._output_bytes(config)
        return StepCost.of_transformer(
            step, sizes, layers=config.n_layer, width=d, tokens=config.tokens, saved=saved, drops=drops
        )

    @classmethod
    def _output_bytes(cls, config: TransformerPolicyConfig) -> int:
        """Return the bytes per token that the loss keeps."""
        return 0
