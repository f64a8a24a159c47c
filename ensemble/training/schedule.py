"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore."""

import math

from ensemble.config.train import ConstantConfig, CosineConfig, LinearConfig, TrainConfig


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
