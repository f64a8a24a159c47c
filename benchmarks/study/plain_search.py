"""What a user would write instead of a search of ours: a training function for Tune that validates by rollouts.

The plain loop of `benchmarks/training/plain.py` on the data and the validation windows of ours, one thread.
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.training.plain import PlainGPT, PlainTrainer, WindowDataset, statistics_of, wrap
from ensemble.config import Experiment
from ensemble.data.splits import split_episodes
from ensemble.data.trajectories import read_trajectories
from ensemble.data.windows import Windows
from ensemble.open_loop.rollout import rollout_metrics, squared_errors
from ensemble.open_loop.state import StateLayout, error_scale, state_moments
from ensemble.schema import VALIDATION_ROLLOUT

HISTORY, HORIZON, VALIDATIONS = 5, 10, 20


def validation_interval(steps: int) -> int:
    """Return the steps between validations."""
    return max(1, steps // VALIDATIONS)


def write_archive(shards: Path, experiment: Experiment, path: Path) -> None:
    """Write the training episodes, and the windows and scale of the validation rollouts, as a user's npz."""
    data = read_trajectories(shards)
    splits = split_episodes(data, experiment.data.split, HISTORY)
    rows = np.concatenate([data.rows[:, data.columns(name)] for name in ("states", "gravity_dir")], axis=1)
    train = splits["train"]
    length = int(train.points[0])
    assert (train.points == length).all()
    inputs = np.stack([rows[first : first + length] for first in train.first])
    windows = Windows(data, splits["validation"], HISTORY + HORIZON - 1)
    points = windows.gather(windows.fixed(experiment.train.rollout.windows)).numpy()
    points = np.concatenate([points[..., data.columns(name)] for name in ("states", "gravity_dir")], axis=-1)
    scale = error_scale(state_moments(data, train))
    angles = np.array(data.feature("states").angles)
    states = np.ascontiguousarray(inputs[..., : len(angles)])
    np.savez(path, states=states, inputs=inputs, angles=angles, points=points, scale=scale)


@torch.no_grad()
def rollout_rmse(trainer: PlainTrainer, points: Tensor, scale: np.ndarray, layout: StateLayout) -> float:
    """Measure open-loop rollouts of points (n, T + H, D) as ours does."""
    s, width = trainer.statistics, len(layout.columns)
    points = points.clone()
    truth = points[:, HISTORY:, :width].numpy().copy()
    for step in range(HISTORY, HISTORY + HORIZON):
        x = points[:, step - HISTORY : step].clone()
        x[..., :width] = torch.where(trainer.angles, wrap(x[..., :width]), x[..., :width])
        out = trainer.model((x - s["mean"]) / torch.sqrt(s["variance"] + 1e-5))[:, -1]
        change = out * torch.sqrt(s["target_variance"] + 1e-5) + s["target_mean"]
        points[:, step, :width] = x[:, -1, :width] + change
    total = squared_errors(points[:, HISTORY:, :width].numpy(), truth, layout)
    return float(rollout_metrics(total, len(points), scale, layout, "validation")[VALIDATION_ROLLOUT])


def train_plain(config: Mapping[str, Any], report: Callable[[dict[str, float]], object]) -> None:
    """Train one seed with `width`, `batch`, `lr`, `schedule` for `steps`, and report each validation."""
    torch.set_num_threads(1)
    torch.manual_seed(config.get("seed", int.from_bytes(os.urandom(4), "little")))
    file = np.load(config["data"])
    states, inputs, angles = file["states"], file["inputs"], file["angles"]
    loader = DataLoader(WindowDataset(states, inputs, HISTORY), config["batch"], shuffle=True, drop_last=True)
    model = PlainGPT(inputs.shape[-1], states.shape[-1], config["width"], 1, 2, 16, 32)
    trainer = PlainTrainer(model, statistics_of(states, inputs, angles), torch.from_numpy(angles), config["lr"])
    width = len(angles)
    layout = StateLayout(tuple(range(width)), tuple(map(str, range(width))), tuple(map(bool, angles)))
    points = torch.from_numpy(file["points"])
    step, steps, every = 0, config["steps"], validation_interval(config["steps"])
    while True:
        for batch in loader:
            r = step / steps
            trainer.step(
                batch, config["lr"] * (0.5 * (1 + math.cos(math.pi * r)) if config["schedule"] == "cosine" else 1)
            )
            step += 1
            if step % every == 0:
                report({"rollout_rmse": rollout_rmse(trainer, points, file["scale"], layout)})
            if step == steps:
                return


def trainable(config: Mapping[str, Any]) -> None:
    """Train under Tune."""
    train_plain(config, tune.report)
