"""Simulated environments: MuJoCo physics, written as HDF5 in a layout that `ensemble convert` reads.

To add one: a module with `simulate`, an entry here, its name in `data.source`. MuJoCo and gymnasium are imported in
this folder alone.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from ensemble.config.data import SimulateConfig
from ensemble.errors import UsageError

if TYPE_CHECKING:
    from ensemble.schema import OnProgress

# Names and not functions: a command line that only lists them must not import MuJoCo.
ENVIRONMENTS = {
    "double_pendulum": "ensemble.simulation.double_pendulum",
    "inverted_pendulum": "ensemble.simulation.inverted_pendulum",
}


def simulate(environment: str, config: SimulateConfig, out: Path, progress: "OnProgress | None" = None) -> Path:
    """Simulate trajectories of an environment into the HDF5 file `out`, and return it."""
    if environment not in ENVIRONMENTS:
        raise UsageError(f"unknown environment '{environment}'; there is {', '.join(ENVIRONMENTS)}")
    module = importlib.import_module(ENVIRONMENTS[environment])
    path: Path = module.simulate(config, out, progress)
    return path
