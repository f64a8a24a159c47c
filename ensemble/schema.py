"""Shared names: roles, metrics, columns and Parquet schemas.

Everything here is public: notebooks read `members.parquet`, `curves.parquet` and `summary.parquet` by these names.
Floor 0: it imports no other module of the package and holds almost no behaviour.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Mode = Literal["min", "max"]  # which end of a metric is better
Say = Callable[[str], None]  # prints a line for the user
OnProgress = Callable[[int, int], None]  # (done, in all)
OnSetting = Callable[[str, int, int], None]  # (what runs, chunks so far, chunks in all)
Progress = Mapping[str, float | int | str]  # what a trial reports while it trains, by name

# The role of a feature for a model. `control` acts between two points of an episode and is known ahead in a rollout;
# `auxiliary` is stored and used only where an input names it (known ahead as well).
FeatureRole = Literal["state", "control", "output", "auxiliary"]
FEATURE_ROLES: tuple[FeatureRole, ...] = ("state", "control", "output", "auxiliary")

# The purpose of a member's training, and its end.
MemberRole = Literal["search", "finalist", "ensemble"]
Status = Literal["completed", "pruned", "diverged", "failed"]

TRAIN_LOSS = "train/loss"
LEARNING_RATE = "train/learning_rate"
GRADIENT_NORM_BEFORE = "train/gradient_norm_before_clip"
GRADIENT_NORM_AFTER = "train/gradient_norm_after_clip"
VALIDATION_LOSS = "validation/loss"
VALIDATION_ROLLOUT = "validation/rollout_rmse"
TEST_LOSS = "test/loss"
TEST_ROLLOUT = "test/rollout_rmse"
ACTION_MAE = "action_mae"  # of sampled chunks, mean over samples, steps and entries, in raw units; after "<split>/"
ACTION_MSE = "action_mse"
VALIDATION_ACTION = f"validation/{ACTION_MAE}"
TEST_ACTION = f"test/{ACTION_MAE}"
TEST_ACTION_SQUARED = f"test/{ACTION_MSE}"


def one_step_metric(split: str, label: str) -> str:
    """Name the root-mean-square one-step error of one state entry, in its own unit: `validation/one_step_rmse/q0`."""
    return f"{split}/one_step_rmse/{label}"


def rollout_metric(split: str, label: str) -> str:
    """Name the open-loop rollout error of one state entry, in its own unit: `test/rollout_rmse/q0`."""
    return f"{split}/rollout_rmse/{label}"


def rollout_step_metric(split: str, step: int) -> str:
    """Name the normalized rollout error at one step of the horizon, counted from 1: `test/rollout_rmse@10`."""
    return f"{split}/rollout_rmse@{step}"


def free_run_metric(split: str, label: str) -> str:
    """Name the error of free runs to the end of the episodes, in an entry's own unit: `test/free_run_rmse/level`."""
    return f"{split}/free_run_rmse/{label}"


def fit_metric(split: str, label: str) -> str:
    """Name the share of a state entry that free runs explain, in percent: `test/fit/level`."""
    return f"{split}/fit/{label}"


@dataclass(frozen=True, slots=True)
class Feature:
    """One named group of columns."""

    name: str
    width: int
    role: FeatureRole
    labels: tuple[str, ...]  # one per column
    angles: tuple[bool, ...]  # which columns wrap at +-pi


def role_columns(features: Sequence[Feature], role: FeatureRole) -> list[int]:
    """Return the columns of all features of a role, in order, for features stored one after another."""
    ends = list(accumulate(feature.width for feature in features))
    return [
        column
        for feature, end in zip(features, ends, strict=True)
        if feature.role == role
        for column in range(end - feature.width, end)
    ]


@dataclass(frozen=True, slots=True)
class EpisodeBlock:
    """Some whole episodes, concatenated.

    An episode of T points has T - 1 transitions. `features` maps a name to (sum of points, width) float32. A control
    acts between two points, so its row at an episode's last point has no successor and is zero.
    """

    keys: tuple[str, ...]  # one name per episode, unique within its file
    points: Int64  # (episodes,) T of each
    features: dict[str, Float32]


