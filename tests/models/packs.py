"""Small packs for the tests: features, models in an arena as training holds them, and batches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.config.model import InputConfig, ModelConfig
from ensemble.models.base import Batch, Noise, Normalization, build, initialize
from ensemble.models.dropout import dropout_keys
from ensemble.models.noise import noise_keys
from ensemble.schema import Feature

STATES = Feature("states", 4, "state", ("q0", "q1", "qd0", "qd1"), (True, True, False, False))
GRAVITY = Feature("gravity_dir", 3, "auxiliary", ("x", "y", "z"), (False, False, False))
TORQUES = Feature("joint_acts", 2, "control", ("u0", "u1"), (False, False))
FEATURES = (TORQUES, STATES, GRAVITY)  # states not first, so that a slip in columns shows
WIDTH = 9


def pendulum_inputs(*names: str) -> dict[str, InputConfig]:
    return {"low_dim": InputConfig(features=list(names))}


def normalization(seed: int = 0) -> Normalization:
    random = np.random.default_rng(seed)

    def draw(n: int) -> np.ndarray:
        return random.uniform(0.5, 2.0, n).astype(np.float32)

    return Normalization(draw(WIDTH) - 1, draw(WIDTH), draw(4) - 1, draw(4))


def into_arena(module: nn.Module, members: int, odd: int = 3) -> tuple[Tensor, Tensor]:
    """Make every parameter and its gradient a view of two matrices (E, odd + P), as training does; return both."""
    width = odd + sum(p[0].numel() for p in module.parameters())
    arena, grad, at = torch.zeros(members, width), torch.zeros(members, width), odd
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            end = at + parameter[0].numel()
            view = nn.Parameter(arena[:, at:end].view(parameter.shape))
            view.grad = grad[:, at:end].view(parameter.shape)
            setattr(layer, name, view)
            at = end
    return arena, grad


def make_pack(config: ModelConfig, seeds: Sequence[int], precision: str = "fp32") -> tuple[nn.Module, Tensor]:
    """Return a filled pack in an arena, and the arena of its gradients."""
    module = build(config, FEATURES, len(seeds), normalization(), precision=precision)
    _, grad = into_arena(module, len(seeds))
    initialize(module, seeds)
    return module, grad


def make_points(members: int, batch: int, points: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(members, batch, points, WIDTH, generator=generator) * 2


def make_tokens(config: ModelConfig, batch: int, seed: int) -> Tensor:
    """Return sequences (1, B, L) of random length, [BOS] .. [EOS] [PAD] .., one of them without padding."""
    random, longest = np.random.default_rng(seed), config.chunk_tokenizer.max_length
    tokens = np.full((1, batch, longest), 2)
    for row, length in zip(tokens[0], [longest, *random.integers(3, longest + 1, batch - 1)], strict=True):
        row[:length] = [0, *random.integers(4, config.chunk_tokenizer.vocabulary, length - 2), 1]
    return torch.from_numpy(tokens)


def make_batch(
    module: nn.Module, seeds: Sequence[int], batch: int = 4, time: int | None = None, step: int = 3
) -> Batch:
    """Return a batch in which a member's windows, noise and tokens depend on its seed alone."""
    config = module.config
    time = config.window if config.task == "policy" else time or 5
    points = torch.cat([make_points(1, batch, time + 1, seed) for seed in seeds])
    position = torch.arange(batch, dtype=torch.int32)
    keys = dropout_keys(seeds, module.sites, step) if module.sites else None
    noise = Noise(noise_keys(seeds, step), position[None]) if config.noise_draw else None
    tokens = None
    if config.chunk_tokenizer:
        tokens = torch.cat([make_tokens(config, batch, seed) for seed in seeds])
    return Batch(points, position, keys, noise, tokens)


def take(batch: Batch, samples: Tensor | slice) -> Batch:
    """Return a batch of some of the samples."""
    return batch._replace(
        points=batch.points[:, samples],
        position=batch.position[samples],
        noise=batch.noise and batch.noise._replace(counter=batch.noise.counter[:, samples]),
        tokens=None if batch.tokens is None else batch.tokens[:, samples],
    )
