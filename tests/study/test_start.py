"""The start of a Ray of our own, as far as it can fail, and addresses of others; no Ray is started here."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ensemble.errors import StorageError, UsageError
from ensemble.study.start import (
    ask_for_nodes,
    ensure_token,
    object_store,
    prepare_start,
    private_directory,
    remove_old_sessions,
)
from ensemble.study.waiting import waiting


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory with a path that is short enough for sockets, the first that is tried."""
    with tempfile.TemporaryDirectory(prefix="e", dir="/tmp") as name:
        monkeypatch.setenv("RAY_TMPDIR", name)
        yield Path(name)


def test_the_token_is_made_for_its_owner_alone_and_an_open_one_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ray" / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    ensure_token()
    token = file.read_text()
    assert len(token) == 64
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    ensure_token()
    assert file.read_text() == token
    assert file.stat().st_mode & 0o777 == 0o600


def test_rays_files_are_in_a_directory_that_is_closed_to_others(short: Path) -> None:
    directory = short / f"ensemble-{os.getuid()}"
    assert private_directory() == directory
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o777)
    assert private_directory() == directory
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_is_too_long_or_a_link_of_somebody_is_passed_over(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short / f"ensemble-{os.getuid()}").symlink_to(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a_directory_of_a_long_name"))
    assert private_directory() == Path(f"/tmp/ensemble-{os.getuid()}")
    assert list(tmp_path.iterdir()) == []


def test_without_any_directory_the_reason_of_each_is_one_line(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 10**30)  # a name too long for every base
    with pytest.raises(
        StorageError, match=r"no directory for Ray's files \(/tmp/e.*: its path is too long.*RAY_TMPDIR"
    ):
        private_directory()


def test_a_home_that_cannot_be_written_is_no_hindrance(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short / "home").touch()
    monkeypatch.setenv("HOME", str(short / "home"))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    directory = prepare_start()
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.parent == directory.parent
    assert token.stat().st_mode & 0o777 == 0o600


def test_shared_data_are_in_rays_directory_where_there_is_no_shared_memory(tmp_path: Path) -> None:
    assert object_store(tmp_path / "ray", tmp_path / "missing") == {"_plasma_directory": str(tmp_path / "ray")}
    assert object_store(tmp_path / "ray", tmp_path) == {}


def test_old_sessions_of_ray_are_removed_but_for_the_last_ones_and_those_that_may_run(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = [f"session_2026-01-0{day}_00-00-00_000000_{ended.pid}" for day in range(1, 10)]
    names[1] = names[1].replace(str(ended.pid), str(os.getpid()))
    for name in names:
        (tmp_path / name / "logs").mkdir(parents=True)
        (tmp_path / name / "logs" / "raylet.out").touch()
        for path in (tmp_path / name, tmp_path / name / "logs", tmp_path / name / "logs" / "raylet.out"):
            os.utime(path, (0, 0))
    (tmp_path / names[2] / "logs" / "raylet.out").touch()  # of a process in another container
    (tmp_path / "session_latest").symlink_to(tmp_path / names[-1])
    remove_old_sessions(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names[1:3], *names[4:], "session_latest"]


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("127.0.0.1:1", "nothing listens at 127.0.0.1:1"),
        ("no.such.host.invalid:6379", "nothing listens at no.such.host.invalid:6379"),
        ("ray://head:10001", "ray:// is for Ray Client; give the head of Ray itself, such as head:6379"),
        ("http://127.0.0.1:8265", "ray job submit --address http://127.0.0.1:8265"),
        ("nonsense", "not an address; give HOST:PORT, auto or local"),
        ("head:port", "not an address"),
        ("head:70000", "not an address"),
        ("", "not an address"),
    ],
)
def test_an_address_without_a_ray_is_refused_in_one_line(address: str, answer: str) -> None:
    with pytest.raises(UsageError) as refused:
        ask_for_nodes(address)
    assert answer in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.ray
def test_what_listens_and_is_no_ray_is_named_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(UsageError, match=f"--address {address}: something listens there that is no head of Ray"):
            ask_for_nodes(address)
    assert time.monotonic() - began < 60


FAILS = """
import sys
from pathlib import Path
from ensemble.errors import NothingFinishedError
from ensemble.study.start import _AGENT_IMPORTS, _run_python, start

sys.argv = ["ensemble", "tune", "--space", "my file.yaml"]
try:
    start(Path("/tmp/nowhere/ray"), {"num_cpus": -1, "logging_level": 50}, print)
except NothingFinishedError as error:
    print(error)
print(_run_python(_AGENT_IMPORTS, timeout=100).returncode)
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_start_that_fails_is_repeated_and_ends_in_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, timeout=280, check=True)
    first, why, second, _, third, end, imported = done.stdout.splitlines()
    assert [first, second, third] == ["starting Ray", *(f"starting Ray, attempt {n} of 3" for n in (2, 3))]
    assert why.startswith("Ray did not start: ")
    assert "load average" in end
    assert "-1 cores" in end
    assert "its log is in /tmp/nowhere/ray/session_latest/logs" in end
    assert end.endswith("ensemble tune --space 'my file.yaml'")
    assert imported == "0"  # what Ray's agents import is still called so


SLOW_AGENTS = """
import sys, time
if any(name.endswith(("dashboard/agent.py", "runtime_env/agent/main.py")) for name in sys.orig_argv):
    time.sleep(60)
"""
CONNECTS = """
from ensemble.study.cluster import connected
with connected("local", False, print) as nodes:
    print(len(nodes), "node")
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_machine_on_which_rays_agents_take_a_minute_to_start_is_joined_at_once(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENTS)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", CONNECTS], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["starting Ray", "1 node"], done.stderr


def test_what_is_waited_for_is_said_again_and_again_until_it_is_there() -> None:
    said: list[str] = []
    texts = iter(["the sun rises", ""])
    with waiting(lambda: next(texts, "it sets"), said.append, seconds=0.01):
        wait_until(lambda: len(said) > 2)
    count = len(said)
    time.sleep(0.05)
    assert said[:2] == ["waiting until the sun rises (0 s)", "waiting until it sets (0 s)"]
    assert len(said) == count


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
