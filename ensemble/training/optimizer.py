"""One optimizer for a pack: torch's fused kernel on each member's row of the arena, with the member's own rate.

A member's update cannot depend on its neighbours, and a frozen member is skipped. The moments lie in matrices like the
arena's, and a checkpoint holds them as they are. torch's functions are called, not its optimizer classes: those hold
their state by parameter, and import the compiler, a second or more in every process, whether anything is compiled or
not.

`WeightAverage` keeps an exponential moving average of the weights.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from ensemble.config.train import AdamConfig, AdamWConfig, SGDConfig
from ensemble.training.arena import Arena

Moments = dict[str, Tensor]  # name: (E, P), and "step": (E,)

_NORM_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_
_ADAM_EPSILON = 1e-8  # torch.optim.Adam's default
_MATRICES = {"adam": ("exp_avg", "exp_avg_sq"), "adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


class MemberOptimizer:
    """Adam, AdamW or SGD over the rows of an arena.

    Attributes:
        moments: each name (E, P), and `step` (E,), the updates that a member has had; they change in place.
    """

    def __init__(self, arena: Arena, config: AdamConfig | AdamWConfig | SGDConfig) -> None:
        self._config = config
        self._rows = list(arena.values.unbind(0))
        self._grads = list(arena.grad.unbind(0))
        self.moments: Moments = {name: torch.zeros_like(arena.values) for name in _MATRICES[config.name]}
        self.moments["step"] = torch.zeros(arena.members, device=arena.values.device)

    def clip(self, max_norm: float | None) -> tuple[Tensor, Tensor]:
        """Scale each member's gradient to a norm of at most `max_norm`; return the norms (E,) before and after.

        As `torch.nn.utils.clip_grad_norm_`, row by row: one reduction over all rows could depend on their number.
        Summed in float64: over millions of squares float32 is off by 1e-4.
        """
        before = torch.stack([torch.linalg.vector_norm(grad, dtype=torch.float64) for grad in self._grads])
        if max_norm is None:
            return before, before
        factor = (max_norm / (before + _NORM_EPSILON)).clamp(max=1.0).float()
        for grad, scale in zip(self._grads, factor.unbind(0), strict=True):
            grad.mul_(scale)
        return before, before * factor

    @torch.no_grad()
    def step(self, rates: Sequence[float], active: Sequence[bool]) -> None:
        """Update the active members, each with its own learning rate."""
        for member, (rate, on) in enumerate(zip(rates, active, strict=True)):
            if on:
                self._update(member, rate)

    def load_moments(self, moments: Moments) -> None:
        """Continue from these."""
        for name, values in self.moments.items():
            values.copy_(moments[name])

    def _update(self, member: int, rate: float) -> None:
        config, row, grad = self._config, self._rows[member], self._grads[member]
        step = self.moments["step"][member]
        if isinstance(config, SGDConfig):
            step += 1
            buffer = self.moments["momentum_buffer"][member] if config.momentum else None
            sgd(
                [row], [grad], [buffer], fused=True, lr=rate, momentum=config.momentum,
                weight_decay=config.weight_decay, dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip
            return
        beta1, beta2 = config.betas
        adam(
            [row], [grad], [self.moments["exp_avg"][member]], [self.moments["exp_avg_sq"][member]], [], [step],
            fused=True, lr=rate, beta1=beta1, beta2=beta2, eps=_ADAM_EPSILON, weight_decay=config.weight_decay,
            decoupled_weight_decay=isinstance(config, AdamWConfig), amsgrad=False, maximize=False,
        )  # fmt: skip


class WeightAverage:
    """An exponential moving average of an arena, each member's row by itself; with no decay it is the arena itself.

    Polyak averaging: w <- d w + (1 - d) weights after each step, with d = min(decay, (1 + t) / (10 + t)), so that the
    first steps are soon forgotten. It takes noise out of what is measured and kept, and changes no training step.
    """

    def __init__(self, arena: Arena, decay: float | None) -> None:
        self._arena = arena
        self._decay = decay
        self._average = arena.values.detach().clone() if decay is not None else None

    def update(self, step: int) -> None:
        """Take in the weights after the 0-based step."""
        if self._average is not None and self._decay is not None:
            decay = min(self._decay, (1 + step) / (10 + step))
            for average, weights in zip(self._average, self._arena.values.detach(), strict=True):
                average.lerp_(weights, 1 - decay)  # row by row: a kernel's tail depends on its size

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the arena hold the average meanwhile."""
        if self._average is None:
            yield
            return
        values = self._arena.values.detach()
        weights = values.clone()
        values.copy_(self._average)
        try:
            yield
        finally:
            values.copy_(weights)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: (E, P), or nothing."""
        return {} if self._average is None else {"average": self._average}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what a checkpoint kept."""
        if self._average is not None:
            self._average.copy_(tensors["average"])
