"""What a dynamics model is asked: losses, one-step errors and open-loop rollouts of a pack on one split.

The windows are the same for every member, every configuration of the same history and every validation, so members
are compared on the same questions. With several workers each measures its share and the sums are added.
"""

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ensemble.config import Experiment
from ensemble.data.trajectories import Segments, Trajectories
from ensemble.data.windows import Windows, fixed_windows
from ensemble.models.base import Batch, DynamicsModel
from ensemble.open_loop.free_run import free_run_metrics, require_length, scored_moments
from ensemble.open_loop.rollout import rollout_metrics, squared_errors
from ensemble.open_loop.state import StateLayout
from ensemble.schema import Float64, one_step_metric
from ensemble.training.context import Context
from ensemble.training.pack import Pack

VALIDATION_CHUNK = 256  # windows per forward pass
_FREE_RUN_POINTS = 1 << 22  # of all members and episodes that run side by side, at most


class DynamicsMeasure:
    """The fixed questions of one split.

    Raises:
        DataError: no episode of the split is long enough for the history or for the rollout.
    """

    def __init__(
        self,
        split: str,
        data: Trajectories,
        segments: Segments,
        experiment: Experiment,
        scale: Float64,
        context: Context,
        horizon: int,
    ) -> None:
        train, history = experiment.train, experiment.model.window
        self.split = split
        self._layout = StateLayout.of(data.features)
        self._scale = scale
        self._context = context
        self._seen = train.rollout.context or history  # true points before a rollout
        self._horizon = horizon
        short, long = Windows(data, segments, history), Windows(data, segments, self._seen + self._horizon - 1)
        self._points = fixed_windows(short, train.validation_windows, context.device)
        self._starts = fixed_windows(long, train.rollout.windows, context.device)

    @torch.no_grad()
    def __call__(self, pack: Pack) -> list[dict[str, float]]:
        """Measure every member: `<split>/loss`, one-step and rollout errors, a dict a member."""
        pack.module.eval()
        metrics = self._losses(pack)
        for member, rollouts in zip(metrics, self._rollouts(pack), strict=True):
            member.update(rollouts)
        return metrics

    def _losses(self, pack: Pack) -> list[dict[str, float]]:
        members = len(pack.members)
        totals = torch.zeros(members, 1 + len(self._layout.labels), dtype=torch.float64, device=self._context.device)
        for points in self._shares(self._points, members):
            count = points.shape[1]
            loss, details = pack.module(_batch(points), details=True)
            totals[:, 0] += loss.double() * count
            totals[:, 1:] += details["one_step_mse"].double() * count
        means = (self._context.total(totals) / len(self._points)).cpu().numpy()
        names = [one_step_metric(self.split, label) for label in self._layout.labels]
        return [
            {f"{self.split}/loss": float(row[0]), **dict(zip(names, np.sqrt(row[1:]).tolist(), strict=True))}
            for row in means
        ]

    def _rollouts(self, pack: Pack) -> list[dict[str, float]]:
        members, layout = len(pack.members), self._layout
        total = np.zeros((members, self._horizon, len(layout.labels)))
        for points in self._shares(self._starts, members):
            predicted = rollout(pack, points, self._seen, self._horizon)
            truth = points[0, :, self._seen :, list(layout.columns)].cpu().numpy()
            total += squared_errors(predicted, truth, layout)
        total = self._context.total(torch.from_numpy(total).to(self._context.device)).cpu().numpy()
        return [dict(rollout_metrics(member, len(self._starts), self._scale, layout, self.split)) for member in total]

    def _shares(self, points: Tensor, members: int) -> Iterator[Tensor]:
        """Yield this worker's windows in chunks, repeated for every member: (E, n, T + 1, D)."""
        mine = points[self._context.rank :: self._context.world_size]
        for start in range(0, len(mine), VALIDATION_CHUNK):
            chunk = mine[start : start + VALIDATION_CHUNK]
            yield chunk.expand(members, *chunk.shape).contiguous()


class FreeRunMeasure:
    """Free runs over the whole episodes of one split, see `open_loop/free_run.py`.

    Raises:
        DataError: there is no episode, or one ends within the warm-up.
    """

    def __init__(
        self, split: str, data: Trajectories, segments: Segments, warmup: int, scale: Float64, context: Context
    ) -> None:
        require_length(segments, warmup, f"split '{split}'")
        self.split = split
        self._layout = StateLayout.of(data.features)
        self._data, self._warmup, self._scale, self._context = data, warmup, scale, context
        self._scored = scored_moments(data, segments, warmup, self._layout)
        # Episodes of like length run side by side: the shorter ones are filled up to the longest.
        self._segments = segments.take(np.argsort(-segments.points, kind="stable"))

    @torch.no_grad()
    def __call__(self, pack: Pack) -> list[dict[str, float]]:
        """Measure every member: `<split>/free_run_rmse`, and that and FIT of each state entry, a dict a member."""
        pack.module.eval()
        members, layout = len(pack.members), self._layout
        squares = np.zeros((members, len(layout.labels)))
        for points, scored in self._shares(members):
            horizon = points.shape[1] - self._warmup
            packed = torch.from_numpy(points).to(self._context.device).expand(members, -1, -1, -1).contiguous()
            predicted = rollout(pack, packed, self._warmup, horizon)
            error = layout.difference(predicted, points[:, self._warmup :, list(layout.columns)])
            squares += np.where(scored[..., None], np.square(error), 0).sum(axis=(1, 2))
        squares = self._context.total(torch.from_numpy(squares).to(self._context.device)).cpu().numpy()
        return [dict(free_run_metrics(own, self._scored, self._scale, layout, self.split)) for own in squares]

    def _shares(self, members: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield this worker's episodes in chunks: points (n, T, D), and which after the warm-up are theirs (n, H)."""
        mine = slice(self._context.rank, None, self._context.world_size)
        first, lengths = self._segments.first[mine], self._segments.points[mine]
        start = 0
        while start < len(first):
            longest = int(lengths[start])
            stop = start + max(1, min(VALIDATION_CHUNK, _FREE_RUN_POINTS // (longest * members)))
            steps = np.minimum(np.arange(longest), lengths[start:stop, None] - 1)  # (n, T)
            scored = np.arange(self._warmup, longest) < lengths[start:stop, None]
            yield self._data.rows[first[start:stop, None] + steps], scored
            start = stop


class Together:
    """Several measures as one."""

    def __init__(self, *measures: Callable[[Pack], list[dict[str, float]]]) -> None:
        self._measures = measures

    def __call__(self, pack: Pack) -> list[dict[str, float]]:
        """Measure every member by each of them, a dict a member."""
        each = [measure(pack) for measure in self._measures]
        return [{name: value for found in own for name, value in found.items()} for own in zip(*each, strict=True)]


def rollout(pack: Pack, points: Tensor, seen: int, horizon: int) -> np.ndarray:
    """Predict `horizon` states open loop after `seen` true points: points (E, n, seen + H, D) to (E, n, H, S)."""
    return cast(DynamicsModel, pack.module).rollout(points[:, :, :seen], points, horizon).cpu().numpy()


def _batch(points: Tensor) -> Batch:
    position = torch.arange(points.shape[1], dtype=torch.int32, device=points.device)
    return Batch(points=points, position=position, keys=None)
