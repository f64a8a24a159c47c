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
    for name in ("ensemble", "search_spaces"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


def submit(clone: Path, cluster: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    job = [str(BIN / "ray"), "job", "submit", "--address", cluster["ADDRESS"], "--working-dir", ".", "--"]
    return subprocess.run(
        [*job, "python", "-m", "ensemble", *arguments],
        cwd=clone, env=cluster, capture_output=True, text=True, timeout=280, check=False,
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
    token = Path(cluster["RAY_AUTH_TOKEN_PATH"]).read_text().strip().encode()
    assert not [path for path in results.rglob("*") if path.is_file() and token in path.read_bytes()]


def test_a_job_that_would_lose_its_results_is_refused(cluster: dict[str, str], clone: Path) -> None:
    refused = submit(clone, cluster, "tune", "--space", "quickstart.yaml")
    output = refused.stdout + refused.stderr
    assert refused.returncode == 1  # what `ray job submit` makes of any failure
    assert "absolute --results" in output
