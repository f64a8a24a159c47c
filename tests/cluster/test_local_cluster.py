"""`cluster/local.sh` on real ports: who may submit, who listens, and what is left after it was stopped."""

import json
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the script reads /proc"),
]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "local.sh"


class Cluster:
    """A started cluster: its address, its token file and the environment that chose them."""

    def __init__(self, directory: Path) -> None:
        self.token_file = directory / "auth_token"
        self.token_file.write_text("0" * 64)
        self.token_file.chmod(0o644)  # as Ray itself writes it under the usual umask
        port, dashboard = free_ports()
        self.address = f"http://127.0.0.1:{dashboard}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = inherited | {
            "PORT": str(port),
            "DASHBOARD_PORT": str(dashboard),
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_START_ARGS": "--num-cpus=1",
        }

    def script(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([SCRIPT, command], env=self.environment, capture_output=True, text=True, check=False)

    def post_job(self, headers: dict[str, str]) -> int:
        body = json.dumps({"entrypoint": "true"}).encode()
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"{self.address}/api/jobs/", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def processes(self) -> dict[int, str]:
        """Every living process that was started by this cluster: it inherited the address of its token file."""
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.token_file).encode() in (directory / "environ").read_bytes():
                    found[int(directory.name)] = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # ended meanwhile, or somebody else's
        return found


def free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def listening_addresses(processes: set[int]) -> set[str]:
    """Local addresses, in the kernel's hexadecimal, of the listening sockets of the processes."""
    sockets = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.readlink(descriptor))
            except OSError:
                continue
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            columns = row.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in sockets:
                addresses.add(columns[1].split(":")[0])
    return addresses


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    started = cluster.script("start")
    assert started.returncode == 0, started.stderr
    yield cluster
    cluster.script("stop")


def test_a_job_without_the_token_is_refused_and_with_it_taken(cluster: Cluster) -> None:
    token = {"Authorization": f"Bearer {cluster.token_file.read_text()}"}
    assert cluster.post_job({}) == 401
    assert cluster.post_job({"Authorization": f"Bearer {'1' * 64}"}) in (401, 403)
    assert cluster.post_job(token) == 200


def test_a_browser_is_refused_even_with_the_token(cluster: Cluster) -> None:
    token = {"Authorization": f"Bearer {cluster.token_file.read_text()}"}
    assert cluster.post_job({**token, "User-Agent": "Mozilla/5.0", "Origin": "http://evil.example"}) == 405


def test_the_token_file_is_closed_to_others(cluster: Cluster) -> None:
    assert stat.S_IMODE(cluster.token_file.stat().st_mode) == 0o600


def test_nothing_listens_beyond_the_loopback(cluster: Cluster) -> None:
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, ::ffff:127.0.0.1
    listening = listening_addresses(set(cluster.processes()))
    assert listening
    assert listening <= loopback


def test_the_printed_submission_runs_a_job(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("print(1 + 41)")
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "job", "submit", "--address", cluster.address, "--working-dir", ".", "--", "python", "job.py"]
    environment = cluster.environment | {"RAY_AUTH_MODE": "token"}
    job = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "\n42\n" in job.stdout


def test_stop_ends_what_start_began_and_nothing_else(tmp_path: Path) -> None:
    """A job that detached a child from every session and group leaves nothing behind either."""
    cluster = Cluster(tmp_path)
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        assert cluster.script("start").returncode == 0
        assert cluster.script("start").returncode == 1  # a second one is refused
        ray = Path(sys.executable).with_name("ray")
        job = ["setsid --fork sleep 601; sleep 602"]
        command = [ray, "job", "submit", "--no-wait", "--address", cluster.address, "--", "sh", "-c", *job]
        subprocess.run(command, env=cluster.environment | {"RAY_AUTH_MODE": "token"}, capture_output=True, check=True)
        wait_for_processes(cluster, "sleep 601", "sleep 602")
    finally:
        stopped = cluster.script("stop")
        still_there = bystander.poll() is None
        bystander.kill()
        bystander.wait()
    assert stopped.returncode == 0, stopped.stderr
    assert cluster.processes() == {}
    assert still_there


def wait_for_processes(cluster: Cluster, *commands: str) -> None:
    for _ in range(120):
        running = [command.strip() for command in cluster.processes().values()]
        if all(command in running for command in commands):
            return
        subprocess.run(["sleep", "0.5"], check=True)
    raise AssertionError(f"{commands} did not start: {running}")
