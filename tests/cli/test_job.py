"""A real cluster with a token, and the main job submitted to it from a working directory of its own."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TINY = (
    "data.simulate={episodes: 20, steps: 30}",
    "model.n_layer=1",
    "model.n_embd=8",
    "model.history=5",
    "train.steps=20",
    "train.batch_size=8",
    "train.schedule.warmup_steps=0",
    "train.rollout={horizon: 5, windows: 16}",
    "search.seeds=2",
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start `cluster/local.sh` on free ports and return the environment that reaches it."""
    token = tmp_path_factory.mktemp("token") / "auth_token"
    dashboard = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = inherited | {
        "PORT": str(free_port()),
        "DASHBOARD_PORT": str(dashboard),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_START_ARGS": "--num-cpus=2",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    script = str(ROOT / "cluster" / "local.sh")
    subprocess.run([script, "start"], env=environment, check=True, capture_output=True)
    yield environment | {"RAY_AUTH_MODE": "token", "ADDRESS": f"http://127.0.0.1:{dashboard}"}
    subprocess.run([script, "stop"], env=environment, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a user submits from: the package and its experiment files."""
    directory = tmp_path / "clone"
    for name in ("ensemble", "search_spaces", "cluster"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(directory, "init", "--quiet")
    git(directory, "add", ".")
    git(directory, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "all")
    return directory


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=True).stdout.strip()


def submit(clone: Path, cluster: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clone / "cluster" / "submit.sh", "--", "python", "-m", "ensemble", *arguments],
        env=cluster, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


def test_the_main_job_runs_as_a_submitted_job(cluster: dict[str, str], clone: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    overrides = [argument for text in TINY for argument in ("--set", text)]
    done = submit(clone, cluster, "tune", "--space", "quickstart.yaml", "--results", str(results), *overrides)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "2 configurations x 2 seeds (search)" in output
    rows = pq.read_table(results / "quickstart" / "members.parquet", partitioning=None)
    assert rows["status"].to_pylist() == ["completed"] * 4
    assert (results / "quickstart" / "report.md").is_file()
    assert set(rows["git_commit"].to_pylist()) == {git(clone, "rev-parse", "HEAD")}
    files = [path for path in (results / "quickstart").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files if "ray" not in path.parts} == {0o666 & ~umask()}
    token = Path(cluster["RAY_AUTH_TOKEN_PATH"]).read_text().strip().encode()
    assert not [path for path in results.rglob("*") if path.is_file() and token in path.read_bytes()]


def umask() -> int:
    """Return the mask with which the cluster was started."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_run_joins_the_cluster_on_the_loopback(cluster: dict[str, str], clone: Path, tmp_path: Path) -> None:
    overrides = [argument for text in TINY for argument in ("--set", text)]
    joined = ["tune", "--space", "quickstart.yaml", "--address", f"127.0.0.1:{cluster['PORT']}"]
    command = [sys.executable, "-m", "ensemble", *joined, "--results", str(tmp_path / "results"), *overrides]
    run = subprocess.run(command, cwd=clone, env=cluster, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    token = tmp_path / "other_token"
    token.write_text("1" * 64)
    token.chmod(0o600)
    other = cluster | {"RAY_AUTH_TOKEN_PATH": str(token)}
    refused = subprocess.run(
        [*command, "--overwrite"], cwd=clone, env=other, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "this Ray takes another token" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_job_that_would_lose_its_results_is_refused(cluster: dict[str, str], clone: Path) -> None:
    refused = submit(clone, cluster, "tune", "--space", "quickstart.yaml")
    output = refused.stdout + refused.stderr
    assert refused.returncode == 1  # what `ray job submit` makes of any failure
    assert "absolute --results" in output
