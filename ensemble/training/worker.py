"""The Ray Train skin: the same loop in N workers, each with its slice of every batch, gradients averaged by DDP.

`train_with_workers` runs inside a Tune trial, holds no CPU itself and drives the group; `WorkerContext` is what the
loop sees in each worker. Nothing here decides anything about training.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import FailureConfig, RunConfig  # what ray.train gives when V2 is on
from ray.tune.integration.ray_train import TuneReportCallback
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ensemble.data.loading import resident
from ensemble.schema import Progress
from ensemble.training.context import Paused, Question
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, run_trial

# `ray.train.report` waits for the controller, which polls the workers that often; more frequent reports would wait.
_SECONDS_BETWEEN_REPORTS = 2.0
_STOP, _GO, _PAUSE = 0, 1, 2
_CONTROLLER_FAILURES = 2  # Ray's default is to retry without end, which shows as RUNNING


class WorkerContext:
    """One worker of a group, in the words of `training.context.Context`."""

    def __init__(self, ask: Question) -> None:
        context = ray.train.get_context()
        self._ask = ask
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._reported = 0.0

    def prepare(self, module: nn.Module) -> nn.Module:
        """Wrap the packed module: gradients are averaged over the workers and stay where the arena has them."""
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            module, device_ids=devices, gradient_as_bucket_view=False, broadcast_buffers=False
        )

    def total(self, values: Tensor) -> Tensor:
        """Return `values` summed over the workers."""
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed

    def report(self, progress: Progress) -> None:
        """Report to the driver, seldom: every worker takes the same decision, since a report is collective."""
        now = time.monotonic()
        due = now - self._reported >= _SECONDS_BETWEEN_REPORTS or progress.get("status") != "running"
        if self._agreed(due):
            self._reported = now
            ray.train.report(dict(progress))

    def may_continue(self, step: int, values: Mapping[int, float]) -> bool:
        """Return rank 0's answer on every worker; all workers are paused together."""
        answer = _GO
        if self.rank == 0:
            try:
                answer = _GO if self._ask(step, values) else _STOP
            except Paused:
                answer = _PAUSE
        answer = self._of_rank_0(answer)
        if answer == _PAUSE:
            raise Paused
        return answer == _GO

    def _agreed(self, answer: bool) -> bool:
        return bool(self._of_rank_0(int(answer)))

    def _of_rank_0(self, answer: int) -> int:
        """Return rank 0's answer on every worker."""
        flag = torch.tensor([answer], dtype=torch.uint8, device=self.device)
        torch.distributed.broadcast(flag, src=0)
        return int(flag.item())


def train_with_workers(
    trial: Trial, references: Mapping[str, Any], bundle: Mapping[str, float], storage: Path, ask: Question
) -> None:
    """Run a trial in a group of `resources.workers` Ray Train workers, each holding `bundle`.

    `references` are `main` and `named` data sets in the object store; they travel inside a dict, so nothing is copied.
    Raises Ray's WorkerGroupError when a worker fails; the group has ended by then.
    """
    gpu = bool(bundle.get("GPU"))
    trainer = TorchTrainer(
        _work,
        train_loop_config={"trial": trial, "references": references, "ask": ask},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=trial.experiment.resources.workers, use_gpu=gpu, resources_per_worker=dict(bundle)
        ),
        run_config=RunConfig(  # type: ignore[arg-type]  # Ray's stubs name the older one
            # A name that was used before would return that run's result and train nothing.
            name=f"{trial.config_hash}-{trial.seeds[0]}-{time.time_ns()}",
            storage_path=str(storage),
            callbacks=[TuneReportCallback()],  # type: ignore[no-untyped-call]
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=_CONTROLLER_FAILURES),
        ),
    )
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    trainer.fit()


def _work(config: Mapping[str, Any]) -> None:
    """Be one worker of the group."""
    references = config["references"]
    named = {name: resident(ref) for name, ref in references["named"].items()}
    with suppress(Paused):  # the driver knows: it is the one that asked
        run_trial(config["trial"], TrialData(resident(references["main"]), named), WorkerContext(config["ask"]))
