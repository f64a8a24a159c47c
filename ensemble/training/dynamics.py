"""Setting up trials of dynamics models, which predict the next state: data, statistics, measures, examples."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from ensemble.config import Experiment
from ensemble.data.splits import split_episodes
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows, fixed_windows
from ensemble.models.base import Normalization
from ensemble.open_loop.state import StateLayout, error_scale, state_moments
from ensemble.training.context import Context
from ensemble.training.measure_dynamics import DynamicsMeasure, FreeRunMeasure, Together, rollout
from ensemble.training.pack import Pack
from ensemble.training.setup import Setup, TrialData, training_statistics

_SHOWN_WINDOWS = 6  # rollouts kept for the figure
_SHOWN_HORIZONS = 5  # their length, in horizons, where the episodes are long enough


def set_up(experiment: Experiment, data: TrialData, context: Context, normalization: Normalization | None) -> Setup:
    """Fill a setup for a dynamics model; see `tasks.set_up`."""
    main, model, asked, evaluation = data.main, experiment.model, experiment.train.rollout, experiment.evaluation
    history = model.window

    # Data
    splits = split_episodes(main, experiment.data.split, history)
    scale = error_scale(state_moments(main, splits["train"]))

    # Measures
    def measure(name: str, source: Trajectories, segments: Segments, horizon: int = asked.horizon) -> DynamicsMeasure:
        return DynamicsMeasure(name, source, segments, experiment, scale, context, horizon)

    def free_runs(warmup: int) -> Iterator[FreeRunMeasure]:
        yield FreeRunMeasure("test", main, splits["test"], warmup, scale, context)
        for name, other in data.named.items():
            yield FreeRunMeasure(f"validation_{name}", other, other.episodes, warmup, scale, context)

    test = measure("test", main, splits["test"], asked.test_horizon or asked.horizon)
    return Setup(
        features=main.features,
        normalization=normalization or training_statistics(main, splits["train"], model.target),
        train=Windows(main, splits["train"], history),
        validations=(
            measure("validation", main, splits["validation"]),
            *(
                measure(f"validation_{name}", other, other.episodes, evaluation.horizons.get(name, asked.horizon))
                for name, other in data.named.items()
            ),
        ),
        test=test if evaluation.warmup is None else Together(test, *free_runs(evaluation.warmup)),
        examples=partial(examples, experiment, main, splits["test"]),
    )


def examples(experiment: Experiment, data: Trajectories, test: Segments, pack: Pack) -> list[pa.Table]:
    """Predict some test windows open loop, for the figure: a table a member."""
    asked, layout = experiment.train.rollout, StateLayout.of(data.features)
    seen = asked.context or experiment.model.window
    longest = int(test.points.max()) - seen
    horizon = max(asked.test_horizon or asked.horizon, min(longest, _SHOWN_HORIZONS * asked.horizon))
    points = fixed_windows(Windows(data, test, seen + horizon - 1), _SHOWN_WINDOWS, pack.arena.values.device)
    pack.module.eval()
    with torch.no_grad():
        packed = points.expand(len(pack.members), *points.shape).contiguous()
        predicted = rollout(pack, packed, seen, horizon)
    truth = points[:, :, list(layout.columns)].cpu().numpy()
    return [_rollout_table(truth, member, layout.labels, seen) for member in predicted]


def _rollout_table(truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str], seen: int) -> pa.Table:
    """Lay one member's rollouts out as rows: truth (n, T, S), predicted (n, H, S); step 1 is the first prediction."""
    full = np.concatenate([truth[:, :seen], predicted], axis=1)
    return example_table(truth, full, labels, 1 - seen)


def example_table(truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str], first: int) -> pa.Table:
    """Lay predictions (n, T, S) and the truth out as rows; `first` is the step of the first time."""
    window, step, label = np.meshgrid(*map(range, truth.shape), indexing="ij")
    return pa.table(
        {
            "split": ["test"] * truth.size,
            "window": pa.array(window.ravel(), pa.int32()),
            "step": pa.array(step.ravel() + first, pa.int32()),
            "label": np.array(labels)[label.ravel()],
            "true": pa.array(truth.ravel(), pa.float32()),
            "predicted": pa.array(predicted.ravel(), pa.float32()),
        }
    )
