"""Simulated environments: MuJoCo physics, written as HDF5 in a layout that `ensemble convert` reads.

To add one: a module with `simulate`, an entry here, its name in `data.source`. MuJoCo and gymnasium are imported in
this folder alone.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.config.data import SimulateConfig
from ensemble.errors import UsageError
from ensemble.machine import free_memory, memory
from ensemble.text import byte_size

if TYPE_CHECKING:
    from ensemble.schema import OnProgress

_BYTES_OF_A_POINT = 64  # in memory at most: states, torques, and what is derived from them for the file

# Names and not functions: a command line that only lists them must not import MuJoCo.
ENVIRONMENTS = {
    "double_pendulum": "ensemble.simulation.double_pendulum",
    "inverted_pendulum": "ensemble.simulation.inverted_pendulum",
}


def simulate(environment: str, config: SimulateConfig, out: Path, progress: "OnProgress | None" = None) -> Path:
    """Simulate trajectories of an environment into the HDF5 file `out`, and return it.

    UsageError for an unknown environment, and for more than the free memory holds.
    """
    if environment not in ENVIRONMENTS:
        raise UsageError(f"unknown environment '{environment}'; there is {', '.join(ENVIRONMENTS)}")
    _refuse_too_large(config)
    module = importlib.import_module(ENVIRONMENTS[environment])
    path: Path = module.simulate(config, out, progress)
    return path


def _refuse_too_large(config: SimulateConfig) -> None:
    """Raise UsageError before memory is taken: the system may grant more than there is, and kill the process later."""
    needed = _BYTES_OF_A_POINT * config.episodes * (config.steps + 1)
    available = free_memory() or memory()
    if needed > available:
        raise UsageError(
            f"{config.episodes:,} episodes of {config.steps:,} transitions need about {byte_size(needed)} of memory, "
            f"{byte_size(available)} are free; simulate fewer, or several files with other seeds"
        )
