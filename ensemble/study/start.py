"""Starting a Ray of our own on this machine, and the check of an address at which another one is said to run.

Ray's processes wait for each other with fixed limits that a busy machine exceeds: the limits are widened, and a start
that fails all the same is repeated. Its files are in a directory of this user alone, since Ray opens its own to all.
"""

import importlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ensemble.errors import NothingFinishedError, StorageError, UsageError
from ensemble.schema import Say
from ensemble.study.waiting import waiting
from ensemble.text import command, first_line, plural

ATTEMPTS = 3
_SESSIONS_KEPT = 5  # whose logs can be read after the run
_SILENT_SECONDS = 3600.0  # after which a session has ended: a living one writes its state every 10 s
_LONGEST = 38  # characters of Ray's directory: a socket below it has 64 more, and its path at most 103
_PROBE_SECONDS = 2.0  # until a port has answered
_REPLY_SECONDS = 60.0  # until what listens there has said what it is; a busy machine takes long to load Ray

# Limits of Ray that are read from the environment. The first is the driver's for the raylet, 30 s by default; the
# second the raylet's for its agents, after which it ends.
_WIDE_LIMITS = {
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
    "RAY_py_gcs_connect_timeout_s": "60",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "10",
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",  # a small /dev/shm is slow, not wrong
}
_AGENT_RANGE = range(20000, 32768)  # of their ports
_AGENT_PORTS = ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
_OTHERS = ("RAY_ADDRESS", "RAY_GCS_SERVER_PORT", "RAY_NAMESPACE", "RAY_REDIS_ADDRESS")  # of another cluster

# What Ray's agents import, which takes them most of their start: read once, it is in memory for the next attempt.
_AGENT_IMPORTS = """
from importlib import import_module
for name in ("_private.log_monitor", "_private.runtime_env.agent.main", "autoscaler._private.monitor"):
    import_module("ray." + name)
from ray.dashboard import agent, dashboard, http_server_agent, utils
utils.get_all_modules(utils.DashboardAgentModule)
"""
_ASK_NODES = """
import json, sys
address = sys.argv[1]
if address == "auto":
    from ray._private.services import get_ray_address_from_environment
    address = get_ray_address_from_environment("auto", None)
from ray._raylet import GcsClient
nodes = GcsClient(address=address).get_all_node_info(timeout=10).values()
print(json.dumps([address, [node.node_manager_address for node in nodes if node.state == 0]]))
"""


def prepare_start() -> Path:
    """Set the environment of a Ray of our own and return its directory. StorageError where none can be written."""
    directory = private_directory()
    for name, value in _WIDE_LIMITS.items():
        os.environ.setdefault(name, value)
    for name in _OTHERS:
        os.environ.pop(name, None)
    try:
        ensure_token()
    except OSError:  # a home that cannot be written
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(directory / "auth_token")
        ensure_token()
    return directory / "ray"


def start(directory: Path, options: Mapping[str, Any], say: Say) -> None:
    """Start Ray in `directory`, up to three times. NothingFinishedError, in one line, when it does not start."""
    remove_old_sessions(directory)
    for attempt in range(1, ATTEMPTS + 1):
        say("starting Ray" if attempt == 1 else f"starting Ray, attempt {attempt} of {ATTEMPTS}")
        try:
            with waiting("Ray runs", say):
                _attempt(directory, options)
            return
        except _StartError as error:
            cause = f"{error}; load average {os.getloadavg()[0]:.0f}, {plural(options['num_cpus'], 'core')}"
            if attempt == ATTEMPTS:
                raise NothingFinishedError(_failure(cause, directory)) from error
            say(f"Ray did not start: {cause}. Its modules are read into memory, then again")
        with waiting("its modules are read", say), suppress(subprocess.TimeoutExpired):
            _run_python(_AGENT_IMPORTS, timeout=300)


class _StartError(Exception):
    """One attempt failed."""


def _attempt(directory: Path, options: Mapping[str, Any]) -> None:
    ray: Any = importlib.import_module("ray")
    exporter, *agents = _free_ports(1 + len(_AGENT_PORTS))
    try:
        with _given_ports(dict(zip(_AGENT_PORTS, agents, strict=True))):
            ray.init(
                address="local", _temp_dir=str(directory), _metrics_export_port=exporter,
                **object_store(directory), **options,
            )  # fmt: skip
    except Exception as error:
        with suppress(RuntimeError, OSError):
            ray.shutdown()
        end_processes()
        raise _StartError(first_line(error)) from error


def object_store(directory: Path, shared_memory: Path = Path("/dev/shm")) -> dict[str, str]:
    """Return Ray's option that puts shared data into `directory` where no file can be made in the shared memory.

    Ray itself takes another place where that is too small; without it its processes end.
    """
    usable = os.access(shared_memory, os.R_OK | os.W_OK | os.X_OK)
    return {} if usable else {"_plasma_directory": str(directory)}


@contextmanager
def _given_ports(ports: Mapping[str, int]) -> Iterator[None]:
    """Give the agents of a Ray that starts within the block their ports, for which `ray.init` has no options.

    The raylet waits 15 s, whatever is configured, for agents to tell the ports that they choose, and then ends.
    """
    parameter: Any = importlib.import_module("ray._private.parameter")
    services: Any = importlib.import_module("ray._private.services")
    plain, process = parameter.RayParams, services.start_ray_process

    def start_process(command: list[str], kind: str, *rest: Any, **options: Any) -> Any:
        # Ray tells the agent this port, and forgets to tell the raylet.
        told = [f"--dashboard_agent_listen_port={ports['dashboard_agent_listen_port']}"] if kind == "raylet" else []
        return process([*command, *told], kind, *rest, **options)

    parameter.RayParams, services.start_ray_process = partial(plain, **ports), start_process
    try:
        yield
    finally:
        parameter.RayParams, services.start_ray_process = plain, process


