"""One driver for each run: which process may write, and that its lock file is removed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ensemble.errors import StorageError, UsageError
from ensemble.lock import held, sole_driver

DRIVE = """\
import sys, time
from pathlib import Path
from ensemble.lock import sole_driver
with sole_driver(Path(sys.argv[1])):
    print("driving", flush=True)
    time.sleep(60)
"""
# Takes the lock repeatedly; while it is held, `alone` is made and removed, which fails for two at a time.
CONTEND = """\
import sys, time
from pathlib import Path
from ensemble.errors import UsageError
from ensemble.lock import held
place = Path(sys.argv[1])
got, end = 0, time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        with held(place / "deep" / ".lock", None if sys.argv[2] == "wait" else "it"):
            (place / "alone").touch(exist_ok=False)
            (place / "alone").unlink()
            got += 1
    except UsageError as error:
        assert "is being written by" in str(error)
print(got)
"""


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def driver(run: Path) -> "subprocess.Popen[str]":
    process = python(DRIVE, run)
    assert process.stdout is not None
    assert process.stdout.readline() == "driving\n"
    return process


def test_what_was_refused_leaves_nothing_that_it_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such metric"), sole_driver(tmp_path / "my" / "results" / "run"):
        raise UsageError("no such metric")
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(KeyboardInterrupt), sole_driver(tmp_path / "results" / "run"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["results"]
    with sole_driver(tmp_path / "others" / "run"):
        (tmp_path / "others" / "run").mkdir()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["others", "results", "run"]


def test_a_second_driver_is_refused_by_name_and_takes_no_lock_away(tmp_path: Path) -> None:
    first = driver(tmp_path / "run")
    for _ in range(2):
        with (
            pytest.raises(UsageError, match=f"is being written by process {first.pid} on "),
            sole_driver(tmp_path / "run"),
        ):
            pass
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with sole_driver(tmp_path / "run"):  # that of a killed driver is free
        assert str(os.getpid()) in (tmp_path / ".run.driver").read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["wait", "at once"])
def test_two_never_hold_the_lock_while_it_is_made_and_removed(tmp_path: Path, how: str) -> None:
    with ThreadPoolExecutor() as pool:
        results = [*pool.map(lambda _: python(CONTEND, tmp_path, how).communicate(timeout=60), range(4))]
    assert [errors for _, errors in results] == [""] * 4
    assert sum(int(out) for out, _ in results) > 20
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["deep"])  # which stays where another came to use it


def test_who_waited_for_a_lock_that_was_removed_takes_a_new_one(tmp_path: Path) -> None:
    place = tmp_path / ".lock"
    order: list[str] = []

    def second() -> None:
        with held(place):
            order.append("second")
            assert place.is_file()

    with ThreadPoolExecutor() as pool:
        with held(place):
            waiting = pool.submit(second)
            time.sleep(0.2)
            order.append("first")
        waiting.result(timeout=10)
    assert order == ["first", "second"]
    assert not place.exists()


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"\.run\.driver: cannot be written"), sole_driver(tmp_path / "file" / "run"):
        pass
    (tmp_path / ".gone.driver").symlink_to(tmp_path / "nowhere" / "gone")
    with pytest.raises(StorageError, match=r"\.gone\.driver: cannot be written"), sole_driver(tmp_path / "gone"):
        pass


@pytest.mark.parametrize("kind", ["symbolic link", "second name", "no regular file"])
def test_a_lock_file_that_somebody_placed_is_refused_and_what_it_leads_to_stays(tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("thesis")
    place = tmp_path / ".run.driver"
    {
        "symbolic link": lambda: place.symlink_to(precious),
        "second name": lambda: place.hardlink_to(precious),
        "no regular file": lambda: os.mkfifo(place),
    }[kind]()
    with pytest.raises(StorageError, match=rf"\.run\.driver: .*{kind}"), sole_driver(tmp_path / "run"):
        pass
    assert precious.read_text() == "thesis"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of other users")
def test_another_users_lock_is_refused_where_everyone_may_write(tmp_path: Path) -> None:
    place = tmp_path / ".run.driver"
    place.touch()
    os.chown(place, 12345, 12345)
    with sole_driver(tmp_path / "run"):  # a folder of ours: colleagues with its group may drive in turn
        pass
    place.touch()
    os.chown(place, 12345, 12345)
    tmp_path.chmod(0o1777)
    refused = pytest.raises(StorageError, match="belongs to user 12345, and everyone may write")
    with refused, sole_driver(tmp_path / "run"):
        pass


def test_a_run_reached_by_a_symbolic_link_has_one_driver(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused = pytest.raises(UsageError, match="is being written by process")
    with sole_driver(tmp_path / "real"), refused, sole_driver(tmp_path / "link"):
        pass
