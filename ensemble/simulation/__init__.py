"""Simulated environments: MuJoCo physics, written as HDF5 in a layout that `ensemble convert` reads.

To add one: a module with `simulate`, an entry here, its name in `data.source`. MuJoCo and gymnasium are imported in
this folder alone.
"""

import importlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.config.data import SimulateConfig
from ensemble.errors import UsageError
from ensemble.machine import free_memory, memory
from ensemble.text import byte_size, plural

if TYPE_CHECKING:
    from ensemble.schema import OnProgress

# Names and not functions: a command line that only lists them must not import MuJoCo.
ENVIRONMENTS = {
    "double_pendulum": "ensemble.simulation.double_pendulum",
    "inverted_pendulum": "ensemble.simulation.inverted_pendulum",
}


_NUMBERS = 20  # float32 a transition in a file, about: states, next states, controls, gravity, pose, flags
_IN_MEMORY = 2  # the file is in memory once, and what it is made of


def simulate(environment: str, config: SimulateConfig, out: Path, progress: "OnProgress | None" = None) -> Path:
    """Simulate trajectories of an environment into the HDF5 file `out`, and return it.

    UsageError for an unknown environment, and for more than the free memory holds.
    """
    if environment not in ENVIRONMENTS:
        raise UsageError(f"unknown environment '{environment}'; there is {', '.join(ENVIRONMENTS)}")
    _check_room(config, out)
    module = importlib.import_module(ENVIRONMENTS[environment])
    path: Path = module.simulate(config, out, progress)
    return path


def _check_room(config: SimulateConfig, out: Path) -> None:
    """Raise UsageError when a simulation fits neither the disk nor the memory."""
    # Before memory is taken: the system may grant more than there is, and kill the process later.
    size = 4 * _NUMBERS * config.episodes * (config.steps + 1)
    needed = _IN_MEMORY * size
    folder = next(folder for folder in out.absolute().parents if folder.is_dir())
    free, available = shutil.disk_usage(folder).free, free_memory() or memory()
    where = f"{byte_size(free)} free in {folder}, {byte_size(available)} of memory"
    if size > free or needed > available:
        raise UsageError(
            f"{plural(config.episodes, 'episode', ',')} of {plural(config.steps, 'step', ',')} are about "
            f"{byte_size(size)}, and need {byte_size(needed)} of memory; there are {where}: simulate fewer, or several "
            "files with other seeds"
        )
