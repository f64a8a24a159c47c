"""One optimizer for a pack, with a parameter group a member.

Each group holds one tensor, the member's row of the arena, with the member's own rate, decay and moments, and runs
torch's fused kernel on it: a member's update cannot depend on its neighbours. A frozen member's group is skipped.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ensemble.config.train import AdamConfig, AdamWConfig, SGDConfig
from ensemble.training.arena import Arena

Moments = dict[str, Tensor]  # name: (E, P), and "step": (E,)

_NORM_EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_


class MemberOptimizer:
    """Adam, AdamW or SGD over the rows of an arena."""

    def __init__(self, arena: Arena, config: AdamConfig | AdamWConfig | SGDConfig) -> None:
        self._arena = arena
        self._rows = [nn.Parameter(row) for row in arena.values.unbind(0)]
        for row, grad in zip(self._rows, arena.grad.unbind(0), strict=True):
            row.grad = grad
        self._grads = list(arena.grad.unbind(0))
        self._optimizer = _create(config, [{"params": [row]} for row in self._rows])
        self._optimizer.zero_grad = _refuse_zero_grad  # type: ignore[method-assign]

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

    def step(self, rates: Sequence[float], active: Sequence[bool]) -> None:
        """Update the active members, each with its own learning rate."""
        for group, row, grad, rate, on in zip(
            self._optimizer.param_groups, self._rows, self._grads, rates, active, strict=True
        ):
            group["lr"] = rate
            row.grad = grad if on else None
        self._optimizer.step()

    def moments(self) -> Moments:
        """Return copies of the optimizer's state: each name (E, P), and `step` (E,); zeros before the first step."""
        names = _STATE_NAMES[type(self._optimizer)]
        state = {name: torch.zeros_like(self._arena.values) for name in names}
        state["step"] = torch.zeros(len(self._rows))
        for index, row in enumerate(self._rows):
            for name, value in self._optimizer.state.get(row, {}).items():
                if value is not None:
                    state[name][index] = value
        return state

    def load_moments(self, moments: Moments) -> None:
        """Continue from `moments`; a member whose step is 0 and whose moments are zero starts afresh."""
        for index, row in enumerate(self._rows):
            if not any(bool(value[index].any()) for value in moments.values()):
                continue
            self._optimizer.state[row] = {
                name: value[index].clone() for name, value in moments.items() if name != "step" or self._counts_steps
            }

    @property
    def _counts_steps(self) -> bool:
        return not isinstance(self._optimizer, torch.optim.SGD)


_STATE_NAMES: dict[type, tuple[str, ...]] = {
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}


def _create(config: AdamConfig | AdamWConfig | SGDConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if isinstance(config, SGDConfig):
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
        )
    kind = torch.optim.AdamW if isinstance(config, AdamWConfig) else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def _refuse_zero_grad(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("zero gradients with Arena.zero_grad(): the optimizer's would make the next step do nothing")
