"""A small driven pendulum, integrated here, as the data of the training tests."""

import json
from typing import Any

import numpy as np

from ensemble.config import Experiment
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.schema import Feature

FEATURES = (
    Feature("theta", 1, "state", ("theta",), (True,)),
    Feature("omega", 1, "state", ("omega",), (False,)),
    Feature("torque", 1, "control", ("torque",), (False,)),
)


def trajectories(episodes: int = 30, points: int = 41, seed: int = 0) -> Trajectories:
    """Simulate theta'' = -sin theta + torque by semi-implicit Euler at 0.1 s."""
    rng = np.random.default_rng(seed)
    torque = rng.uniform(-1, 1, (episodes, points))
    torque[:, -1] = 0
    theta, omega = rng.uniform(-1, 1, (2, episodes))
    rows = np.empty((episodes, points, 3), np.float32)
    for t in range(points):
        rows[:, t] = np.stack([theta, omega, torque[:, t]], axis=1)
        omega = omega + 0.1 * (torque[:, t] - np.sin(theta))
        theta = theta + 0.1 * omega
    flat = rows.reshape(-1, 3)
    flat.setflags(write=False)
    lengths = np.full(episodes, points, np.int64)
    hashes = np.arange(1, episodes + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = tuple(f"episode_{i}" for i in range(episodes))
    first = np.cumsum(lengths) - lengths
    return Trajectories(flat, FEATURES, Segments(first, lengths, hashes), keys, (None,) * episodes, "fingerprint", 0.1)


def experiment(**sections: dict[str, Any]) -> Experiment:
    """Return a tiny experiment; sections are merged over the defaults here, a named family stands alone."""
    tree: dict[str, Any] = {
        "experiment": "tiny",
        "data": {"source": "double_pendulum"},
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 8, "history": 4, "head": {"layer_sizes": [8]}},
        "train": {
            "steps": 12,
            "batch_size": 8,
            "validate_every": 4,
            "checkpoint_every": 4,
            "validation_windows": 32,
            "rollout": {"horizon": 3, "windows": 16},
        },
        "logging": {"tensorboard": False},
    }
    for name, values in sections.items():
        tree[name] = values if "family" in values else {**tree.get(name, {}), **values}
    return Experiment.model_validate_json(json.dumps(tree))
