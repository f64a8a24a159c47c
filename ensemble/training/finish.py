"""The end of a pack: the best weights of each member measured on the test split, and everything a member leaves."""

from collections.abc import Mapping
from typing import Any

import torch

from ensemble.config import Experiment
from ensemble.models.base import parameter_count
from ensemble.schema import VALIDATION_LOSS, VALIDATION_ROLLOUT, MemberRole, Status
from ensemble.store import write_table
from ensemble.training.context import Context
from ensemble.training.loop import Outputs, Trainer
from ensemble.training.members import Member
from ensemble.training.rows import member_row, write_member
from ensemble.training.setup import Setup
from ensemble.training.weights import save_model, save_row, weights_sha256

_STATUS: Mapping[str, Status] = {
    "running": "completed",
    "stopped": "completed",
    "pruned": "pruned",
    "diverged": "diverged",
}


def finish(
    experiment: Experiment,
    config_hash: str,
    role: MemberRole,
    trainer: Trainer,
    setup: Setup,
    data_fingerprint: str,
    context: Context,
) -> None:
    """Measure each member's best weights on the test split and write its files, the row last.

    The test metrics are those of the weights with the best validation loss; `best_rollout/test/..` are those of the
    weights with the best validation rollout. A member that was pruned has none.
    """
    # Measure
    pack = trainer.pack
    whole = [_STATUS[member.state] == "completed" for member in pack.members]
    last = pack.arena.values.detach().clone()
    tested = _test(trainer, setup) if any(whole) else [{} for _ in whole]

    # Write
    if context.rank == 0:
        examples = setup.examples(pack) if any(whole) else []
        for index, (member, output) in enumerate(zip(pack.members, trainer.outputs, strict=True)):
            facts = _facts(trainer, index, context, data_fingerprint)
            metrics = _metrics(member, output, tested[index] if whole[index] else {})
            row = member_row(experiment, config_hash, role, member, _STATUS[member.state], facts, metrics)
            if member.state != "diverged":
                _save(experiment, trainer, index, setup, row)
            if whole[index]:
                write_table(output.directory.rollouts_file, examples[index])
            for logger in output.loggers if whole[index] else ():
                logger.log(member.seed, member.step, {k: v for k, v in metrics.items() if k.startswith("test/")})
            write_member(output.directory, row, output.curve)
    pack.arena.values.data.copy_(last)


def _test(trainer: Trainer, setup: Setup) -> list[dict[str, float]]:
    """Measure both kinds of best weights of each member on the test split; leaves those of the best loss in place."""
    pack, best = trainer.pack, trainer.best
    rolled = any(member.has_rolled_out for member in pack.members)
    measured: list[dict[str, float]] = [{} for _ in pack.members]
    if rolled:
        pack.arena.values.data.copy_(best["best_rollout"])
        measured = setup.test(pack)
    tested = [
        {f"best_rollout/{name}": value for name, value in metrics.items() if member.has_rolled_out}
        for member, metrics in zip(pack.members, measured, strict=True)
    ]
    pack.arena.values.data.copy_(best["best_loss"])
    if not rolled or not torch.equal(best["best_rollout"], best["best_loss"]):
        measured = setup.test(pack)
    return [{**by_rollout, **by_loss} for by_rollout, by_loss in zip(tested, measured, strict=True)]


def _facts(trainer: Trainer, index: int, context: Context, data_fingerprint: str) -> dict[str, Any]:
    pack = trainer.pack
    return {
        "parameters": parameter_count(pack.module),
        "device": device_name(context.device),
        "world_size": context.world_size,
        "pack": len(pack.members),
        "weights_sha256": weights_sha256(trainer.best["best_loss"][index]),
        "data_fingerprint": data_fingerprint,
    }


def device_name(device: torch.device) -> str:
    """Return `cpu`, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _metrics(member: Member, output: Outputs, tested: Mapping[str, float]) -> dict[str, float]:
    """Collect a member's metrics: at its best validation loss, at its last validation, on the test split."""
    if member.state == "diverged":
        return {}
    best = output.curve.at(member.best_loss.step)
    metrics = {name: value for name, value in best.items() if not name.startswith("train/")}
    metrics |= {f"last/{n}": member.last[n] for n in (VALIDATION_LOSS, VALIDATION_ROLLOUT) if n in member.last}
    if member.has_rolled_out:
        metrics[f"best_rollout/{VALIDATION_ROLLOUT}"] = member.best_rollout.value
    return {**metrics, **tested}


def _save(experiment: Experiment, trainer: Trainer, index: int, setup: Setup, row: Mapping[str, Any]) -> None:
    directory, layout = trainer.outputs[index].directory, trainer.pack.arena.layout
    save_row(directory.weights, trainer.best["best_loss"][index], layout)
    if trainer.pack.members[index].has_rolled_out:
        save_row(directory.rollout_weights, trainer.best["best_rollout"][index], layout)
    identity = {name: row[name] for name in ("experiment", "config_hash", "seed", "weights_sha256", "data_fingerprint")}
    save_model(directory, experiment, setup.features, setup.normalization, layout, identity)
    for write in setup.companions:
        write(directory)
