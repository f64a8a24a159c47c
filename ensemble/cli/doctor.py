"""`ensemble doctor`: software, hardware and storage of this machine, and their problems."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from ensemble import __version__
from ensemble.cli.options import say
from ensemble.machine import cores, free_memory, memory
from ensemble.text import byte_size

PACKAGES = (
    *("torch", "ray", "optuna", "cmaes", "numpy", "scipy", "h5py", "pyarrow", "safetensors"),
    *("mujoco", "gymnasium", "tokenizers", "matplotlib", "pillow", "jinja2", "tensorboard"),
)


@click.command()
def doctor() -> None:
    """Report what this machine offers, and correct the mode of Ray's token file.

    \b
    ensemble doctor
    """
    for name, value in [*_software(), *_hardware(), *_storage(), ("Ray token", _token())]:
        say(f"{name:<12}{value}")
    say("next: ensemble tune --space quickstart.yaml")


def _software() -> Iterator[tuple[str, str]]:
    yield "ensemble", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "missing: install it with `pip install .`"


def _hardware() -> Iterator[tuple[str, str]]:
    from ensemble.planning.capacity import bf16_support, gpu_names

    free, total = free_memory(), byte_size(memory())
    yield "cores", f"{cores()} usable of {os.cpu_count()}"
    yield "memory", total if free is None else f"{byte_size(free)} free of {total}"
    yield "GPUs", ", ".join(gpu_names()) or "none"
    yield "bf16", bf16_support()


def _storage() -> Iterator[tuple[str, str]]:
    places = {"disk here": Path.cwd(), "disk shm": Path("/dev/shm"), "disk tmp": Path(tempfile.gettempdir())}
    for name, path in places.items():
        if path.is_dir():
            usage = shutil.disk_usage(path)
            yield name, f"{byte_size(usage.free)} free of {byte_size(usage.total)}, {path}"


def _token() -> str:
    """Check Ray's authentication token; set the mode of a file that others can read to 0600."""
    from ensemble.study.start import token_file

    path = token_file()
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return f"RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']}: Ray runs code of any caller; set it to token"
    if not path.is_file():
        return f"none yet; the first run makes {path}"
    # The token is enough to run code on the cluster.
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        path.chmod(0o600)
        return f"{path} had mode {mode:04o}: others could read it; fixed to 0600"
    return f"{path}, mode {mode:04o}"
