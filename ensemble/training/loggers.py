"""Where a member's curves go in addition to its Parquet rows: a text log, TensorBoard, Weights & Biases, MLflow.

The loop calls `log` at each validation and `close` at the end; nothing reads these logs back. Tables, figures and the
resuming of a run read Parquet alone, so a tracker that fails, at whatever and in whatever way, is a warning in the log
and a notice of the run, not a failed member (`Tracker`). `prepare_trackers` is called once before the trials.
"""

import importlib
import logging
import os
import platform
import re
import time
import uuid
from collections.abc import Callable, Mapping
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
from ensemble.schema import Say
from ensemble.store import read_json, write_json
from ensemble.text import first_line, missing_extra

logger = logging.getLogger(__name__)

_SECONDS_TO_OPEN, _SECONDS_TO_CLOSE = 20.0, 60.0  # that Weights & Biases gets; its own are 90 and for ever
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


_LONGEST = 300  # characters of a message that is not ours
# Servers that did not answer, and what was said of it: the other members of this process do not wait for them again.
_silent: dict[str, str] = {}


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
    logged after it is logged again and does not show twice. Raises StorageError for a directory that can't be written.
    """
    log = TextLogger(directory, resume_step, device)
    opening: dict[str, Callable[[], MetricLogger]] = {}
    if config.tensorboard:
        opening["tensorboard"] = lambda: TensorBoardLogger(directory, resume_step)
    if (project := config.wandb) is not None:
        opening["wandb"] = lambda: WandbLogger(project, directory, name)
    if (uri := config.mlflow) is not None:
        opening["mlflow"] = lambda: MlflowLogger(uri, directory, name)
    servers = {"wandb": f"wandb {project}"} | ({"mlflow": uri} if uri is not None and uri.startswith("http") else {})
    trackers = [Tracker(each, open_, directory, log.note, servers.get(each)) for each, open_ in opening.items()]
    return (log, *trackers)


def prepare_trackers(config: LoggingConfig, name: str, say: Say) -> None:
    """Make what the members of a run share, before any of them starts: MLflow's tables and its experiment.

    Two trials that make the tables of a new database at once leave it half made. A tracker that refuses, or a server
    that does not answer, is said; the run goes on without it.
    """
    if (uri := config.mlflow) is None:
        return
    error = _failure_of(lambda: MlflowClient(uri).experiment(name))
    if error is not None:
        say(f"warning: logging.mlflow: {uri}: {first_line(error)[:_LONGEST]}; members train without it")


class Tracker:
    """A logger that fails no member: the first thing that it raises, at open, log or close, ends it with one warning.

    The warning goes to this process's log and to the member's `train.log`, and into its `tracking.json`, from where the
    report takes it as a notice of the run.
    """

    def __init__(
        self,
        name: str,
        open_: Callable[[], MetricLogger],
        directory: Path,
        note: Callable[[str], None],
        server: str | None = None,
    ) -> None:
        self._name, self._directory, self._note = name, directory, note
        self._tracker: MetricLogger | None = None
        if server is not None and server in _silent:
            self._lose(_silent[server])
            return
        said = self._guarded(lambda: self._open(open_), "is not opened")
        if server is not None and said is not None:
            _silent[server] = said

    def _open(self, open_: Callable[[], MetricLogger]) -> None:
        self._tracker = open_()
        lost = {name: said for name, said in _lost(self._directory).items() if name != self._name}
        _write_tracking(self._directory, {"lost": lost})  # of an earlier attempt

    def log(self, seed: int, step: int, metrics: Mapping[str, float]) -> None:
        """Pass the metrics of one step on."""
        if (tracker := self._tracker) is not None:
            self._guarded(lambda: tracker.log(seed, step, metrics), f"gets nothing from step {step} on")

    def close(self) -> None:
        """Close the tracker."""
        if (tracker := self._tracker) is not None:
            self._guarded(tracker.close, "is not closed")
            self._tracker = None

    def _guarded(self, act: Callable[[], object], what: str) -> str | None:
        """Return what is said of a failure."""
        error = _failure_of(act)
        if error is None:
            return None
        said = f"{self._name} {what}: {type(error).__name__}: {first_line(error)[:_LONGEST]}"
        self._lose(said)
        return said

    def _lose(self, said: str) -> None:
        self._tracker = None
        logger.warning("%s: %s", self._directory.name, said)
        self._note(f"warning: {said}")
        try:
            _write_tracking(self._directory, {"lost": {**_lost(self._directory), self._name: said}})
        except StorageError as full:  # a full disk is what the tracker met, and what the next checkpoint says
            logger.warning("%s: %s", self._directory.name, full)


def _failure_of(foreign: Callable[[], object]) -> BaseException | None:
    """Run a tracker's own code and return what it raises, whatever it is: no reason not to train."""
    try:
        foreign()
    except (Exception, SystemExit) as error:  # noqa: BLE001  # reported by every caller
        return error
    return None


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

    def note(self, text: str) -> None:
        """Append a line that is no measurement."""
        self._write(f"{_now()}  # {text}")

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
        wandb = _extra("wandb")
        # One process trains a whole pack, so runs live side by side instead of replacing each other.
        settings = wandb.Settings(
            silent=True,
            init_timeout=_SECONDS_TO_OPEN,
            finish_timeout=_SECONDS_TO_CLOSE,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        run = _tracking(directory).get("wandb") or uuid.uuid4().hex[:12]
        _write_tracking(directory, {"wandb": run})
        try:
            self._run = wandb.init(
                project=project,
                group=name,
                name=directory.name,
                id=run,
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
        self._known: dict[str, int] = {}  # metric: last step that the run holds
        connection = MlflowClient(uri)
        self._client = connection.client
        self._metric = importlib.import_module("mlflow.entities").Metric
        run = _tracking(directory).get("mlflow")
        if run is None:
            experiment = connection.experiment(name)
            run = str(self._client.create_run(experiment, run_name=directory.name).info.run_id)
            _write_tracking(directory, {"mlflow": run})
        self._run_id: str = run
        self._client.update_run(run, status="RUNNING")

    def log(self, seed: int, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of one step."""
        del seed
        now = int(time.time() * 1000)  # ms, MLflow's unit
        named = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in metrics.items()}
        fresh = [self._metric(name, value, now, step) for name, value in named.items() if step > self._last(name)]
        self._client.log_batch(self._run_id, metrics=fresh)

    def _last(self, name: str) -> int:
        if name not in self._known:
            history = self._client.get_metric_history(self._run_id, name)
            self._known[name] = max((entry.step for entry in history), default=-1)
        return self._known[name]

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run_id)


class MlflowClient:
    """MLflow's client of a tracking server or database that soon gives up one that does not answer.

    MLflow asks seven times, two minutes each; its environment variables, where they are set, have the last word.
    """

    def __init__(self, uri: str) -> None:
        for name, value in _MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        _extra("mlflow")
        logging.getLogger("alembic").setLevel(logging.WARNING)  # which tells of every table that it makes,
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # and of every repetition
        tracking, exceptions = (importlib.import_module(f"mlflow.{part}") for part in ("tracking", "exceptions"))
        self._error = exceptions.MlflowException
        self.client = tracking.MlflowClient(tracking_uri=uri)

    def experiment(self, name: str) -> str:
        """Return the id of the experiment, which another run may be creating at this moment."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name))
            except self._error:
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)


def _extra(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(missing_extra(name)) from error


def _tracking(directory: Path) -> dict[str, Any]:
    """Return a member's `tracking.json`: the runs that an earlier attempt opened by tracker, and which `lost` it."""
    file = MemberDirectory(directory).tracking_file
    try:
        found = read_json(file) if file.exists() else {}
    except StorageError as error:
        logger.warning("%s is damaged, its runs are begun again: %s", file, error)
        found = {}
    return found if isinstance(found, dict) else {}


def _lost(directory: Path) -> dict[str, str]:
    lost = _tracking(directory).get("lost")
    return lost if isinstance(lost, dict) else {}


def _write_tracking(directory: Path, change: Mapping[str, Any]) -> None:
    """Change `tracking.json`, where there is something to change."""
    before = _tracking(directory)
    after = {name: value for name, value in {**before, **change}.items() if value}
    if after != before:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(MemberDirectory(directory).tracking_file, after)
