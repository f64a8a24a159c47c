"""What Ray Tune calls for one trial: inline in its own process, or by driving a group of Ray Train workers.

Both ends here are thin: the trial itself is `training.trial.run_trial`, which knows no Ray. A trial that raises leaves
its rows `failed` first and then raises on, so that Tune counts it and the other trials go on.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.train.v2.api.exceptions import WorkerGroupError

from ensemble.data.loading import resident
from ensemble.schema import MemberRole, Progress
from ensemble.study.cluster import Needs
from ensemble.study.judge_actor import question
from ensemble.study.tuning import read, rows
from ensemble.training.context import InlineContext, Paused
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, record_failure, run_trial
from ensemble.training.worker import train_with_workers

SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class Shared:
    """What all trials of a study are given. `main` and `named` are references into Ray's object store."""

    role: MemberRole
    run: Path
    actor: Any  # called at each rung: does the trial go on?
    main: Any
    named: Mapping[str, Any]
    fingerprint: str
    needs: Needs
    storage: Path  # of Ray Train's own files


def train_inline(config: Mapping[str, Any], shared: Shared) -> None:
    """Train a trial in this process."""
    trial = read(config, shared.role, shared.run)
    torch.set_num_threads(trial.experiment.resources.threads)
    device = "cuda" if shared.needs.gpus else "cpu"
    report = every(SECONDS_BETWEEN_REPORTS, tune.report)
    context = InlineContext(device, report, question(shared.actor, trial.number))
    with suppress(Paused), _recorded(trial, shared.fingerprint):
        named = {name: resident(ref) for name, ref in shared.named.items()}
        run_trial(trial, TrialData(resident(shared.main), named), context)
    _report_end(trial)


def train_distributed(config: Mapping[str, Any], shared: Shared) -> None:
    """Train a trial with a group of Ray Train workers."""
    trial = read(config, shared.role, shared.run)
    with _recorded(trial, shared.fingerprint):
        if trial.pending:
            references = {"main": shared.main, "named": dict(shared.named)}
            ask = question(shared.actor, trial.number)
            train_with_workers(trial, references, shared.needs.bundle, shared.storage, ask)
    _report_end(trial)


def every(seconds: float, report: Callable[[dict[str, Any]], None]) -> Callable[[Progress], None]:
    """Return a reporter that passes on at most one progress in so many seconds, and always the last step's."""
    last = -seconds

    def passing(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds or progress.get("status") != "running":
            last = now
            report(dict(progress))

    return passing


def _report_end(trial: Trial) -> None:
    """Tell Tune that all is written, whatever was reported on the way."""
    steps = trial.experiment.train.steps
    reached = max((row["steps"] for row in rows(trial, "steps")), default=0)
    end = {"status": "paused"} if trial.pending else {"status": "completed", "step": reached}
    tune.report({"steps": steps, **end})


@contextmanager
def _recorded(trial: Trial, fingerprint: str) -> Iterator[None]:
    try:
        yield
    except Paused:
        raise
    except WorkerGroupError as error:
        record_failure(trial, next(iter(error.worker_failures.values()), error), fingerprint)
        raise
    except Exception as error:
        record_failure(trial, error, fingerprint)
        raise