def _free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nothing listens at, and that no outgoing connection is given meanwhile."""
    # Those of connections begin at 32768 on Linux, higher elsewhere; the workers of Ray have those below 20000.
    candidates = random.SystemRandom().sample(_AGENT_RANGE, len(_AGENT_RANGE))
    return list(islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def end_processes() -> None:
    """Kill the processes of Ray below this one: its agents would outlive the server that they report to by a minute."""
    psutil = sys.modules.get("psutil")  # comes with Ray; an import could wait for that in the main thread
    if psutil is None:
        return
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any("ray::" in argument or "/ray/" in argument for argument in child.cmdline()):
                child.kill()


def _run_python(code: str, *arguments: str, timeout: float, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip


def _failure(cause: str, directory: Path) -> str:
    return (
        f"Ray did not start in {ATTEMPTS} attempts: {cause}; its log is in {directory / 'session_latest' / 'logs'}. "
        f"Once the machine is less busy: {command('ensemble', *sys.argv[1:])}"
    )


def private_directory() -> Path:
    """Return a directory of this user alone, short enough for Ray's sockets; StorageError where none can be made."""
    name = f"ensemble-{os.getuid()}"
    chosen = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    problems = {}
    for base in dict.fromkeys(filter(None, chosen)):
        directory = Path(base).absolute() / name
        if len(str(directory / "ray")) > _LONGEST:
            problems[base] = "its path is too long for sockets"
        elif (problem := _closed_to_others(directory)) is None:
            return directory
        else:
            problems[base] = problem
    tried = "; ".join(f"{base}: {problem}" for base, problem in problems.items())
    raise StorageError(f"no directory for Ray's files ({tried}); RAY_TMPDIR names another")


def _closed_to_others(directory: Path) -> str | None:
    """Make a directory of mode 0700, or close one that is ours; return why it cannot be used, or None."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = directory.lstat()  # not through a link that somebody else may have set
        if directory.is_symlink() or owner.st_uid != os.getuid():
            return f"{directory.name} belongs to somebody else"
        directory.chmod(0o700)
        with tempfile.TemporaryFile(dir=directory):
            return None
    except OSError as error:
        return error.strerror or str(error)


def remove_old_sessions(directory: Path) -> None:
    """Remove the files of Ray's ended sessions but for the newest ones: each has logs, and those of a kill more."""
    for session in sorted(directory.glob("session_2*"))[:-_SESSIONS_KEPT]:  # their names begin with the time
        # Not by the process alone: another container may share the directory.
        if _ended(session.name.rpartition("_")[2]) and time.time() - _last_written(session) > _SILENT_SECONDS:
            shutil.rmtree(session, ignore_errors=True)


def _ended(process: str) -> bool:
    """Tell whether no process has this number."""
    try:
        os.kill(int(process), 0)
    except (OSError, ValueError) as error:
        return isinstance(error, ProcessLookupError)
    return False


def _last_written(session: Path) -> float:
    """Return the time of the last change to a session's logs."""
    times = [0.0]
    for path in (session, *session.glob("logs/*")):
        with suppress(OSError):  # it is being removed
            times.append(path.lstat().st_mtime)
    return max(times)


def token_file() -> Path:
    """Return the path at which Ray reads the token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def ensure_token() -> None:
    """Make the token file if there is none, readable by its owner alone (Ray itself leaves it readable by all)."""
    path = token_file()
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # The mode is set when the file is created: a later chmod would leave a moment in which others can read the token.
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def ask_for_nodes(address: str) -> tuple[str, list[str]]:
    """Return the address of a running Ray as HOST:PORT and those of its nodes; `auto` is the one on this machine.

    Raises UsageError, in one line, for anything else: no address, nothing that listens, no Ray, another token.
    """
    if address != "auto":
        _refuse_silent(address)
    try:
        # In a process of its own: Ray tries again for minutes, and prints as it does.
        asked = _run_python(
            _ASK_NODES, address, timeout=_REPLY_SECONDS,
            RAY_py_gcs_connect_timeout_s="2", RAY_gcs_rpc_server_connect_timeout_s="2",
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"--address {address}: no Ray answered within {_REPLY_SECONDS:.0f} s") from error
    if asked.returncode == 0:
        found, nodes = json.loads(asked.stdout.splitlines()[-1])
        return str(found), list(nodes)
    raise UsageError(f"--address {address}: {_reason(address, asked.stderr)}")


def _reason(address: str, errors: str) -> str:
    if "AuthenticationError" in errors:
        return (
            f"this Ray takes another token than that of {token_file()}; RAY_AUTH_TOKEN_PATH names the file with its own"
        )
    if address == "auto":
        return "no Ray runs on this machine"
    return "something listens there that is no head of Ray (that of `ray start --head` is at port 6379 by default)"


def _refuse_silent(address: str) -> None:
    """Raise UsageError where nothing listens at an address, or where it is none."""
    scheme, found, rest = address.rpartition("://")
    if found:
        host = rest.split(":")[0].split("/")[0] or "HOST"
        raise UsageError(
            f"--address {address}: {scheme}:// is for {'jobs' if scheme.startswith('http') else 'Ray Client'}; give "
            f"the head of Ray itself, such as {host}:6379"
            + (f", or submit: ray job submit --address {address} -- .." if scheme.startswith("http") else "")
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"--address {address}: not an address; give HOST:PORT, auto or local")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--address {address}: nothing listens at {address} ({error})") from error
