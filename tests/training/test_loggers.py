"""What each logger leaves behind: read back with the tracker's own reader, all offline."""

import importlib
import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pendulum import experiment, trajectories
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ensemble.config.experiment import LoggingConfig
from ensemble.errors import StorageError, UsageError
from ensemble.store import read_json, read_table
from ensemble.study.checks import require_extras
from ensemble.training.context import InlineContext
from ensemble.training.loggers import (
    MlflowLogger,
    TensorBoardLogger,
    TextLogger,
    Tracker,
    WandbLogger,
    open_loggers,
    prepare_trackers,
)
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, run_trial

CANARY = "canary" * 7  # 42 characters, as long as a key has to be


@pytest.fixture
def member(tmp_path: Path) -> Path:
    directory = tmp_path / "members" / "0123456789ab-s3"
    directory.mkdir(parents=True)
    return directory


def scalars(member: Path, metric: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(member / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(metric)]


def test_the_text_log_has_a_header_and_one_aligned_line_a_validation(member: Path) -> None:
    log = TextLogger(member, resume_step=None)
    log.log(3, 100, {"train/loss": 1.25, "validation/loss": 0.5})
    log.log(3, 2000, {"train/loss": 1e-7, "validation/loss": 123.456})
    log.close()
    header, first, second = (member / "train.log").read_text().splitlines()
    assert all(word in header for word in ("device cpu", "threads", "torch 2", "ray 2", "ensemble 0"))
    assert "seed 3" in first
    assert "step      100" in first
    assert "train/loss 1.25" in first
    assert first.index("validation/loss") == second.index("validation/loss")


def test_a_text_line_is_on_disk_before_the_logger_is_closed(member: Path) -> None:
    log = TextLogger(member, resume_step=None)
    log.log(3, 100, {"train/loss": 1.25})
    assert "train/loss 1.25" in (member / "train.log").read_text()
    log.close()


def test_the_text_log_grows_over_restarts_and_says_where_it_resumed(member: Path) -> None:
    for resume_step in (None, 100):
        log = TextLogger(member, resume_step)
        log.log(3, 100, {"train/loss": 1.25})
        log.close()
    lines = (member / "train.log").read_text().splitlines()
    assert len(lines) == 4
    assert lines[2].endswith("resumed after step 100")


def test_errors_of_single_entries_stay_out_of_the_text_log(member: Path) -> None:
    log = TextLogger(member, resume_step=None)
    log.log(3, 1, {"test/rollout_rmse": 1.0, "test/rollout_rmse/q0": 1.0, "test/rollout_rmse@10": 1.0})
    log.close()
    line = (member / "train.log").read_text().splitlines()[1]
    assert line.count("rollout_rmse") == 1


def test_a_log_that_cannot_be_written_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "members").write_text("a file where a directory should be")
    with pytest.raises(StorageError, match=r"train\.log"):
        TextLogger(tmp_path / "members" / "0-s0", resume_step=None)


def test_tensorboard_shows_every_scalar_that_was_logged(member: Path) -> None:
    log = TensorBoardLogger(member, resume_step=None)
    log.log(3, 10, {"train/loss": 0.5, "test/rollout_rmse@10": 2.0})
    log.log(3, 20, {"train/loss": 0.25})
    log.close()
    assert scalars(member, "train/loss") == [(10, 0.5), (20, 0.25)]
    assert scalars(member, "test/rollout_rmse@10") == [(10, 2.0)]


@pytest.mark.parametrize(("resume_step", "again"), [(10, (20, 30)), (None, (10, 20, 30))])
def test_tensorboard_shows_each_step_once_after_a_kill(
    member: Path, resume_step: int | None, again: tuple[int, ...]
) -> None:
    killed = TensorBoardLogger(member, resume_step=None)
    for step in (10, 20):  # 20 came after the last checkpoint; never closed
        killed.log(3, step, {"train/loss": 1.0})
    restarted = TensorBoardLogger(member, resume_step)
    for step in again:
        restarted.log(3, step, {"train/loss": 1.0})
    restarted.close()
    assert [step for step, _ in scalars(member, "train/loss")] == [10, 20, 30]


