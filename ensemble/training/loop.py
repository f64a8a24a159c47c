"""The training loop of one pack: step, validate, save. It knows no Ray, and writes no files but its members'."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ensemble.config import Experiment
from ensemble.config.train import PlateauConfig
from ensemble.run_directory import MemberDirectory
from ensemble.schema import (
    GRADIENT_NORM_AFTER,
    GRADIENT_NORM_BEFORE,
    LEARNING_RATE,
    TRAIN_LOSS,
    VALIDATION_LOSS,
    VALIDATION_ROLLOUT,
)
from ensemble.training.batches import Batches
from ensemble.training.checkpoint import Checkpoint, is_whole, layout_json, save
from ensemble.training.context import Context
from ensemble.training.loggers import MetricLogger
from ensemble.training.members import Best, Curve, Member
from ensemble.training.optimizer import WeightAverage
from ensemble.training.pack import Pack, StepResult
from ensemble.training.schedule import learning_rate
from ensemble.training.setup import Measure

_CHECKPOINT_SECONDS = 30.0


@dataclass
class Outputs:
    """Where one member's numbers go."""

    directory: MemberDirectory
    curve: Curve
    loggers: Sequence[MetricLogger]


class Trainer:
    """Trains a pack up to a given step, as often as asked.

    Args:
        experiment: the configuration.
        pack: the members; all at the same step.
        batches: their training windows.
        measures: `validation` first, then the named validation sets.
        outputs: one a member, in the pack's order.
        identity: what a checkpoint must agree with (config_hash, data_fingerprint).
    """

    def __init__(
        self,
        experiment: Experiment,
        pack: Pack,
        batches: Batches,
        measures: Sequence[Measure],
        outputs: Sequence[Outputs],
        identity: dict[str, str],
        context: Context,
    ) -> None:
        self.pack = pack
        self.outputs = outputs
        self._train = experiment.train
        self._batches = batches
        self._measures = measures
        self._identity = identity
        self._context = context
        self._epoch_steps = experiment.train.epoch_steps or batches.epoch_steps
        self._since: list[StepResult] = []  # steps since the last validation
        self._clock = self._saved = time.perf_counter()
        self._best = {name: pack.arena.values.detach().clone() for name in ("best_loss", "best_rollout")}
        self._average = WeightAverage(pack.arena, experiment.train.ema)

    @property
    def step(self) -> int:
        """Steps that the running members have taken."""
        return max((member.step for member in self.pack.members if member.active), default=self._train.steps)

    @property
    def running(self) -> bool:
        """Whether any member still has steps to take."""
        return any(member.active for member in self.pack.members)

    @property
    def best(self) -> dict[str, Tensor]:
        """The best weights of each member so far, `best_loss` and `best_rollout`, each (E, P)."""
        return self._best

    @property
    def validate_every(self) -> int:
        """Steps between two validations, which are the rungs of a trial."""
        return self._train.validation_interval

    def restore(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Continue from one checkpoint a member, all of the same step."""
        stacked = {name: torch.cat([c.tensors[name] for c in checkpoints]) for name in checkpoints[0].tensors}
        self.pack.arena.values.copy_(stacked.pop("arena"))
        for name in self._best:
            self._best[name].copy_(stacked.pop(name))
        self._average.restore(stacked)
        self.pack.optimizer.load_moments(stacked)
        self.pack.members[:] = [Member.from_json(c.state["member"]) for c in checkpoints]

    def advance(self, until: int) -> None:
        """Train the running members up to step `until`, and validate there."""
        self._clock = time.perf_counter()
        for step in range(self.step, until):
            rates = [self._rate(step, member) for member in self.pack.members]
            self._since.append(self.pack.step(self._batches.at(step), rates))
            self._average.update(step)
            if not self.running:
                break
        self.validate(until)
        if self._checkpoint_is_due(until):
            self.save()
            self._saved = time.perf_counter()

    def _checkpoint_is_due(self, step: int) -> bool:
        """Return whether one is due: at the configured steps, by default at the first validation after 30 seconds."""
        if self._train.checkpoint_every is not None:
            return step % self._train.checkpoint_every == 0
        return time.perf_counter() - self._saved > _CHECKPOINT_SECONDS

    def _rate(self, step: int, member: Member) -> float:
        return learning_rate(self._train, step, self._epoch_steps) * member.plateau.scale

    def validate(self, step: int) -> None:
        """Measure every member, keep the best weights, apply early stopping, write the curves."""
        with self._average.applied():
            self._validate(step)
        self._since.clear()

    def _validate(self, step: int) -> None:
        measured = [measure(self.pack) for measure in self._measures]
        now = time.perf_counter()
        share = (now - self._clock) / max(1, sum(member.active for member in self.pack.members))
        self._clock = now
        for index, member in enumerate(self.pack.members):
            trained = self._trained(index, step)
            if not member.active:
                continue
            member.seconds += share
            metrics = {name: value for split in measured for name, value in split[index].items()}
            self._record(index, member, metrics)
            member.last = {**trained, **metrics}
            self._write(index, step, member.last)

    def _trained(self, index: int, step: int) -> dict[str, float]:
        """Summarize the steps since the last validation: mean loss and norms, the newest rate."""
        count = len(self._since)
        if not count:
            return {}
        return {
            TRAIN_LOSS: sum(result.loss[index] for result in self._since) / count,
            LEARNING_RATE: self._rate(step - 1, self.pack.members[index]),
            GRADIENT_NORM_BEFORE: sum(result.norm_before[index] for result in self._since) / count,
            GRADIENT_NORM_AFTER: sum(result.norm_after[index] for result in self._since) / count,
        }

    def _record(self, index: int, member: Member, metrics: dict[str, float]) -> None:
        """Keep the best weights; freeze a member whose validation is not a number or has not improved for long."""
        for name, metric in (("best_loss", VALIDATION_LOSS), ("best_rollout", VALIDATION_ROLLOUT)):
            best: Best = getattr(member, name)
            if metric in metrics and best.improved_by(metrics[metric]):
                setattr(member, name, Best(metrics[metric], member.step))
                self._best[name][index].copy_(self.pack.arena.values[index].detach())
        member.waited = 0 if member.best_loss.step == member.step else member.waited + 1
        if isinstance(self._train.schedule, PlateauConfig):
            member.plateau = member.plateau.after(self._train.schedule, metrics[VALIDATION_LOSS])
        if metrics[VALIDATION_LOSS] - metrics[VALIDATION_LOSS] != 0.0:
            member.diverge(member.step, "the validation loss")
        elif self._train.patience is not None and member.waited >= self._train.patience:
            member.state = "stopped"

    def _write(self, index: int, step: int, metrics: dict[str, float]) -> None:
        self.outputs[index].curve.add(step, metrics)
        for logger in self.outputs[index].loggers:
            logger.log(self.pack.members[index].seed, step, metrics)

    def save(self) -> None:
        """Write a checkpoint for every member that has not diverged (rank 0)."""
        if self._context.rank:
            return
        kept = {**self._best, **self._average.tensors, **self.pack.optimizer.moments}
        tensors = {"arena": self.pack.arena.values.detach(), **kept}
        for index, (member, output) in enumerate(zip(self.pack.members, self.outputs, strict=True)):
            if member.state == "diverged" or is_whole(output.directory.checkpoints, member.step):
                # One that stopped early was saved when it stopped.
                continue
            state = {**self._identity, "layout": layout_json(self.pack.arena.layout), "member": member.to_json()}
            rows = {name: tensor[index : index + 1].cpu() for name, tensor in tensors.items()}
            save(output.directory.checkpoints, member.step, Checkpoint(rows, state, output.curve.table()))
