"""Expert demonstrations of the inverted pendulum, the training data of tiny pi0: 4,000 trajectories of 100 steps.

Each trajectory has its own start, expert and noise: the state within +-0.5, each of the six gains scaled by
U(0.9, 1.1), and U(-0.05, 0.05) added to every applied control. The recorded control is the expert's, without the noise:
the target of imitation, not the motor's input. Written in D4RL's layout, which `ensemble convert` reads without a map.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ensemble import streams
from ensemble.config.data import SimulateConfig
from ensemble.data.layouts.d4rl import write_d4rl
from ensemble.errors import DataError, UsageError
from ensemble.schema import Float32, Float64, OnProgress
from ensemble.simulation.pendulum_env import CONTROL_LIMIT, START_SCALE
from ensemble.simulation.pendulum_expert import GAINS, PendulumExpert
from ensemble.simulation.pendulum_physics import Pendulums, first_fall

GAIN_SPREAD = 0.1  # of each gain, relative
ACTION_NOISE = 0.05  # motor units
BATCH = 4096  # trajectories simulated at once


class Draws(NamedTuple):
    """The random quantities of a batch of demonstrations."""

    start: Float64  # (B, 4)
    gains: Float64  # (B, 6)
    noise: Float64  # (B, T)


def simulate(config: SimulateConfig, out: Path, progress: OnProgress | None = None) -> Path:
    """Write `config.episodes` demonstrations of `config.steps` steps into the HDF5 file `out`, in D4RL's layout.

    Trajectory i depends on `config.seed` and i alone, not on the number of trajectories or threads.

    Raises:
        UsageError: `passive` is false, but the expert sets the torques.
        DataError: a pole fell, which the flags of the file could not express.
    """
    if not config.passive:
        raise UsageError("simulate.passive: false (--torques) is for double_pendulum: here the expert drives")
    states = np.empty((config.episodes, config.steps + 1, 4), np.float32)
    actions = np.empty((config.episodes, config.steps, 1), np.float32)
    for first, draws in _batches(config):
        part = slice(first, first + len(draws.start))
        states[part], actions[part] = demonstrate(draws)
        if progress:
            progress(part.stop, config.episodes)
    _check_upright(states)
    write_d4rl(out, states, actions)
    return out


def draw(config: SimulateConfig, first: int, count: int) -> Draws:
    """Draw the random quantities of trajectories `first` to `first + count - 1`, each from its own key."""
    trajectory = np.arange(first, first + count, dtype=np.uint64)
    keys = streams.mix(trajectory + np.uint64(streams.key(config.seed, "simulate/inverted_pendulum")))
    uniform = streams.signed_uniform(keys, 10 + config.steps)
    return Draws(
        START_SCALE * uniform[:, :4],
        GAINS * (1 + GAIN_SPREAD * uniform[:, 4:10]),
        ACTION_NOISE * uniform[:, 10:],
    )


def demonstrate(draws: Draws) -> tuple[Float64, Float64]:
    """Return the states (B, T + 1, 4) under the expert, and its controls (B, T, 1) without the applied noise."""
    pendulums, expert = Pendulums(draws.start), PendulumExpert(draws.gains)
    states = np.empty((len(draws.start), draws.noise.shape[1] + 1, 4))
    actions = np.empty((*draws.noise.shape, 1))
    states[:, 0] = pendulums.state
    for step, noise in enumerate(draws.noise.T):
        actions[:, step] = expert.act(pendulums.state)[:, 0]
        applied = np.clip(actions[:, step] + noise[:, None], -CONTROL_LIMIT, CONTROL_LIMIT)
        states[:, step + 1] = pendulums.advance(applied[:, None])[:, 0]
    return states, actions


def _batches(config: SimulateConfig) -> Iterator[tuple[int, Draws]]:
    for first in range(0, config.episodes, BATCH):
        yield first, draw(config, first, min(BATCH, config.episodes - first))


def _check_upright(states: Float32) -> None:
    fallen = np.flatnonzero(first_fall(states.astype(np.float64)) < states.shape[1])
    if len(fallen):
        raise DataError(
            f"the expert dropped the pole in {len(fallen)} of {len(states)} trajectories, first {fallen[0]}"
        )
