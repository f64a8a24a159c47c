"""What Ray Tune calls for one trial: inline in its own process, or by driving a group of Ray Train workers.

Both functions are thin: the trial itself is `training.trial.run_trial`, which uses no Ray. When a trial raises, its
members get rows with status `failed`; the error is raised again, so that Tune counts it and the other trials continue.
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
from ensemble.study.tuning import member_rows, trial_from_config
from ensemble.training.context import InlineContext, Paused
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, record_failure, run_trial
from ensemble.training.worker import train_with_workers

SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class SharedInputs:
    """The inputs that all trials of a Tune run share. `main` and `named` are references into Ray's object store."""

    role: MemberRole
    run: Path
    actor: Any  # called at each rung: does the trial continue?
    main: Any
    named: Mapping[str, Any]
    fingerprint: str
    needs: Needs
    storage: Path  # of Ray Train's own files


def train_inline(config: Mapping[str, Any], shared: SharedInputs) -> None:
    """Train a trial in this process."""
    trial = trial_from_config(config, shared.role, shared.run)
    torch.set_num_threads(trial.experiment.resources.threads)
    device = "cuda" if shared.needs.gpus else "cpu"
    report = rate_limited(SECONDS_BETWEEN_REPORTS, tune.report)
    context = InlineContext(device, report, question(shared.actor, trial.number))
    with suppress(Paused), _failure_recorded(trial, shared.fingerprint):
        named = {name: resident(ref) for name, ref in shared.named.items()}
        run_trial(trial, TrialData(resident(shared.main), named), context)
    _report_end(trial)


def train_distributed(config: Mapping[str, Any], shared: SharedInputs) -> None:
    """Train a trial with a group of Ray Train workers."""
    trial = trial_from_config(config, shared.role, shared.run)
    with _failure_recorded(trial, shared.fingerprint):
        if trial.pending:
            references = {"main": shared.main, "named": dict(shared.named)}
            callback = question(shared.actor, trial.number)
            train_with_workers(trial, references, shared.needs.bundle, shared.storage, callback)
    _report_end(trial)


def rate_limited(seconds: float, report: Callable[[dict[str, Any]], None]) -> Callable[[Progress], None]:
    """Return a function that reports progress at most once in so many seconds, and always that of the last step."""
    # A report blocks until Tune has taken it, so one per step would slow training down.
    last = -seconds

    def report_if_due(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds or progress.get("status") != "running":
            last = now
            report(dict(progress))

    return report_if_due


def _report_end(trial: Trial) -> None:
    """Report the final state to Tune."""
    # From the rows: members that ended in an earlier run report no progress in this one.
    steps = trial.experiment.train.steps
    reached = max((row["steps"] for row in member_rows(trial, "steps")), default=0)
    end = {"status": "paused"} if trial.pending else {"status": "completed", "step": reached}
    tune.report({"steps": steps, **end})


@contextmanager
def _failure_recorded(trial: Trial, fingerprint: str) -> Iterator[None]:
    try:
        yield
    except Paused:
        raise
    except WorkerGroupError as error:
        # The error of a worker has the cause; that of the group only says that one failed.
        record_failure(trial, next(iter(error.worker_failures.values()), error), fingerprint)
        raise
    except Exception as error:
        record_failure(trial, error, fingerprint)
        raise
