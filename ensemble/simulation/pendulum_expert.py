"""The expert that made tiny pi0's data: two nested PID controllers, for any number of pendulums at once.

The outer one asks for the lean that brings the cart to rest, the inner one for the control that brings the pole there
(ruiming-wu/FAST_Flow_Matching, data_collection/env_pid.py and pid.py), with dt = 0.02:

    theta_ref = clip(PID(0 - x_dot; 0.08, 0.05, 0.001), -pi/12, pi/12)
    u         = clip(PID(theta_ref - 0.00166666 - theta; -3, -0.01, -0.15), -3, 3)
    PID(e)    = Kp e + Ki integral(e dt) + Kd (e - previous e) / dt      previous e = 0 at the first step

0.00166666 rad is the lean of the pole itself. dt is the step of MuJoCo, though a step of the environment takes 0.04 s:
as published.
"""

import numpy as np

from ensemble.schema import Float64
from ensemble.simulation.controllers import Floats
from ensemble.simulation.pendulum_env import CONTROL_LIMIT

GAINS = np.array([-3.0, -0.01, -0.15, 0.08, 0.05, 0.001])  # Kp, Ki, Kd of the angle, then of the velocity
THETA_REF_LIMIT = np.pi / 12  # rad
LEAN = 0.00166666  # rad
DT = 0.02  # s


class PendulumExpert:
    """The nested PID as a controller: one action at a time, with a memory of its errors until the next reset."""

    def __init__(self, gains: Float64 = GAINS) -> None:
        """Take `gains` (.., 6) in the order of `GAINS`; the axes in front are those of the observations, or none."""
        self._gains = gains
        self.reset()

    def reset(self) -> None:
        """Forget integrals and errors."""
        self._angle, self._velocity = _PID(self._gains[..., :3]), _PID(self._gains[..., 3:])

    def act(self, observation: Floats) -> Float64:
        """Return the next action (.., 1, 1) within +-3 from observations (.., 4)."""
        theta, velocity = observation[..., 1], observation[..., 2]
        theta_ref = np.clip(self._velocity(-velocity), -THETA_REF_LIMIT, THETA_REF_LIMIT)
        control = np.clip(self._angle(theta_ref - LEAN - theta), -CONTROL_LIMIT, CONTROL_LIMIT)
        return np.asarray(control, dtype=np.float64)[..., None, None]


class _PID:
    def __init__(self, gains: Float64) -> None:
        self._kp, self._ki, self._kd = np.moveaxis(gains, -1, 0)
        self._integral: Floats | float = 0.0
        self._previous: Floats | float = 0.0

    def __call__(self, error: Floats) -> Floats:
        self._integral = self._integral + error * DT
        derivative = (error - self._previous) / DT
        self._previous = error
        output: Floats = self._kp * error + self._ki * self._integral + self._kd * derivative
        return output
