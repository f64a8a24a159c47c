"""The connection to Ray: one of its own on this machine, or the cluster of the job; and what fits on its nodes.

Never a bare `ray.init`, which may join another user's cluster. A Ray of our own (`start`) listens on loopback only, and
every client needs the token (file mode 0600). Trials and data are not used here.
"""

import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ensemble.config.experiment import ResourcesConfig
from ensemble.errors import UsageError
from ensemble.machine import cores
from ensemble.schema import Say
from ensemble.signals import kept_sigterm
from ensemble.study.start import ask_for_nodes, prepare_start, start
from ensemble.text import byte_size, first_line

_log = logging.getLogger(__name__)

JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the environment of a submitted job's entrypoint

# Ray reads these when it is imported or when its processes start. The first binds a Ray of our own to loopback, and
# finds one that is bound to it: on Linux the node address is otherwise the machine's, and its servers listen on every
# interface.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class ClusterNode:
    """The resources of one machine."""

    name: str
    cpus: float
    gpus: float
    memory: float  # bytes


@dataclass(frozen=True)
class Needs:
    """The resources of one trial: `workers` times these, each on one node."""

    workers: int
    cpus: float
    gpus: float
    memory: float  # bytes of the whole trial

    @property
    def bundle(self) -> dict[str, float]:
        """Return one worker's request under Ray's names."""
        request = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory / self.workers}
        return {name: amount for name, amount in request.items() if amount}

    def describe(self) -> str:
        """Return the request as text: `2 workers of 1 CPU, 0.5 GPU each`."""
        text = f"{self.cpus:g} CPU" + (f", {self.gpus:g} GPU" if self.gpus else "")
        text += f", {byte_size(self.memory / self.workers)}" if self.memory else ""
        return f"{self.workers} workers of {text} each" if self.workers > 1 else text


def in_job() -> bool:
    """Return whether this process is the entrypoint of a Ray job."""
    return JOB_MARK in os.environ


@contextmanager
def connected(address: str, workers: bool, say: Say = _log.info) -> Iterator[list[ClusterNode]]:
    """Hold a connection to Ray and yield the nodes that are alive.

    `address` is "local" for a Ray of our own (inside a Ray job: that job's cluster) or the address of a running one.
    `workers` says that trials have Ray Train workers: their resources are freed through the State API, which needs
    the dashboard (a second more to start) and processes that know their cluster.
    Raises UsageError when no Ray answers there, NothingFinishedError or StorageError when none of our own starts.
    """
    # Environment. Ray reads it at import, so it comes first.
    own, loopback = address == "local" and not in_job(), False
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if address != "local":
        address, found = ask_for_nodes(address)
        loopback = all(name.startswith("127.") for name in found)
    os.environ.update(QUIET | (LOOPBACK if own or loopback else {}))
    directory = prepare_start() if own else None
    ray: Any = importlib.import_module("ray")
    _keep_off_the_terminal()

    # Connection
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if workers:
        options["runtime_env"] = {"worker_process_setup_hook": f"{__name__}.set_cluster_address"}
    with kept_sigterm():
        if directory is not None:
            start(directory, options | {"num_cpus": cores(), "include_dashboard": workers}, say)
        else:
            _join("auto" if address == "local" else address, options)
    silence_loggers()
    try:
        yield _nodes(ray.nodes())
    finally:
        ray.shutdown()


def _join(address: str, options: Mapping[str, Any]) -> None:
    """Connect to a running Ray; UsageError, in one line, where it takes no such driver (of another version, say)."""
    ray: Any = importlib.import_module("ray")
    try:
        ray.init(address=address, **options)
    except Exception as error:
        ray.shutdown()
        raise UsageError(f"no Ray at --address {address}: {first_line(error)}") from error


def _keep_off_the_terminal() -> None:
    """Log what the raylet sends to drivers; Ray prints it, in colour, whatever `log_to_driver` is."""
    worker: Any = importlib.import_module("ray._private.worker")

    def log(data: Mapping[str, Any], **options: Any) -> None:
        del options
        _log.info("%s", "\n".join(data["lines"]))

    worker.print_to_stdstream = log


def set_cluster_address() -> None:
    """Set the address of its cluster in a Ray process."""
    import ray

    # Without it Ray Train searches the machine, may find another cluster, and frees nothing in ours.
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def silence_loggers() -> None:
    """Keep Ray's log lines off the terminal."""
    # Ray Data sets the level of "ray.data" again at every use, but not that of its modules.
    for name in ("ray", "ray.tune", "ray.train", "ray.data", "ray.data.dataset", "ray.data._internal.progress"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def needs(resources: ResourcesConfig, nodes: list[ClusterNode], device: str | None) -> Needs:
    """Return the resources of one trial on these nodes; `device` is --device (cpu, cuda; None: a GPU if any)."""
    has_gpu = any(node.gpus for node in nodes)
    gpus = resources.gpus_per_worker if resources.gpus_per_worker is not None else float(has_gpu)
    if device == "cpu":
        gpus = 0.0
    elif device is not None and device.startswith("cuda"):
        gpus = gpus or 1.0
    cpus = max(resources.cpus_per_worker, resources.threads)
    return Needs(resources.workers, cpus, gpus, float(resources.memory or 0))


def slots(request: Needs, nodes: list[ClusterNode]) -> int:
    """Return how many trials run at the same time; UsageError that names what is missing when none does."""
    # Counted here: Tune does not count the workers of a nested trainer, and a trial without workers waits for ever.
    workers = [_workers_on(node, request) for node in nodes]
    if not any(workers):
        largest = max(nodes, key=lambda node: (node.gpus, node.cpus, node.memory))
        raise UsageError(
            f"resources: a trial needs {request.describe()}; the largest of {len(nodes)} node(s), {largest.name}, has "
            f"{largest.cpus:g} CPU, {largest.gpus:g} GPU, {byte_size(largest.memory)}"
        )
    if sum(workers) < request.workers:
        raise UsageError(
            f"resources.workers: a trial needs {request.describe()}; {len(nodes)} node(s) "
            f"hold {sum(workers)} such workers"
        )
    return sum(workers) // request.workers


def _nodes(described: list[dict[str, Any]]) -> list[ClusterNode]:
    alive = [node for node in described if node["Alive"]]
    return [
        ClusterNode(
            node["NodeManagerHostname"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            node["Resources"].get("memory", 0.0),
        )
        for node in alive
    ]


def _workers_on(node: ClusterNode, request: Needs) -> int:
    """Return how many workers of a trial one node holds."""
    pairs = [
        (request.cpus, node.cpus),
        (request.gpus, node.gpus),
        (request.memory / request.workers, node.memory),
    ]
    return min(int(available // needed) for needed, available in pairs if needed)