MEMBER_COLUMNS = pa.schema(
    [
        ("experiment", pa.string()),
        ("config_hash", pa.string()),
        ("config", pa.string()),  # json; every hyperparameter is a dotted column as well
        ("seed", pa.int64()),
        ("role", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("parameters", pa.int64()),
        ("steps", pa.int64()),
        ("samples", pa.int64()),
        ("best_step", pa.int64()),
        ("seconds", pa.float64()),
        ("samples_per_second", pa.float64()),
        ("device", pa.string()),
        ("world_size", pa.int64()),
        ("threads", pa.int64()),
        ("pack", pa.int64()),
        ("weights_sha256", pa.string()),
        ("versions", pa.string()),  # json
        ("git_commit", pa.string()),
        ("data_fingerprint", pa.string()),
    ]
)
"""The fixed columns of `members.parquet`; metrics (`test/loss`, ..) and dotted hyperparameters follow."""

CURVE_COLUMNS = pa.schema(
    [
        ("config_hash", pa.string()),
        ("seed", pa.int64()),
        ("role", pa.string()),
        ("step", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)

SUMMARY_COLUMNS = pa.schema(
    [
        ("config_hash", pa.string()),
        ("role", pa.string()),
        ("metric", pa.string()),
        ("n_planned", pa.int64()),
        ("n_ok", pa.int64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("ci_method", pa.string()),
        ("median", pa.float64()),
        ("min", pa.float64()),
        ("max", pa.float64()),
        ("best_seed", pa.int64()),
    ]
)

EVALUATION_COLUMNS = pa.schema(
    [
        ("experiment", pa.string()),
        ("config_hash", pa.string()),  # or the name of a baseline: expert, zero
        ("family", pa.string()),  # of the model; null for a baseline
        ("controller", pa.string()),  # member | mean | median (all members as one) | expert | zero
        ("seed", pa.int64()),  # of the member; null for the others
        ("environment", pa.string()),
        ("noise", pa.float64()),  # U(-noise, noise) is added to each action, in the environment's units
        ("replan", pa.int64()),  # actions applied per call of `act`; 1 for baselines, whose chunks have one action
        ("episodes", pa.int64()),
        ("episode_seed", pa.int64()),  # of starts and noise: rows with equal seeds share the same episodes
        # Rates and means over the episodes; `_se` is the standard error from the choice of episodes.
        ("success", pa.float64()),
        ("success_se", pa.float64()),
        ("converge_rate", pa.float64()),
        ("converge_rate_se", pa.float64()),
        ("converge_step", pa.float64()),  # over the episodes that converged; NaN where none did
        ("converge_step_se", pa.float64()),
        ("episode_length", pa.float64()),  # steps
        ("episode_length_se", pa.float64()),
        ("cart_velocity_std", pa.float64()),  # m/s, over all steps of all episodes
        # Time of `act` divided by its number of chunks: the share of a batch, not the delay of one call.
        ("chunk_seconds", pa.float64()),
        ("weights_sha256", pa.string()),  # of the member; of all members, one per line, where they are combined
        # Each episode by itself, in order: paired intervals over the same episodes need them.
        ("episode_success", pa.list_(pa.bool_())),
        ("episode_steps", pa.list_(pa.int16())),
        ("episode_converged", pa.list_(pa.float32())),  # first step of convergence; NaN without convergence
        ("episode_velocity", pa.list_(pa.float32())),  # sum over its steps, m/s
        ("episode_velocity_squares", pa.list_(pa.float32())),
    ]
)
"""`evaluation.parquet`: one row per controller and setting of the closed loop."""

EVALUATION_KEY = ("config_hash", "controller", "seed", "environment", "noise", "replan", "episodes", "episode_seed")
"""The key of a row of `evaluation.parquet`: a repeated measurement replaces the row."""

TRIAL_COLUMNS = pa.schema(
    [
        ("number", pa.int64()),  # in the order of suggestion
        ("config_hash", pa.string()),
        ("state", pa.string()),  # completed | pruned | diverged | failed | running
        ("value", pa.float64()),  # mean over the seeds of the search metric; null where there is none
        ("steps", pa.int64()),  # member-steps spent on it
        ("seeds", pa.int64()),  # number of its seeds
        ("parameters", pa.string()),  # json: {name of a searched parameter: suggested value}
        ("objectives", pa.string()),  # json: {objective: mean over the seeds}
    ]
)
"""`trials.parquet` of a search: one row per suggested configuration."""

RUNG_COLUMNS = pa.schema(
    [
        ("number", pa.int64()),
        ("config_hash", pa.string()),
        ("step", pa.int64()),
        ("seed", pa.int64()),
        ("value", pa.float64()),  # of the search metric
        ("kept", pa.bool_()),  # whether the trial continued
    ]
)
"""`rungs.parquet` of a search: the reported values and the pruner's decisions."""

IMPORTANCE_COLUMNS = pa.schema(
    [
        ("parameter", pa.string()),
        ("importance", pa.float64()),  # shares of 1
        ("method", pa.string()),
        ("trials", pa.int64()),  # number of completed trials in the computation
    ]
)
"""`importances.parquet` of a search."""
