"""What a policy is asked: its loss, and the error of the chunks that it samples, on fixed windows with fixed noise.

Noise and times of a split are drawn once, by window, and are the same for every member: members are compared on the
same questions. With several workers each measures its share and the sums are added.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from ensemble.data.windows import Windows, fixed_windows
from ensemble.models.base import Batch, Noise, PolicyModel
from ensemble.models.noise import noise_keys
from ensemble.schema import ACTION_MAE, ACTION_MSE, Feature, Float32, role_columns
from ensemble.tokenizers.tokenizer import ActionTokenizer
from ensemble.training.context import Context
from ensemble.training.measure_dynamics import VALIDATION_CHUNK
from ensemble.training.pack import Pack
from ensemble.training.tokens import ChunkTokens

_QUESTIONS = 1 << 31  # the "seed" of the questions' noise: beyond those of members


class PolicyMeasure:
    """The fixed questions of one split.

    Args:
        split: its name, which metrics begin with.
        windows: those of the split.
        counts: how many are asked for the loss, and how many chunks are sampled.
        context: where it runs.
        tokens: of families over tokens.
    """

    def __init__(
        self, split: str, windows: Windows, counts: tuple[int, int], context: Context, tokens: ChunkTokens | None
    ) -> None:
        self.split = split
        self._context = context
        self._points = fixed_windows(windows, counts[0], context.device)
        self._asked = fixed_windows(windows, counts[1], context.device)
        self._features = windows.data.features
        self._tokens = None if tokens is None else tokens.fixed_table(windows, counts[0]).to(context.device)
        self._decode = None if tokens is None else tokens.decode

    @torch.no_grad()
    def __call__(self, pack: Pack) -> list[dict[str, float]]:
        """Measure every member: `<split>/loss`, its details, and the mean absolute and squared error of actions."""
        pack.module.eval()
        metrics: list[dict[str, float]] = [{} for _ in pack.members]
        for means in (self._mean(self._losses(pack)), self._mean(self._errors(pack))):
            for name, values in means.items():
                for member, value in zip(metrics, values, strict=True):
                    member[f"{self.split}/{name}"] = value
        return metrics

    @torch.no_grad()
    def sample(self, pack: Pack, count: int) -> tuple[Float32, Float32]:
        """Return the actions of some windows (n, H, A), and every member's (E, n, H, A)."""
        pack.module.eval()
        asked = _members(self._asked[:count], len(pack.members))
        number = torch.arange(asked.shape[1], dtype=torch.int32, device=asked.device)
        sampled = self._act(pack, asked, number)
        return self._actions(asked)[0].cpu().numpy(), sampled.cpu().numpy()

    def _losses(self, pack: Pack) -> Iterator[tuple[float, dict[str, Tensor]]]:
        """Yield the weight of each share, its windows or its tokens, and its means (E,)."""
        for points, number in self._shares(self._points, len(pack.members)):
            tokens = None if self._tokens is None else self._tokens[number]
            weight = len(number) if tokens is None else float((tokens[:, 1:] != ActionTokenizer.pad).sum())
            repeated = None if tokens is None else tokens.expand(len(points), -1, -1)
            batch = Batch(points, number, None, _noise(number, len(points)), repeated)
            loss, details = pack.module(batch, details=True)
            yield weight, {"loss": loss, **details}

    def _errors(self, pack: Pack) -> Iterator[tuple[float, dict[str, Tensor]]]:
        """Yield the windows of each share, and the mean errors (E,) of sampled chunks."""
        for points, number in self._shares(self._asked, len(pack.members)):
            wrong = (self._act(pack, points, number) - self._actions(points)).double().flatten(1)
            yield len(number), {ACTION_MAE: wrong.abs().mean(1), ACTION_MSE: wrong.square().mean(1)}

    def _mean(self, shares: Iterator[tuple[float, dict[str, Tensor]]]) -> dict[str, list[float]]:
        """Return the weighted means over all shares of all workers, by name and member."""
        weights, parts = zip(*shares, strict=True)
        sums = [sum(w * part[name].double() for w, part in zip(weights, parts, strict=True)) for name in parts[0]]
        weight = torch.full_like(sums[0], sum(weights))
        *totals, whole = self._context.total(torch.stack([*sums, weight])).cpu()
        return {name: (total / whole).tolist() for name, total in zip(parts[0], totals, strict=True)}

    def _shares(self, points: Tensor, members: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this worker's windows in chunks, repeated for every member (E, n, H + 1, D), and their numbers (n,)."""
        number = torch.arange(len(points), dtype=torch.int32, device=points.device)
        mine = slice(self._context.rank, None, self._context.world_size)
        ends = list(range(VALIDATION_CHUNK, len(number[mine]), VALIDATION_CHUNK))
        for part, which in zip(points[mine].tensor_split(ends), number[mine].tensor_split(ends), strict=True):
            yield _members(part, members), which

    def _act(self, pack: Pack, points: Tensor, number: Tensor) -> Tensor:
        observation = points[:, :, 0][..., role_columns(self._features, "state")]
        noise = _noise(number, len(points))
        return cast(PolicyModel, pack.module).act(observation, noise, decode=self._decode)

    def _actions(self, points: Tensor) -> Tensor:
        return points[:, :, :-1][..., role_columns(self._features, "control")]


def _members(points: Tensor, members: int) -> Tensor:
    return points.expand(members, *points.shape).contiguous()


def _noise(number: Tensor, members: int) -> Noise:
    """Return the draws of windows (n,), the same for every member."""
    return Noise(noise_keys((_QUESTIONS,), 0).expand(members, -1).to(number.device), number[None])


def action_labels(features: Sequence[Feature]) -> list[str]:
    """Return the names of the action's entries."""
    return [label for feature in features if feature.role == "control" for label in feature.labels]
