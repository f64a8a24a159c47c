"""`ensemble doctor`: what this machine offers, and what of it is out of order."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from ensemble import __version__
from ensemble.cli.options import say

PACKAGES = (
    *("torch", "ray", "optuna", "cmaes", "numpy", "scipy", "h5py", "pyarrow", "safetensors"),
    *("mujoco", "gymnasium", "tokenizers", "matplotlib", "pillow", "jinja2", "tensorboard"),
)
GIB = 2**30


@click.command()
def doctor() -> None:
    """Say what this machine offers, and put the token file of Ray in order.

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
    from ensemble.planning.capacity import bf16, gpu_names
    from ensemble.study.cluster import cpu_count

    page = os.sysconf("SC_PAGE_SIZE")
    free, total = os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
    yield "cores", f"{cpu_count()} usable of {os.cpu_count()}"
    yield "memory", f"{free / GIB:.1f} GiB unused of {total / GIB:.1f} GiB"
    yield "GPUs", ", ".join(gpu_names()) or "none"
    yield "bf16", bf16()


def _storage() -> Iterator[tuple[str, str]]:
    for path in (Path.cwd(), Path("/dev/shm"), Path("/tmp")):
        if path.is_dir():
            usage = shutil.disk_usage(path)
            yield f"disk {path.name or path}", f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f} GiB, {path}"


def _token() -> str:
    """Check the token that Ray asks of its callers; close a file that others can read."""
    from ensemble.study.cluster import token_file

    path = token_file()
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return f"RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']}: anyone who reaches Ray runs code; set it to token"
    if not path.is_file():
        return f"none yet; the first run makes {path}"
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        path.chmod(0o600)
        return f"{path} had mode {mode:04o}: others could read it; fixed to 0600"
    return f"{path}, mode {mode:04o}"
