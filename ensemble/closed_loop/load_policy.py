"""A finished run of policies as objects that drive an environment: one member, all of them side by side, or as one.

    controller = ensemble.load_policy("results/pi0_ensemble").controller()
    controller.reset()
    chunk = controller.act(observation)      # (H, A): apply some of them, then ask again

Controllers take observations with any axes in front; see `simulation.controllers`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ensemble.errors import UsageError
from ensemble.models.base import Noise, PolicyModel
from ensemble.models.noise import noise_keys
from ensemble.schema import Float32
from ensemble.simulation.controllers import Floats
from ensemble.training.load import describe_members, find_members, load_pack
from ensemble.training.tokens import read_tokens
from ensemble.training.weights import load_model_record, read_config, read_features

Combination = Literal["each", "mean", "median"]
ROWS = 4096  # observations of all members that act at once: beyond that nothing is faster, and memory grows


class PolicyEnsemble:
    """Members of one configuration that act side by side.

    Attributes:
        seeds: one a member, in the order of the first axis of what they answer.
        features: what observations and actions are made of: features of role `state`, and of role `control`.
    """

    def __init__(self, directories: Mapping[int, Path], device: str = "cpu") -> None:
        record = load_model_record(next(iter(directories.values())))
        self.seeds = tuple(directories)
        self.features = read_features(record)
        self.config_hash: str = record["config_hash"]
        config = read_config(record)
        self.family = config.family
        self._directories = dict(directories)
        self._device = device
        self._module: PolicyModel = load_pack(tuple(directories.values()), device)
        self._decode = read_tokens(next(iter(directories.values()))) if config.chunk_tokenizer else None

    def __repr__(self) -> str:
        return describe_members("PolicyEnsemble", self.config_hash, self.seeds, self.features)

    def member(self, seed: int) -> "PolicyEnsemble":
        """Return one member as an ensemble of one; UsageError names the seeds there are."""
        if seed not in self._directories:
            raise UsageError(f"no member of seed {seed}; there are {', '.join(map(str, self.seeds))}")
        return PolicyEnsemble({seed: self._directories[seed]}, self._device)

    def act(
        self, observation: Floats, seed: int = 0, draw: int = 0, first: int = 0, horizon: int | None = None
    ) -> Float32:
        """Return every member's chunk, (M, B, H, A) in raw units, for observations (B, S) or its own (M, B, S).

        Noise is drawn by (seed, draw) and the place in the batch, counted from `first`, the same for all members; so
        answers are comparable and can be had again, however a batch is cut. `horizon` wants the first actions alone,
        which costs less where attention is causal.
        """
        points = torch.as_tensor(np.asarray(observation, np.float32), device=self._device)
        points = points.expand(len(self.seeds), *points.shape) if points.ndim == 2 else points
        counter = torch.arange(first, first + points.shape[1], dtype=torch.int32, device=self._device)[None]
        keys = noise_keys((seed,), draw).expand(len(self.seeds), -1).to(self._device)
        size = max(1, ROWS // len(self.seeds))
        chunks = []
        for part in (slice(start, start + size) for start in range(0, points.shape[1], size)):
            noise = Noise(keys, counter[:, part])
            chunks.append(self._module.act(points[:, part], noise, decode=self._decode, horizon=horizon))
        return torch.cat(chunks, 1).cpu().numpy()

    def controller(
        self, combine: Combination = "mean", seed: int = 0, horizon: int | None = None
    ) -> "PolicyController":
        """Return the ensemble as a controller.

        Args:
            combine: `mean`: the members' mean chunk; `median`: the chunk of the member nearest to their median; `each`:
                every member for itself, observations (M, N, S) to chunks (M, N, H, A).
            seed: of the noise that chunks are sampled from.
            horizon: how many actions of a chunk are wanted (and compared by `median`), by default all.
        """
        return PolicyController(self, combine, seed, horizon)


class PolicyController:
    """An ensemble that drives; the noise of a chunk is keyed by how many were asked for since the last reset."""

    def __init__(self, ensemble: PolicyEnsemble, combine: Combination, seed: int, horizon: int | None) -> None:
        self._ensemble = ensemble
        self._horizon = horizon
        self._combine = combine
        self._seed = seed
        self._asked = 0

    def __repr__(self) -> str:
        return f"<PolicyController {self._combine} of {self._ensemble!r}>"

    def reset(self) -> None:
        """Begin new episodes."""
        self._asked = 0

    def act(self, observation: Floats) -> Float32:
        """Return the next chunk (.., H, A) for observations (.., S); with `each` (M, N, H, A) for (M, N, S)."""
        batch = observation if self._combine == "each" else observation.reshape(-1, observation.shape[-1])
        chunks = self._ensemble.act(batch, self._seed, self._asked, horizon=self._horizon)  # (M, B, H, A)
        self._asked += 1
        if self._combine == "each":
            return chunks
        chunk = chunks.mean(0) if self._combine == "mean" else _nearest_to_median(chunks)
        return chunk.reshape(*observation.shape[:-1], *chunk.shape[1:])


def _nearest_to_median(chunks: Float32) -> Float32:
    """Return, for each observation, the chunk of (M, B, H, A) that is nearest to the median over members."""
    distance = np.square(chunks - np.median(chunks, axis=0)).sum((2, 3))  # (M, B)
    nearest: Float32 = chunks[distance.argmin(0), np.arange(chunks.shape[1])]
    return nearest


def load_policy(path: str | Path, config_hash: str | None = None, device: str = "cpu") -> PolicyEnsemble:
    """Load a run's policies: the completed members of one configuration.

    Args:
        path: a run directory, or one member's (`results/<experiment>/members/<id>`).
        config_hash: which configuration; by default the one with the smallest mean validation error of its actions.
        device: where they act.

    Raises:
        UsageError: no such configuration, or it is not a policy's.
        StorageError: no finished member there.
    """
    return PolicyEnsemble(find_members(path, config_hash), device)
