"""Where a member's curves go in addition to its Parquet rows: a text log, TensorBoard, Weights & Biases, MLflow.

The loop calls `log` at each validation and `close` at the end; nothing reads these logs back. Tables, figures and the
resuming of a run read Parquet alone, so a tracker that fails is a warning, not a failed member.
"""

import importlib
import logging
import platform
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch.utils.tensorboard import SummaryWriter

from ensemble.config.experiment import LoggingConfig
from ensemble.errors import StorageError, UsageError
from ensemble.run_directory import MemberDirectory
from ensemble.store import read_json, write_json

logger = logging.getLogger(__name__)


class MetricLogger(Protocol):
    """Receives the metrics of one member."""

    def log(self, seed: int, step: int, metrics: Mapping[str, float]) -> None:
        """Record the member's metrics at an optimizer step."""

    def close(self) -> None:
        """Write out what is buffered; nothing is logged afterwards."""


def open_loggers(
    config: LoggingConfig, directory: Path, name: str, resume_step: int | None, device: str = "cpu"
) -> tuple[MetricLogger, ...]:
    """Open every logger that an experiment asks for, for one member.

    `directory` is `members/<id>` and gives the run's name; `name` is the experiment's. `resume_step` is the last step
    whose metrics are kept (that of the checkpoint), or None for a start from the beginning: what an earlier attempt
    logged after it is logged again and does not show twice. Raises UsageError for a missing extra or a tracker that
    refuses, StorageError for a directory that can't be written.
    """
    with ExitStack() as opened:  # a logger that can't be opened closes those before it
        loggers: list[MetricLogger] = []

        def add(log: MetricLogger) -> None:
            opened.callback(log.close)
            loggers.append(log)

        add(TextLogger(directory, resume_step, device))
        if config.tensorboard:
            add(TensorBoardLogger(directory, resume_step))
        if config.wandb is not None:
            add(WandbLogger(config.wandb, directory, name))
        if config.mlflow is not None:
            add(MlflowLogger(config.mlflow, directory, name))
        opened.pop_all()
    return tuple(loggers)


