"""ALOHA and ACT: a file for each episode, with `observations/qpos` and `action`, one row a point.

Source: tonyzhaozh/act, record_sim_episodes.py and utils.py. The name of the file is the key of its episode; several
files, or their folder, are one data set. Camera pictures are left out.
"""

from ensemble.config.data import DataConfig
from ensemble.data.layouts.container import Container, require
from ensemble.data.layouts.recording import Recording
from ensemble.data.layouts.rollouts import Column, rollout_recording
from ensemble.data.layouts.vectors import vectors_in

TITLE = "ALOHA"
_REQUIRED = ("observations/qpos", "action")
_STATES = ("observations/qpos", "observations/qvel")
_CONTROLS = ("action", "base_action")  # the second one of a mobile base


def wanted(container: Container) -> dict[str, bool]:
    """Return the names that this layout needs, and whether each exists."""
    return {key: container.is_array(key) for key in _REQUIRED}


def open_recording(container: Container, data: DataConfig) -> Recording:
    """Open a file of this layout; DataError where it is inconsistent."""
    require(container, _REQUIRED, "aloha")
    observed = vectors_in(container, "", ["observations"])
    controls = vectors_in(container, "", [key for key in _CONTROLS if container.is_array(key)])
    columns = [Column(key, "state") for key in _STATES if key in observed.keys]
    columns += [Column(key, "control", per_step=True) for key in controls.keys]
    columns += [Column(key, "auxiliary") for key in observed.keys if key not in _STATES]  # efforts, as measured
    name = container.path.stem
    return rollout_recording(
        container, "aloha", TITLE, [""], [name], columns, last_point=False, notices=observed.notices + controls.notices
    )
