"""The expert of tiny pi0's data: two nested PID controllers, for any number of pendulums at once.

The outer one sets the angle that brings the cart to rest, the inner one the control that brings the pole to this angle
(ruiming-wu/FAST_Flow_Matching, data_collection/env_pid.py and pid.py), with dt = 0.02:

    theta_ref = clip(PID(0 - x_dot; 0.08, 0.05, 0.001), -pi/12, pi/12)
    u         = clip(PID(theta_ref - 0.00166666 - theta; -3, -0.01, -0.15), -3, 3)
    PID(e)    = Kp e + Ki integral(e dt) + Kd (e - previous e) / dt      previous e = 0 at the first step

0.00166666 rad is the angle at which the pole balances. dt is MuJoCo's step as published, although a step of the
environment takes 0.04 s.
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
    """The nested PID as a controller: one action per call, with a state of its errors until the next reset."""

    def __init__(self, gains: Float64 = GAINS) -> None:
        """Set `gains` (.., 6) in the order of `GAINS`; the leading axes are those of the observations, or none."""
        self._gains = gains
        self.reset()

    def reset(self) -> None:
        """Clear integrals and errors."""
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
        # The first step's derivative is error / DT, as published: the previous error starts at 0.
        derivative = (error - self._previous) / DT
        self._previous = error
        output: Floats = self._kp * error + self._ki * self._integral + self._kd * derivative
        return output
