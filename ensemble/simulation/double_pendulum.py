"""The double pendulum of NeRD (Xu et al. 2025) and axion, in MuJoCo: two capsules that swing in the x-z plane.

State [q0, q1, qd0, qd1] in rad and rad/s: [0, 0, 0, 0] is both links horizontal along x, [pi/2, 0, 0, 0] hanging at
rest. q1 is relative to the first link. Angles are not wrapped. Contacts are off.
"""

from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from ensemble import streams
from ensemble.config.data import SimulateConfig
from ensemble.data.layouts.nerd import write_nerd
from ensemble.errors import DataError
from ensemble.machine import cores
from ensemble.schema import Float32, Float64, OnProgress

FRAME = 1 / 60  # s between two points
SUBSTEPS = 10
HALF_LENGTH = 0.75  # m from a joint to the centre of its link
RADIUS = 0.1  # m
DENSITY = 500  # kg / m^3
HEIGHT = 5.0  # m above the ground of the first joint
LIMITS = np.array([np.pi, np.pi, 2 * np.pi, 4 * np.pi])  # of q0, q1 in rad and qd0, qd1 in rad/s
TORQUE_LIMIT = 1500.0  # N m
BATCH_FRAMES = 25_600  # per batch; their substeps take 12 MB

MODEL = f"""
<mujoco model="double_pendulum">
  <option timestep="{FRAME / SUBSTEPS!r}" gravity="0 0 -9.81" integrator="RK4">
    <flag contact="disable" constraint="disable"/>
  </option>
  <default>
    <joint type="hinge" axis="0 1 0"/>
    <geom type="capsule" fromto="0 0 0 {2 * HALF_LENGTH} 0 0" size="{RADIUS}" density="{DENSITY}"/>
  </default>
  <worldbody>
    <body name="upper" pos="0 0 {HEIGHT}">
      <joint name="shoulder"/>
      <geom/>
      <body name="lower" pos="{2 * HALF_LENGTH} 0 0">
        <joint name="elbow"/>
        <geom/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="shoulder"/>
    <motor joint="elbow"/>
  </actuator>
</mujoco>
"""


def simulate(config: SimulateConfig, out: Path, progress: OnProgress | None = None) -> Path:
    """Simulate `config.episodes` trajectories from random states into the HDF5 file `out`, in NeRD's layout.

    Trajectory i depends on `config.seed` and i alone, not on the number of trajectories or threads.
    """
    # Simulate in batches
    points = np.empty((config.episodes, config.steps + 1, 4), np.float32)
    torques = np.zeros((config.episodes, config.steps, 2), np.float32)
    for first, start, torque in _draws(config):
        part = slice(first, first + len(start))
        # Simulated with the float32 torques of the file, so that the file reproduces its own states.
        torques[part] = torque
        points[part] = rollout(start, torques[part])
        if progress:
            progress(part.stop, config.episodes)

    # Write them with the further arrays of NeRD's files
    write_nerd(
        out,
        points,
        None if config.passive else torques,
        env="Pendulum",
        dt=FRAME,
        extra={
            "gravity_dir": np.broadcast_to(np.array([0, 0, -1], np.float32), (*torques.shape[:2], 3)),
            "root_body_q": root_pose(points[:, :-1, 0]),
        },
        attributes={"joint_act_dim": 0} if config.passive else None,
    )
    return out


def rollout(start: Float64, torque: Float32) -> Float64:
    """Return the states (B, T + 1, 4) from the start (B, 4), under torques (B, T, 2) in N m, constant per frame."""
    model = mujoco.MjModel.from_xml_string(MODEL)
    threads = cores()
    initial = np.concatenate([np.zeros((len(start), 1)), start], axis=1)  # MuJoCo's state: time, q, qd
    with Rollout(nthread=threads) as engine:
        held = np.repeat(torque.astype(np.float64), SUBSTEPS, axis=1)
        states, _ = engine.rollout(model, [mujoco.MjData(model) for _ in range(threads)], initial, held)
    frames = states[:, SUBSTEPS - 1 :: SUBSTEPS]
    # MuJoCo stops a diverging trajectory without an error; its time then stays behind.
    whole = np.isclose(frames[..., 0], FRAME * np.arange(1, frames.shape[1] + 1)).all(axis=1)
    if not whole.all():
        raise DataError(f"the simulation of {np.count_nonzero(~whole)} of {len(start)} trajectories diverged")
    return np.concatenate([start[:, None], frames[..., 1:]], axis=1)


def root_pose(angle: Float32) -> Float32:
    """Return the pose (.., 7) of the first link's centre, xyz in m and quaternion xyzw, from its angle (..)."""
    zero = np.zeros_like(angle)
    x, z = HALF_LENGTH * np.cos(angle), HEIGHT - HALF_LENGTH * np.sin(angle)
    return np.stack([x, zero, z, zero, np.sin(angle / 2), zero, np.cos(angle / 2)], axis=-1)


def _draws(config: SimulateConfig) -> Iterator[tuple[int, Float64, Float64]]:
    """Yield batches: number of the first trajectory, initial states (b, 4), torques (b, T, 2)."""
    torques = 0 if config.passive else config.steps
    batch = max(8, BATCH_FRAMES // config.steps)
    for first in range(0, config.episodes, batch):
        trajectory = np.arange(first, min(first + batch, config.episodes), dtype=np.uint64)
        # One key per trajectory: the size of batches must not change the numbers.
        keys = streams.mix(trajectory + np.uint64(streams.key(config.seed, "simulate/double_pendulum")))
        uniform = streams.signed_uniform(keys, 4 + 2 * torques)
        torque = np.zeros((len(trajectory), config.steps, 2))
        torque[:, :torques] = TORQUE_LIMIT * uniform[:, 4:].reshape(len(trajectory), torques, 2)
        yield first, LIMITS * uniform[:, :4], torque