def test_tensorboard_takes_the_nan_of_a_diverged_member(member: Path) -> None:
    log = TensorBoardLogger(member, resume_step=None)
    log.log(3, 10, {"train/loss": float("nan")})
    log.close()
    assert [step for step, _ in scalars(member, "train/loss")] == [10]


def test_only_what_the_experiment_asks_for_is_opened(member: Path) -> None:
    loggers = open_loggers(LoggingConfig(tensorboard=False), member, "swing", resume_step=None)
    assert [type(log) for log in loggers] == [TextLogger]
    for log in loggers:
        log.close()
    assert not (member / "tensorboard").exists()


def test_a_pack_logs_each_member_to_its_own_directory(tmp_path: Path) -> None:
    members = [tmp_path / "members" / f"0123456789ab-s{seed}" for seed in range(3)]
    packs = [open_loggers(LoggingConfig(), member, "swing", resume_step=None) for member in members]
    for seed, loggers in enumerate(packs):
        for log in loggers:
            log.log(seed, 10, {"train/loss": float(seed)})
            log.close()
    assert [scalars(member, "train/loss") for member in members] == [[(10, 0.0)], [(10, 1.0)], [(10, 2.0)]]


@pytest.mark.parametrize(("extra", "value"), [("wandb", "project"), ("mlflow", "sqlite:///mlflow.db")])
def test_a_missing_extra_is_a_usage_error_that_says_what_to_install(
    member: Path, monkeypatch: pytest.MonkeyPatch, extra: str, value: str
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)  # what Python itself puts there for "not importable"
    config = LoggingConfig.model_validate({"tensorboard": False, extra: value})
    with pytest.raises(UsageError, match=rf"pip install 'ensemble\[{extra}\]'"):
        require_extras(config)
    for log in open_loggers(config, member, "swing", None):  # on another machine of a cluster: the member trains on
        log.log(3, 10, {"train/loss": 1.0})
        log.close()
    assert f"warning: {extra} is not opened: UsageError: logging.{extra} needs" in (member / "train.log").read_text()


def test_neither_tracker_is_imported_unless_asked_for() -> None:
    code = "import sys, ensemble.training.loggers; print(sorted({'wandb', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def offline_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.mark.usefixtures("offline_wandb")
def test_wandb_offline_leaves_a_run_of_each_member_and_no_key(tmp_path: Path) -> None:
    members = [tmp_path / "members" / f"0123456789ab-s{seed}" for seed in range(2)]
    logs = [WandbLogger("project", member, "swing") for member in members]
    for seed, log in enumerate(logs):
        log.log(seed, 10, {"train/loss": 0.5, "test/rollout_rmse@10": 2.0})
    for log in logs:
        log.close()
    for member in members:
        assert eventually(lambda member=member: b"rollout_rmse@10" in offline_records(member))
    written = b"".join(path.read_bytes() for member in members for path in member.rglob("*") if path.is_file())
    assert CANARY.encode() not in written


def offline_records(member: Path) -> bytes:
    return b"".join(path.read_bytes() for path in member.glob("wandb/offline-run-*/run-*.wandb"))


