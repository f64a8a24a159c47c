"""The inverted pendulum of tiny pi0 (ruiming-wu/FAST_Flow_Matching) as a gymnasium environment: a pole on a cart.

It is gymnasium's InvertedPendulum-v5 with wider limits: an episode ends at |theta| > pi/4 instead of 0.2, the rail
extends from -10 to 10 m instead of -1 to 1, and the start is within +-0.5. Everything else is gymnasium's model file:
masses, damping, Runge-Kutta steps of 0.02 s, two per step, a motor of 100 N per unit of control within +-3.

Observation and state [x, theta, x_dot, theta_dot] in m, rad, m/s, rad/s; theta is 0 upright and positive towards +x.
One episode at a time, for any agent library; `pendulum_physics` has the same physics for thousands at once.
"""

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import numpy.typing as npt
from gymnasium import utils
from gymnasium.envs import mujoco as stock
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

from ensemble.schema import Float64

ENV_ID = "ensemble/InvertedPendulum-v0"
THETA_LIMIT = np.pi / 4  # rad; beyond it the pole has fallen
RAIL = 10.0  # m in both directions
CONTROL_LIMIT = 3.0  # motor units of 100 N
START_SCALE = 0.5  # bound of |x|, |theta|, |x_dot|, |theta_dot| at the start
FRAME_SKIP = 2
FRAME = 0.04  # s between two points: FRAME_SKIP steps of MuJoCo
EPISODE_STEPS = 100

# This model has no contacts and one island of joints; detecting either takes a quarter of a step.
# With warm starts, the physics at the stops of the joints would depend on more than the state, and an episode advanced
# in several calls would differ in the last digits from one advanced in a single call.
_DISABLED = (
    mujoco.mjtDisableBit.mjDSBL_CONTACT | mujoco.mjtDisableBit.mjDSBL_ISLAND | mujoco.mjtDisableBit.mjDSBL_WARMSTART
)

_ASSET = Path(str(stock.__file__)).parent / "assets" / "inverted_pendulum.xml"


def pendulum_model() -> mujoco.MjModel:
    """Return gymnasium's MuJoCo model with the longer rail."""
    return _widened(mujoco.MjModel.from_xml_path(str(_ASSET)))


def fallen(states: Float64) -> npt.NDArray[np.bool_]:
    """Return whether an episode ends at each of states (.., 4): |theta| > pi/4, or a value that is not finite."""
    return (np.abs(states[..., 1]) > THETA_LIMIT) | ~np.isfinite(states).all(axis=-1)


class PendulumEnv(InvertedPendulumEnv):
    """One inverted pendulum, registered as `ensemble/InvertedPendulum-v0` with a limit of 100 steps.

    Reward 1 for each step after which the pole has not fallen. Reset draws each entry of the state from
    U(-reset_noise_scale, reset_noise_scale). Other arguments are those of gymnasium's MujocoEnv (render_mode, ..).
    """

    def __init__(self, reset_noise_scale: float = START_SCALE, **kwargs: Any) -> None:
        super().__init__(reset_noise_scale=reset_noise_scale, **kwargs)
        utils.EzPickle.__init__(self, reset_noise_scale, **kwargs)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model, _ = super()._initialize_simulation()
        return _widened(model), mujoco.MjData(model)

    def step(self, action: npt.NDArray[Any]) -> tuple[Float64, np.float64, bool, bool, dict[str, np.float64]]:
        """Apply `action` (1,) for 0.04 s; return observation (4,), reward, terminated, truncated (False), info."""
        observation, *_ = super().step(action)  # type: ignore[no-untyped-call]
        terminated = bool(fallen(observation))
        reward = np.float64(not terminated)
        return observation, reward, terminated, False, {"reward_survive": reward}


def _widened(model: mujoco.MjModel) -> mujoco.MjModel:
    model.joint("slider").range[:] = (-RAIL, RAIL)
    model.geom("rail").size[1] = RAIL
    model.opt.disableflags |= _DISABLED
    return model


gymnasium.register(ENV_ID, entry_point=f"{__name__}:PendulumEnv", max_episode_steps=EPISODE_STEPS)
