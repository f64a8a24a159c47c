"""Chunks of actions for tests: damped oscillations with a little noise, smooth as those of robots are."""

import numpy as np


def oscillations(count, horizon=50, width=1, seed=0, size=1.2):
    random = np.random.default_rng(seed)
    shape = (count, 1, width)
    time = np.arange(horizon)[:, None]
    decay, turn, phase = random.uniform(4, 25, shape), random.uniform(0.05, 0.4, shape), random.uniform(0, 6.3, shape)
    swing = random.normal(0, size, shape) * np.exp(-time / decay) * np.cos(turn * time + phase)
    return (swing + random.normal(0, 0.02, (count, horizon, width))).astype(np.float32)


def walks(count, horizon=50, width=3, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (count, horizon, width)).cumsum(axis=1)