def eventually(holds: Callable[[], bool], seconds: float = 30) -> bool:
    """Wait for what another process writes in its own time: on a busy machine `finish` comes back before it has."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return holds()


@pytest.mark.usefixtures("offline_wandb")
def test_a_restarted_member_continues_its_wandb_run(member: Path) -> None:
    for step in (10, 20):
        log = WandbLogger("project", member, "swing")
        log.log(3, step, {"train/loss": 0.5})
        log.close()
    assert len({path.name for path in member.glob("wandb/offline-run-*/run-*.wandb")}) == 1


def test_wandb_without_an_account_is_a_usage_error_and_not_a_question(member: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    code = "from pathlib import Path; from ensemble.training.loggers import WandbLogger; import sys\n"
    code += "WandbLogger('project', Path(sys.argv[1]), 'swing')"
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", code, str(member)]
    answer = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert answer.returncode == 1
    assert "UsageError: logging.wandb: project" in answer.stderr
    assert "WANDB_MODE=offline needs no account" in answer.stderr


@pytest.fixture
def mlflow_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


sqlite_store = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


def mlflow_history(uri: str, metric: str) -> dict[str, list[tuple[int, float]]]:
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("swing")
    runs = client.search_runs([experiment.experiment_id])
    return {
        run.info.run_name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]
        for run in runs
    }


@sqlite_store
def test_mlflow_keeps_a_run_of_each_member_under_the_experiments_name(tmp_path: Path, mlflow_uri: str) -> None:
    logs = [MlflowLogger(mlflow_uri, tmp_path / "members" / f"a-s{seed}", "swing") for seed in range(2)]
    for seed, log in enumerate(logs):
        log.log(seed, 10, {"train/loss": float(seed), "test/rollout_rmse@10": 2.0})
        log.close()
    assert mlflow_history(mlflow_uri, "train/loss") == {"a-s0": [(10, 0.0)], "a-s1": [(10, 1.0)]}
    assert mlflow_history(mlflow_uri, "test/rollout_rmse_10") == {"a-s0": [(10, 2.0)], "a-s1": [(10, 2.0)]}


@sqlite_store
def test_mlflow_holds_each_step_once_after_a_kill(member: Path, mlflow_uri: str) -> None:
    for steps in ((10, 20), (20, 30)):
        log = MlflowLogger(mlflow_uri, member, "swing")
        for step in steps:
            log.log(3, step, {"train/loss": 1.0})
    assert mlflow_history(mlflow_uri, "train/loss") == {member.name: [(10, 1.0), (20, 1.0), (30, 1.0)]}


@sqlite_store
def test_an_mlflow_store_that_goes_away_is_a_warning_and_not_a_failed_member(
    member: Path, mlflow_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text, log = open_loggers(LoggingConfig(tensorboard=False, mlflow=mlflow_uri), member, "swing", None)
    (tmp_path / "mlflow.db").unlink()
    with caplog.at_level(logging.WARNING, logger="ensemble"):
        log.log(3, 10, {"train/loss": 1.0})
        log.log(3, 20, {"train/loss": 1.0})
        log.close()
    text.close()
    assert sum("mlflow gets nothing from step 10 on" in record.message for record in caplog.records) == 1
    assert (member / "train.log").read_text().count("warning: mlflow gets nothing from step 10 on") == 1


def test_an_mlflow_uri_that_is_refused_is_said_before_any_member_starts(member: Path, mlflow_uri: str) -> None:
    del mlflow_uri
    said: list[str] = []
    prepare_trackers(LoggingConfig(mlflow=(member / "mlruns").as_uri()), "swing", said.append)
    assert re.search(r"logging\.mlflow: file:.*sqlite:///mlflow\.db", "".join(said))


@sqlite_store
def test_the_tables_of_a_new_database_are_made_before_members_that_begin_at_once(
    tmp_path: Path, mlflow_uri: str
) -> None:
    said: list[str] = []
    prepare_trackers(LoggingConfig(mlflow=mlflow_uri), "swing", said.append)
    assert said == []
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT name FROM experiments WHERE name = 'swing'").fetchall() == [("swing",)]

    def member(seed: int) -> None:
        for log in open_loggers(LoggingConfig(mlflow=mlflow_uri), tmp_path / "members" / f"a-s{seed}", "swing", None):
            log.log(seed, 10, {"train/loss": float(seed)})
            log.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(member, range(4)))
    assert mlflow_history(mlflow_uri, "train/loss") == {f"a-s{seed}": [(10, float(seed))] for seed in range(4)}


@sqlite_store
def test_a_database_that_is_half_made_stops_no_member_and_its_loss_is_known(tmp_path: Path, mlflow_uri: str) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES ('no such version')")
    said: list[str] = []
    config = LoggingConfig(tensorboard=False, mlflow=mlflow_uri)
    prepare_trackers(config, "swing", said.append)
    assert len(said) == 1
    directory = tmp_path / "members" / "a-s0"
    for log in open_loggers(config, directory, "swing", None):
        log.log(0, 10, {"train/loss": 1.0})
        log.close()
    assert "train/loss 1" in (directory / "train.log").read_text()
    assert "mlflow is not opened" in read_json(directory / "tracking.json")["lost"]["mlflow"]


def test_a_server_that_is_not_there_is_given_up_soon_and_named_once(
    member: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del mlflow_uri
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    config, said = LoggingConfig(tensorboard=False, mlflow="http://127.0.0.1:9"), list[str]()
    prepare_trackers(config, "swing", said.append)
    assert "warning: logging.mlflow: http://127.0.0.1:9: API request" in said[0]
    for log in open_loggers(config, member, "swing", None):
        log.log(3, 10, {"train/loss": 1.0})
        log.close()
    assert (member / "train.log").read_text().count("warning: mlflow is not opened: MlflowException: API request") == 1
    assert (
        int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) * (1 + int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])) < 30
    )


class Failing:
    """A tracker of somebody else that raises what it is given, when it is asked to."""

    def __init__(self, at: str, error: BaseException) -> None:
        self.at, self.error = at, error
        self.act("open")

    def act(self, now: str) -> None:
        if now == self.at:
            raise self.error

    def log(self, seed: int, step: int, metrics: Mapping[str, float]) -> None:
        self.act("log")

    def close(self) -> None:
        self.act("close")


@pytest.mark.parametrize("at", ["open", "log", "close"])
@pytest.mark.parametrize(
    "error", [RuntimeError(), OSError("no space left\non the device"), SystemExit(3), RecursionError("deep")]
)
def test_whatever_a_tracker_raises_and_whenever_the_member_goes_on(
    member: Path, caplog: pytest.LogCaptureFixture, at: str, error: BaseException
) -> None:
    notes: list[str] = []
    tracker = Tracker("their", lambda: Failing(at, error), member, notes.append)
    for step in (10, 20):
        tracker.log(3, step, {})
    tracker.close()
    tracker.close()
    assert len(notes) == len(caplog.records) == 1
    assert type(error).__name__ in notes[0]
    assert "\n" not in notes[0]
    again = Tracker("their", lambda: Failing("never", error), member, notes.append)
    again.close()
    assert not (member / "tracking.json").exists() or read_json(member / "tracking.json") == {}


def test_the_second_member_of_a_process_does_not_wait_for_a_server_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def open_() -> Failing:
        asked.append(1)
        return Failing("open", TimeoutError("20 s"))

    notes: list[str] = []
    for seed in range(3):
        Tracker("their", open_, tmp_path / f"a-s{seed}", notes.append, server="https://their.example").log(seed, 1, {})
    assert len(asked) == 1
    assert notes == 3 * ["warning: their is not opened: TimeoutError: 20 s"]
    assert read_json(tmp_path / "a-s2" / "tracking.json")["lost"]["their"].endswith("20 s")


def test_ctrl_c_in_a_tracker_still_stops_the_run(member: Path) -> None:
    tracker = Tracker("their", lambda: Failing("log", KeyboardInterrupt()), member, print)
    with pytest.raises(KeyboardInterrupt):
        tracker.log(3, 10, {})


@pytest.mark.parametrize("damaged", ["{", "[]", '{"lost": 3}'])
def test_a_damaged_record_of_runs_stops_no_member(member: Path, damaged: str) -> None:
    (member / "tracking.json").write_text(damaged)
    tracker = Tracker("their", lambda: Failing("log", ValueError("x")), member, print)
    tracker.log(3, 10, {})
    assert read_json(member / "tracking.json")["lost"]["their"].startswith("their gets nothing from step 10 on")


def test_a_member_whose_trackers_all_fail_is_trained_to_its_end(tmp_path: Path, mlflow_uri: str) -> None:
    del mlflow_uri
    config = experiment(logging={"tensorboard": True, "mlflow": "http://127.0.0.1:9"}, train={"steps": 4})
    trial = Trial(config, (0,), "ensemble", tmp_path)
    trial.directory(0).path.mkdir(parents=True)
    (trial.directory(0).path / "tensorboard").write_text("a file where a directory should be")
    run_trial(trial, TrialData(trajectories(), {}), InlineContext())
    assert read_table(trial.directory(0).row_file, ["status"])["status"][0].as_py() == "completed"
    assert set(read_json(trial.directory(0).tracking_file)["lost"]) == {"tensorboard", "mlflow"}
