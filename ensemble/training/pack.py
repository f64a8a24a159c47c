"""A pack: members of equal architecture trained together, each as if it were alone.

One forward and one backward pass serve all members. The loss is the sum of their own means, so no gradient mixes two
members; clipping, the optimizer and the freezing of a diverged member work row by row.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ensemble.config import Experiment
from ensemble.models.base import Batch, DynamicsModel, Normalization, PolicyModel, build, initialize
from ensemble.schema import Feature
from ensemble.training.arena import Arena
from ensemble.training.context import Context
from ensemble.training.members import Member
from ensemble.training.optimizer import MemberOptimizer


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step measured, each a list of E numbers."""

    loss: list[float]
    norm_before: list[float]
    norm_after: list[float]


class Pack:
    """The module, arena and optimizer of some members.

    Args:
        experiment: the configuration that all members share.
        features: what lies in the columns of the data.
        normalization: statistics of the training split, shared by the members.
        seeds: one a member.
        wrap: let the context wrap the module (for DDP); false for a pack that only measures or loads.
    """

    def __init__(
        self,
        experiment: Experiment,
        features: Sequence[Feature],
        normalization: Normalization,
        seeds: Sequence[int],
        context: Context,
        wrap: bool = True,
    ) -> None:
        train = experiment.train
        self.members = [Member(seed) for seed in seeds]

        # Weights
        self.module = build(
            experiment.model, tuple(features), len(seeds), normalization, precision=train.precision, device="meta"
        )
        self.arena = Arena(self.module, context.device)
        initialize(self.module, seeds)

        # Updates
        self.optimizer = MemberOptimizer(self.arena, train.optimizer)
        self._clip = train.gradient_clip
        self._context = context

        # Forward pass
        wrapped = context.prepare(self.module) if wrap else self.module
        self._forward = torch.compile(wrapped) if train.compile else wrapped
        self._checked = False

    @property
    def seeds(self) -> tuple[int, ...]:
        """The members' seeds, in the order of the arena's rows."""
        return tuple(member.seed for member in self.members)

    @property
    def sites(self) -> int:
        """Dropout sites of the model."""
        return cast(DynamicsModel | PolicyModel, self.module).sites

    def step(self, batch: Batch, rates: Sequence[float]) -> StepResult:
        """Train every active member on its part of the batch, each with its own learning rate.

        A member whose loss or gradient norm is no longer finite is frozen.
        """
        self.module.train()
        result = StepResult(*self._gradients(batch).tolist())
        self._freeze_diverged(result)
        self.optimizer.step(rates, [member.active for member in self.members])
        for member in self.members:
            member.step += member.active
        return result

    def _gradients(self, batch: Batch) -> Tensor:
        """Fill the arena's gradients; return loss, norm before and norm after clipping, (3, E) float64.

        Tensors in, tensors out: nothing waits for the device here.
        """
        self.arena.zero_grad()
        loss: Tensor = self._forward(batch)[0]  # (E,)
        self._backward(loss.sum())
        before, after = self.optimizer.clip(self._clip)
        total = self._context.total(loss.detach().double()) / self._context.world_size
        return torch.stack([total, before, after])

    def _backward(self, loss: Tensor) -> None:
        if self._checked:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        with warnings.catch_warnings():
            # A member is a row, so the members of one parameter are not contiguous: intended, and it costs nothing.
            warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
            loss.backward()  # type: ignore[no-untyped-call]
        self.arena.assert_attached()
        self._checked = True

    def _freeze_diverged(self, result: StepResult) -> None:
        for member, loss, norm in zip(self.members, result.loss, result.norm_before, strict=True):
            if member.active and not _finite(loss):
                member.diverge(member.step, "the training loss")
            elif member.active and not _finite(norm):
                member.diverge(member.step, "the gradient norm")


def _finite(value: float) -> bool:
    return value - value == 0.0
