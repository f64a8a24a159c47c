"""One trial: a configuration and some of its seeds, trained as one or more packs, each member leaving its row.

The packs of a trial advance rung by rung, so that the mean over all its seeds is known at each rung. Members that have
a row are skipped and members that have a checkpoint continue from it, so a trial may simply be run again.
"""

import ctypes
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ensemble.config import Experiment
from ensemble.errors import StorageError
from ensemble.models.base import Normalization, build
from ensemble.run_directory import MemberDirectory, RunDirectory, config_hash, member_id
from ensemble.schema import TRAIN_LOSS, VALIDATION_ACTION, VALIDATION_LOSS, VALIDATION_ROLLOUT, MemberRole
from ensemble.training.arena import layout_of
from ensemble.training.checkpoint import Checkpoint, load_newest, load_progress, lost_notice
from ensemble.training.context import Context, Paused
from ensemble.training.finish import finish
from ensemble.training.loggers import open_loggers
from ensemble.training.loop import Outputs, Trainer
from ensemble.training.members import Curve, Member
from ensemble.training.pack import Pack
from ensemble.training.pack_size import choose_pack
from ensemble.training.rows import member_row, write_failed_member
from ensemble.training.setup import Setup, TrialData
from ensemble.training.tasks import set_up
from ensemble.training.weights import (
    InitialWeights,
    check_same_question,
    load_best,
    load_model_record,
    read_normalization,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """What is trained together."""

    experiment: Experiment
    seeds: tuple[int, ...]
    role: MemberRole
    run: Path
    number: int = 0  # of the trial in its search
    origin: str | None = None  # where `train.init_from` points, made absolute: workers have other directories

    @property
    def config_hash(self) -> str:
        """Identity of the configuration."""
        return config_hash(self.experiment)

    def directory(self, seed: int) -> MemberDirectory:
        """Where one member's files lie."""
        return RunDirectory(self.run).member(member_id(self.config_hash, seed))

    @property
    def pending(self) -> tuple[int, ...]:
        """The seeds without a row."""
        return tuple(seed for seed in self.seeds if not self.directory(seed).row_file.is_file())


def run_trial(trial: Trial, data: TrialData, context: Context) -> None:
    """Train every member of the trial that has not finished, and write what each leaves (rank 0).

    Raises Paused, with every member saved, when the run is interrupted.
    """
    torch.set_num_threads(trial.experiment.resources.threads)
    keep_freed_memory()
    pending = trial.pending
    if not pending:
        return
    setup = set_up(trial.experiment, data, context, _kept_statistics(trial))
    with ExitStack() as loggers:
        trainers = _trainers(trial, pending, data, setup, context, loggers)
        try:
            _advance_by_rungs(trial, trainers, context)
        except Paused:
            for trainer in trainers:
                trainer.save()
            raise
        for trainer in trainers:
            finish(trial.experiment, trial.config_hash, trial.role, trainer, setup, data.main.fingerprint, context)


def _advance_by_rungs(trial: Trial, trainers: Sequence[Trainer], context: Context) -> None:
    """Advance all packs rung by rung, until the end or until the trial is asked to stop."""
    steps = trial.experiment.train.steps
    every = trainers[0].validate_every
    for rung in chain(range(every, steps, every), (steps,)):
        here = [trainer for trainer in trainers if trainer.running and trainer.step <= rung]
        for trainer in here:
            # One that was restored at this rung may have been killed before it asked whether to continue.
            if trainer.step < rung:
                trainer.advance(rung)
        if not here:
            continue
        context.report(_progress(trainers, rung, steps))
        if rung < steps and not context.may_continue(rung, _objectives(trial.experiment.search.metric, trainers)):
            _prune(trainers)
            return


def _objectives(metric: str, trainers: Sequence[Trainer]) -> dict[int, float]:
    """Return what a search compares, by seed: NaN for a diverged member, the best value for one that stopped early."""
    return {m.seed: _objective(m, metric) for trainer in trainers for m in trainer.pack.members}


def _objective(member: Member, metric: str) -> float:
    if member.state == "diverged":
        return float("nan")
    best = {VALIDATION_LOSS: member.best_loss.value, VALIDATION_ROLLOUT: member.best_rollout.value}
    if member.state == "stopped" and metric in best:
        return best[metric]
    return member.last.get(metric, float("nan"))


def _prune(trainers: Sequence[Trainer]) -> None:
    for member in (member for trainer in trainers for member in trainer.pack.members):
        if member.active:
            member.state = "pruned"


def _progress(trainers: Sequence[Trainer], rung: int, steps: int) -> dict[str, float | int | str]:
    """Summarize the trial for the driver: means and deviations over its members that are still numbers."""
    members = [member for trainer in trainers for member in trainer.pack.members]
    alive = [member for member in members if member.state != "diverged"]
    progress: dict[str, float | int | str] = {
        "step": rung,
        "steps": steps,
        "members": len(members),
        "diverged": len(members) - len(alive),
        "pack": len(trainers[0].pack.members),
        "seconds": sum(member.seconds for member in members),
        "status": "running" if rung < steps else "finishing",
    }
    for name in sorted(set(alive[0].last) if alive else ()):
        values = [member.last[name] for member in alive if name in member.last]
        progress[name] = float(np.mean(values))
        if name in (TRAIN_LOSS, VALIDATION_ROLLOUT, VALIDATION_ACTION) or name.endswith("/loss"):
            progress[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return progress


def _trainers(
    trial: Trial, pending: Sequence[int], data: TrialData, setup: Setup, context: Context, loggers: ExitStack
) -> list[Trainer]:
    """Compose packs from members at the same step."""
    # Checkpoints
    layout = layout_of(build(trial.experiment.model, setup.features, 1, setup.normalization, device="meta"))
    checkpoints = {seed: load_newest(trial.directory(seed).checkpoints, layout, context.device) for seed in pending}
    for seed, checkpoint in checkpoints.items():
        _check_identity(trial, seed, checkpoint, data.main.fingerprint)

    # Packs
    size = choose_pack(trial.experiment, setup, len(pending), context)
    trainers = []
    for seeds in _same_step(checkpoints):
        for start in range(0, len(seeds), size):
            chosen = seeds[start : start + size]
            trainers.append(_trainer(trial, chosen, [checkpoints[s] for s in chosen], data, setup, context, loggers))
    return trainers


def _same_step(checkpoints: Mapping[int, Checkpoint | None]) -> list[list[int]]:
    """Group seeds whose members are at the same step; members that stopped early go by their own step."""
    groups: dict[int, list[int]] = {}
    for seed, checkpoint in checkpoints.items():
        groups.setdefault(checkpoint.state["member"]["step"] if checkpoint else 0, []).append(seed)
    return [groups[step] for step in sorted(groups)]


def _check_identity(trial: Trial, seed: int, checkpoint: Checkpoint | None, fingerprint: str) -> None:
    if checkpoint is None:
        return
    for key, value in {"config_hash": trial.config_hash, "data_fingerprint": fingerprint}.items():
        if checkpoint.state[key] != value:
            raise StorageError(
                f"{trial.directory(seed).checkpoints}: {key} is {checkpoint.state[key]}, this run's is {value}; "
                "use --overwrite to start again"
            )


def _trainer(
    trial: Trial,
    seeds: Sequence[int],
    checkpoints: Sequence[Checkpoint | None],
    data: TrialData,
    setup: Setup,
    context: Context,
    loggers: ExitStack,
) -> Trainer:
    experiment = trial.experiment
    pack = setup.pack(experiment, seeds, context)
    if not any(checkpoints):
        _start_from(trial, pack, setup)
        for member in pack.members:
            member.notice = lost_notice(trial.directory(member.seed).checkpoints)
    batches = setup.batches(pack, experiment.train.batch_size, context)
    whole = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
    outputs = [
        _outputs(trial, seed, checkpoint, context, loggers) for seed, checkpoint in zip(seeds, checkpoints, strict=True)
    ]
    identity = {"config_hash": trial.config_hash, "data_fingerprint": data.main.fingerprint}
    trainer = Trainer(experiment, pack, batches, setup.validations, outputs, identity, context)
    if whole:
        trainer.restore(whole)
    return trainer


def _outputs(trial: Trial, seed: int, checkpoint: Checkpoint | None, context: Context, loggers: ExitStack) -> Outputs:
    directory = trial.directory(seed)
    curve = Curve(trial.config_hash, seed, trial.role, checkpoint.curves if checkpoint else None)
    if context.rank:
        return Outputs(directory, curve, ())
    directory.path.mkdir(parents=True, exist_ok=True)
    step = checkpoint.state["member"]["step"] if checkpoint else None
    name = trial.experiment.experiment
    opened = open_loggers(trial.experiment.logging, directory.path, name, step, str(context.device))
    for logger in opened:
        loggers.callback(logger.close)
    return Outputs(directory, curve, opened)


def _kept_statistics(trial: Trial) -> Normalization | None:
    """Return the statistics that came with the initial weights, when they are to be kept."""
    train = trial.experiment.train
    if train.init_from is None or train.statistics == "recompute":
        return None
    record = load_model_record(InitialWeights.find(trial.origin or train.init_from).of(trial.seeds[0]))
    return read_normalization(record)


def _start_from(trial: Trial, pack: Pack, setup: Setup) -> None:
    """Replace the initial weights by those that `train.init_from` names."""
    if trial.experiment.train.init_from is None:
        return
    origin = InitialWeights.find(trial.origin or trial.experiment.train.init_from)
    for member in pack.members:
        check_same_question(origin.of(member.seed), setup.features, trial.experiment.model.model_dump())
    for index, member in enumerate(pack.members):
        row = load_best(origin.of(member.seed), pack.arena.layout)
        pack.arena.values.data[index].copy_(row)


def record_failure(trial: Trial, error: BaseException, data_fingerprint: str) -> None:
    """Leave a row `failed` for each member without one; the traceback goes to its `train.log`.

    Raises StorageError, after all members, where a row could not be written. What else is damaged or full is left out.
    """
    problems: list[StorageError] = []
    for seed in trial.pending:
        directory = trial.directory(seed)
        _log_error(directory, error)
        member, curves = _progress_of(directory, seed)
        member.error = _in_words(error, trial.experiment)
        facts = {"data_fingerprint": data_fingerprint, "parameters": None, "device": "", "world_size": None}
        row = member_row(trial.experiment, trial.config_hash, trial.role, member, "failed", facts, {})
        try:
            write_failed_member(directory, row, Curve(trial.config_hash, seed, trial.role, curves))
        except StorageError as problem:
            problems.append(problem)
    if problems:
        raise problems[0]


def _log_error(directory: MemberDirectory, error: BaseException) -> None:
    with suppress(OSError):  # the row, which says the error in short, counts for more than its log
        directory.path.mkdir(parents=True, exist_ok=True)
        with directory.log_file.open("a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)


def _progress_of(directory: MemberDirectory, seed: int) -> tuple[Member, pa.Table | None]:
    """Return the record and the curve of the newest whole checkpoint; those of step 0 where there is none."""
    try:
        found = load_progress(directory.checkpoints)
        return (Member.from_json(found[0]["member"]), found[1]) if found else (Member(seed), None)
    except (StorageError, OSError, KeyError, TypeError) as error:
        _log.warning("%s: %s", directory.checkpoints, error)
        return Member(seed), None


def _in_words(error: BaseException, experiment: Experiment) -> str:
    """Return an error as one line; memory that ran out by its name, with what to try."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        half = max(2, experiment.train.batch_size // 2)
        return f"out of memory (try train.batch_size={half} or a smaller model): {text}"
    return text


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; call once in a training process. Return whether it took effect.

    By default it maps and unmaps blocks above 32 MB one by one, and gives the top of the heap back after each backward
    pass, so that a step's large tensors fault in page by page every time: for a pack of three 2.7 M-parameter GPTs on a
    CPU a fifth of the step (830 against 690 ms a member).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
