"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore.

The exception is the plateau, which depends on a member's losses; its three numbers are part of the member's record.
"""

import math
from dataclasses import dataclass

from ensemble.config.train import ConstantConfig, CosineConfig, LinearConfig, PlateauConfig, TrainConfig


@dataclass(frozen=True)
class Plateau:
    """The state of a member's plateau schedule: the factor of its rate, the loss to beat, validations since then."""

    scale: float = 1.0
    best: float = math.inf
    waited: int = 0

    def after(self, schedule: PlateauConfig, loss: float) -> "Plateau":
        """Take in a validation loss, as torch.optim.lr_scheduler.ReduceLROnPlateau does (mode min, threshold rel)."""
        if loss < self.best * (1 - schedule.threshold):
            return Plateau(self.scale, loss)
        if self.waited == schedule.patience:
            return Plateau(self.scale * schedule.factor, self.best)
        return Plateau(self.scale, self.best, self.waited + 1)


def learning_rate(train: TrainConfig, step: int, epoch_steps: int) -> float:
    """Return the rate of the 0-based optimizer step `step`.

    `r` is the share of the run that is over: step / steps, or epoch / epochs when the schedule moves per epoch (then
    `lr_end` itself is never reached, as in NeRD's trainer). A warm-up multiplies by (step + 1) / warmup_steps.
    """
    schedule = train.schedule
    if schedule.per == "epoch":
        r = (step // epoch_steps) / math.ceil(train.steps / epoch_steps)
    else:
        r = step / train.steps
    warmup = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    return warmup * _decayed(schedule, train.optimizer.lr, r)


def _decayed(schedule: ConstantConfig | LinearConfig | CosineConfig, lr: float, r: float) -> float:
    if isinstance(schedule, LinearConfig):
        return lr * (1 - r) + schedule.lr_end * r
    if isinstance(schedule, CosineConfig):
        return schedule.lr_end + 0.5 * (1 + math.cos(math.pi * r)) * (lr - schedule.lr_end)
    return lr
