"""Closed loops: any controller drives the inverted pendulum, all members and all episodes at once.

The protocol is that of tiny pi0 (ruiming-wu/FAST_Flow_Matching, inference/main_pi0.py): 100 steps, a new chunk of
actions every `replan` steps, U(-noise, noise) added to each action, the sum clipped to +-3. Starts and noise come from
streams keyed by (seed, "evaluation") and the episode's number, so every member and every controller meets the same
episodes: differences between them are paired. Counted as there:

    steps           taken until the pole fell (|theta| > pi/4), the step that dropped it included
    success         all 100 steps taken; a pole that falls exactly at the last step still counts
    converged       |theta| < 0.02 rad after each of 10 consecutive steps, i + 1 to i + 10; i of the first such ten
    cart velocity   std over all steps of all episodes, in m/s

Numpy in, numpy out: a controller may be a network, but this file does not know it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ensemble import streams
from ensemble.data.layouts.d4rl import write_d4rl
from ensemble.schema import Float64, Int64
from ensemble.simulation.controllers import Controller
from ensemble.simulation.pendulum_env import CONTROL_LIMIT, EPISODE_STEPS, START_SCALE
from ensemble.simulation.pendulum_physics import Pendulums, first_fall

CALM = 0.02  # rad
CALM_STEPS = 10


class Episodes(NamedTuple):
    """Where episodes start, and what disturbs them; N episodes of T steps."""

    start: Float64  # (N, 4)
    noise: Float64  # (N, T) in [-1, 1), to be scaled


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to each of M members in each of N episodes of T steps."""

    states: Float64  # (M, N, T + 1, 4); after an episode's end the physics went on
    actions: Float64  # (M, N, T, 1) what the controller said, within the motor's limits, without the noise
    steps: Int64  # (M, N) taken before the episode ended, T at most
    fell: npt.NDArray[np.bool_]  # (M, N) whether it ended by a fall, or by an action that is no number
    converged: Float64  # (M, N) the step from which on the pole was calm; NaN where it never was
    velocity: Float64  # (M, N) sum over the steps of the cart's velocity in m/s
    velocity_squares: Float64  # (M, N) sum of its squares
    chunk_seconds: float  # mean time of `act` for all M * N observations at once

    @property
    def success(self) -> npt.NDArray[np.bool_]:
        """Whether all steps were taken (M, N)."""
        return np.equal(self.steps, self.actions.shape[2])

    def pooled(self) -> "Outcome":
        """Return the same episodes as those of one member (1, M * N), as the published figures are over."""
        arrays = {name: getattr(self, name) for name in self.__slots__ if name != "chunk_seconds"}
        return replace(self, **{name: a.reshape(1, -1, *a.shape[2:]) for name, a in arrays.items()})


def draw_episodes(count: int = 300, steps: int = EPISODE_STEPS, seed: int = 0) -> Episodes:
    """Draw `count` episodes; episode i depends on `seed` and i alone, its first steps not on how many there are."""
    keys = streams.mix(np.arange(count, dtype=np.uint64) + np.uint64(streams.key(seed, "evaluation")))
    uniform = streams.signed_uniform(keys, 4 + steps)
    return Episodes(START_SCALE * uniform[:, :4], uniform[:, 4:])


def run_episodes(
    controller: Controller, episodes: Episodes, *, members: int = 1, replan: int = 10, noise: float = 0.05
) -> Outcome:
    """Let a controller drive `members` (M) times the same `episodes` (N), and count what happened.

    It is reset once, then asked with observations (M, N, 4) for chunks (M, N, H, 1) every `replan` steps, or every H
    where its chunks are shorter. Episodes that ended stay in the batch and their further course is not counted.
    `noise` is in motor units.
    """
    count, steps = episodes.noise.shape
    pendulums = Pendulums(np.tile(episodes.start, (members, 1)))
    disturbance = noise * np.tile(episodes.noise, (members, 1))[..., None]  # (M * N, T, 1)
    states = np.empty((members * count, steps + 1, 4))
    actions = np.empty((members * count, steps, 1))
    states[:, 0] = pendulums.state
    seconds, step = [], 0
    controller.reset()
    while step < steps:
        begin = time.perf_counter()
        chunk = np.asarray(controller.act(pendulums.state.reshape(members, count, 4)), dtype=np.float64)
        seconds.append(time.perf_counter() - begin)
        if chunk.ndim != 4 or chunk.shape[:2] != (members, count) or not chunk.shape[2] or chunk.shape[3] != 1:
            raise ValueError(f"the controller's chunk must be ({members}, {count}, H, 1), not {chunk.shape}")
        part = slice(step, min(step + min(replan, chunk.shape[2]), steps))
        actions[:, part] = chunk.reshape(members * count, -1, 1)[:, : part.stop - part.start]
        applied = np.clip(np.nan_to_num(actions[:, part]) + disturbance[:, part], -CONTROL_LIMIT, CONTROL_LIMIT)
        states[:, part.start + 1 : part.stop + 1] = pendulums.advance(applied)
        step = part.stop
    shape = (members, count)
    return _count(states.reshape(*shape, -1, 4), actions.reshape(*shape, -1, 1), float(np.mean(seconds)))


