"""Many inverted pendulums at once: the physics of `pendulum_env`, to the bit, over all cores.

States (.., 4) are [x, theta, x_dot, theta_dot] in m, rad, m/s, rad/s, float64. Controls are motor units (100 N each),
constant for a step of 0.04 s and limited to +-3 by the model. Episodes do not end here: a fallen pole continues down to
the stops of its joints, and `first_fall` computes the end of its episode from the states.
"""

import mujoco
import numpy as np
import numpy.typing as npt
from mujoco.rollout import Rollout

from ensemble.errors import DataError
from ensemble.machine import cores
from ensemble.schema import Float64, Int64
from ensemble.simulation.pendulum_env import FRAME, FRAME_SKIP, fallen, pendulum_model


class Pendulums:
    """Pendulums that advance together, for closed loops; `state` (B, 4) is their current state."""

    def __init__(self, start: npt.ArrayLike) -> None:
        """Begin at states `start` (B, 4); ValueError for another shape or values that are not finite."""
        self.state: Float64 = np.array(start, dtype=np.float64)
        if self.state.ndim != 2 or self.state.shape[1] != 4 or not np.isfinite(self.state).all():
            raise ValueError(f"start must be finite states (B, 4), not {self.state.shape}")
        threads = min(cores(), len(self.state))
        self._model = pendulum_model()
        self._data = [mujoco.MjData(self._model) for _ in range(max(threads, 1))]
        # 0 runs in the calling thread: a pool of one thread would only add a switch per step.
        self._engine = Rollout(nthread=threads if threads > 1 else 0)

    def advance(self, controls: npt.ArrayLike) -> Float64:
        """Apply `controls` (B, k, 1), one per step, and return the states after each step (B, k, 4).

        Raises:
            ValueError: another shape, or controls that are not finite (MuJoCo would take them for 0).
            DataError: the physics diverged, which needs an extreme start.
        """
        controls = np.asarray(controls, dtype=np.float64)
        if controls.ndim != 3 or controls.shape[::2] != (len(self.state), 1) or not np.isfinite(controls).all():
            raise ValueError(f"controls must be finite numbers ({len(self.state)}, k, 1), not {controls.shape}")
        initial = np.concatenate([np.zeros((len(self.state), 1)), self.state], axis=1)  # MuJoCo's state: time, q, qd
        held = np.repeat(controls, FRAME_SKIP, axis=1)
        states, _ = self._engine.rollout(self._model, self._data, initial, held)
        frames = states[:, FRAME_SKIP - 1 :: FRAME_SKIP]
        # MuJoCo stops a diverging pendulum without an error; its time then stays behind.
        whole = np.isclose(frames[:, -1, 0], FRAME * frames.shape[1])
        if not whole.all():
            raise DataError(f"the simulation of {np.count_nonzero(~whole)} of {len(whole)} pendulums diverged")
        self.state = frames[:, -1, 1:].copy()
        after: Float64 = frames[..., 1:]
        return after


def rollout(start: npt.ArrayLike, controls: npt.ArrayLike) -> Float64:
    """Return the states (B, T + 1, 4) of `Pendulums` from the start (B, 4), under controls (B, T, 1)."""
    pendulums = Pendulums(start)
    return np.concatenate([pendulums.state[:, None], pendulums.advance(controls)], axis=1)


def first_fall(states: Float64) -> Int64:
    """Return the index (..) of the first fallen state of states (.., T + 1, 4), T + 1 without any."""
    down = fallen(states)
    first: Int64 = np.where(down.any(axis=-1), down.argmax(axis=-1), down.shape[-1])
    return first