class TextLogger:
    """`train.log`: for `tail -f`, one aligned line a call, appended over restarts.

    Errors of single state entries and single rollout steps (`.../q0`, `...@10`) are left to the curves.
    """

    def __init__(self, directory: Path, resume_step: int | None, device: str = "cpu") -> None:
        self._path = MemberDirectory(directory).log_file
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)  # flushed at each line
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error
        self._write(_header(device) if resume_step is None else f"{_header(device)}  resumed after step {resume_step}")

    def log(self, seed: int, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line: time, seed, step and the overall metrics."""
        shown = [
            f"{name} {value:<11.5g}" for name, value in metrics.items() if name.count("/") == 1 and "@" not in name
        ]
        self._write("  ".join([_now(), f"seed {seed:<4d}", f"step {step:>8d}", *shown]).rstrip())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: str) -> None:
        try:
            self._file.write(line + "\n")
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _header(device: str) -> str:
    versions = "  ".join(f"{package} {_version(package)}" for package in ("ensemble", "torch", "ray", "numpy"))
    python = platform.python_version()
    return f"{_now()}  # device {device}  threads {torch.get_num_threads()}  python {python}  {versions}"


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


class TensorBoardLogger:
    """Event files in `members/<id>/tensorboard`.

    A restart opens a further event file that purges the steps after `resume_step`, those of no checkpoint, so that
    TensorBoard shows each step once.
    """

    def __init__(self, directory: Path, resume_step: int | None) -> None:
        first = 0 if resume_step is None else resume_step + 1
        try:
            self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=first)
        except OSError as error:
            raise StorageError(f"{directory / 'tensorboard'}: {error.strerror}") from error

    def log(self, seed: int, step: int, metrics: Mapping[str, float]) -> None:
        """Write one scalar a metric, and flush: a kill loses nothing that was logged."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandbLogger:
    """A Weights & Biases run per member, grouped by experiment, with files in `members/<id>/wandb`.

    Signing in and WANDB_MODE are the environment's affair; nothing of it, of git, arguments or machine is recorded.
    A restart continues the run by its id, and the server takes no step twice.
    """

    def __init__(self, project: str, directory: Path, name: str) -> None:
        wandb = _extra("wandb", "wandb")
        # One process trains a whole pack, so runs live side by side instead of replacing each other.
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        try:
            self._run = wandb.init(
                project=project,
                group=name,
                name=directory.name,
                id=_tracking_id(directory, "wandb") or _keep_tracking_id(directory, "wandb", uuid.uuid4().hex[:12]),
                dir=str(directory),
                resume="allow",
                reinit="create_new",
                settings=settings,
            )
        except wandb.Error as error:
            raise UsageError(f"logging.wandb: {project}: {error} (WANDB_MODE=offline needs no account)") from error

    def log(self, seed: int, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of one step."""
        self._run.log({**metrics, "seed": seed}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MlflowLogger:
    """An MLflow run per member, in the experiment's name, at a tracking server or `sqlite:///path/to/mlflow.db`.

    A restart continues the run and skips the steps that it holds already. MLflow allows fewer characters in a name:
    `test/rollout_rmse@10` becomes `test/rollout_rmse_10`.
    """

    def __init__(self, uri: str, directory: Path, name: str) -> None:
        _extra("mlflow", "mlflow")
        client, entities, exceptions = (
            importlib.import_module(f"mlflow.{part}") for part in ("tracking", "entities", "exceptions")
        )
        self._metric, self._error = entities.Metric, exceptions.MlflowException
        self._known: dict[str, int] = {}  # metric: last step that the run holds
        self._open = True
        try:
            self._client = client.MlflowClient(tracking_uri=uri)
            self._run_id = _tracking_id(directory, "mlflow") or _keep_tracking_id(
                directory, "mlflow", self._create(name, directory.name)
            )
            self._client.update_run(self._run_id, status="RUNNING")
        except self._error as error:
            raise UsageError(f"logging.mlflow: {uri}: {str(error).splitlines()[0]}") from error

    def _create(self, experiment: str, run: str) -> str:
        return str(self._client.create_run(self._experiment(experiment), run_name=run).info.run_id)

    def _experiment(self, name: str) -> str:
        """Return the id of the experiment, which another member may be creating at this moment."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except self._error:
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, seed: int, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of one step; the first failure ends the sending, with a warning."""
        if not self._open:
            return
        now = int(time.time() * 1000)  # ms, MLflow's unit
        named = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in metrics.items()}
        try:
            fresh = [self._metric(name, value, now, step) for name, value in named.items() if step > self._last(name)]
            self._client.log_batch(self._run_id, metrics=fresh)
        except self._error as error:
            self._open = False
            logger.warning("MLflow run %s of seed %d gets no more metrics: %s", self._run_id, seed, error)

    def _last(self, name: str) -> int:
        if name not in self._known:
            history = self._client.get_metric_history(self._run_id, name)
            self._known[name] = max((entry.step for entry in history), default=-1)
        return self._known[name]

    def close(self) -> None:
        """Mark the run as finished."""
        if self._open:
            try:
                self._client.set_terminated(self._run_id)
            except self._error as error:
                logger.warning("MLflow run %s could not be closed: %s", self._run_id, error)


def _extra(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"logging.{extra} needs the extra `{extra}`: pip install 'ensemble[{extra}]'") from error


def _tracking_id(directory: Path, tracker: str) -> str | None:
    """Return the id of the run that an earlier attempt at this member opened."""
    file = MemberDirectory(directory).tracking_file
    ids: dict[str, Any] = read_json(file) if file.exists() else {}
    return ids.get(tracker)


def _keep_tracking_id(directory: Path, tracker: str, run: str) -> str:
    file = MemberDirectory(directory).tracking_file
    directory.mkdir(parents=True, exist_ok=True)
    write_json(file, {**(read_json(file) if file.exists() else {}), tracker: run})
    return run