def _count(states: Float64, actions: Float64, seconds: float) -> Outcome:
    steps = actions.shape[2]
    lost = ~np.isfinite(actions[..., 0])
    fall = np.minimum(first_fall(states), np.where(lost.any(axis=-1), lost.argmax(axis=-1), steps + 1))
    taken = np.minimum(fall, steps)
    counted = np.arange(steps) < taken[..., None]  # (M, N, T)
    velocity = np.where(counted, states[:, :, 1:, 2], 0)
    calm = counted & (np.abs(states[:, :, 1:, 1]) < CALM)
    return Outcome(
        states=states,
        actions=np.clip(actions, -CONTROL_LIMIT, CONTROL_LIMIT),
        steps=taken,
        fell=fall <= steps,
        converged=first_calm(calm),
        velocity=velocity.sum(axis=-1),
        velocity_squares=np.square(velocity).sum(axis=-1),
        chunk_seconds=seconds,
    )


def first_calm(calm: npt.NDArray[np.bool_]) -> Float64:
    """Return the first i with calm[i] to calm[i + 9] all true, of flags (.., T): (..), NaN where there is none."""
    if calm.shape[-1] < CALM_STEPS:
        return np.full(calm.shape[:-1], np.nan)
    runs = np.lib.stride_tricks.sliding_window_view(calm, CALM_STEPS, axis=-1).all(axis=-1)
    return np.where(runs.any(axis=-1), runs.argmax(axis=-1), np.nan)


def summarize(outcome: Outcome) -> Mapping[str, Float64]:
    """Return for each member (M,) its rates and means over the episodes, with their sampling error `<name>_se`.

    `success` and `converge_rate` (binomial errors), `converge_step` (over the converged, NaN without any) and
    `episode_length` in steps, and `cart_velocity_std` in m/s, without an error since its steps are not independent. The
    errors are those of drawing other episodes; members differ beyond them.
    """
    converged = np.isfinite(outcome.converged)
    everything = np.ones_like(converged)
    columns = {
        "success": (outcome.success, everything),
        "converge_rate": (converged, everything),
        "converge_step": (outcome.converged, converged),
        "episode_length": (outcome.steps, everything),
    }
    rows: dict[str, Float64] = {}
    for name, (values, kept) in columns.items():
        rows[name], rows[f"{name}_se"] = _mean_and_error(np.asarray(values, dtype=np.float64), kept)
    count = outcome.steps.sum(axis=1)
    with np.errstate(invalid="ignore"):  # no step at all: NaN
        mean, square = outcome.velocity.sum(axis=1) / count, outcome.velocity_squares.sum(axis=1) / count
    return rows | {"cart_velocity_std": np.sqrt(np.maximum(square - np.square(mean), 0))}


def _mean_and_error(values: Float64, kept: npt.NDArray[np.bool_]) -> tuple[Float64, Float64]:
    """Return mean and its standard error, std / sqrt(n) with ddof 0: sqrt(p (1 - p) / n) for a rate."""
    n, values = kept.sum(axis=1), np.where(kept, values, 0)
    with np.errstate(invalid="ignore"):
        mean = values.sum(axis=1) / n
        variance = np.where(kept, np.square(values - mean[:, None]), 0).sum(axis=1) / n
        return mean, np.sqrt(variance / n)


def record_episodes(outcome: Outcome, path: Path) -> None:
    """Write the episodes up to their ends as an HDF5 file in D4RL's layout, member by member; falls are terminals.

    Observations and the controller's own actions, clipped and without the noise. Raises StorageError.
    """
    flat = outcome.pooled()
    write_d4rl(path, flat.states[0], flat.actions[0], flat.steps[0], flat.fell[0])
