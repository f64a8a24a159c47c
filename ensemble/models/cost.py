"""What a training step of one member costs, by its family: parameters, products, FLOPs, bytes. Nothing is allocated.

A network may declare it by a classmethod `cost`, next to the code that it describes; a step of any other is run on
torch's meta device and counted. Trials, validations and memory are derived from it in `planning/cost.py`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ensemble.config.family import FamilyConfig
from ensemble.errors import UsageError
from ensemble.models.attention import LONGEST, VECTOR
from ensemble.models.base import Batch, Noise, Normalization, build, move_buffers, network_of, parameter_count
from ensemble.models.layers import Linear
from ensemble.models.products import Precision
from ensemble.models.transformer import SelfAttention, TokenAttention
from ensemble.schema import Feature
from ensemble.text import first_line

# Alive at the peak of a transformer's step beyond what autograd keeps: widths per token, more with dropout's hashes,
# and a share of what it keeps. Fitted to peak resident memory, see `planning/cost.py`.
_FLYING, _FLYING_DROPOUT, _SLACK = 24, 16, 0.1


@dataclass(frozen=True)
class StepShape:
    """The step whose cost is asked for."""

    windows: int  # of one member
    precision: Precision
    device: str  # "cpu" or "cuda"

    @property
    def product_bytes(self) -> int:
        """Bytes of a number that enters a product."""
        return 2 if self.precision == "bf16" else 4


@dataclass(frozen=True)
class Sizes:
    """One member of a model, counted."""

    parameters: int
    products: int  # weights in matrix products
    matrices: int  # how many matrices hold them; each costs kernels to launch


@dataclass(frozen=True)
class StepCost:
    """One step of one member."""

    forward: float  # FLOPs of one window, forward
    saved: int  # bytes that autograd keeps for the backward pass
    working: int  # bytes alive on top of them at the peak

    @classmethod
    def of_transformer(
        cls, step: StepShape, sizes: Sizes, *, layers: int, width: int, tokens: int, saved: float, drops: bool
    ) -> Self:
        """Return the cost of a transformer over sequences of `tokens` that keeps `saved` bytes a token.

        FLOPs as Kaplan et al. 2020 (arXiv 2001.08361, section 2.1) count them: a token takes two a weight, and
        4 L d T for the products of attention over all T x T pairs. Embeddings, norms and activations are left out.
        """
        forward = tokens * (2.0 * sizes.products + 4.0 * layers * width * tokens)
        half = step.precision == "bf16"
        kept = int(step.windows * tokens * saved) + 2 * sizes.products * half  # rounded weights as well
        widths = step.windows * tokens * width * (_FLYING + (_FLYING_DROPOUT if drops else 0))
        return cls(forward, kept, int(4 * widths + _SLACK * kept))


@runtime_checkable
class DeclaresCost(Protocol):
    """A network that says what its step costs."""

    def cost(self, config: Any, features: Sequence[Feature], sizes: Sizes, step: StepShape) -> StepCost:
        """Return the cost of one member's step; a classmethod, so that no network is built for it."""
        ...


def cost_of_step(config: FamilyConfig, features: Sequence[Feature], step: StepShape) -> tuple[Sizes, StepCost]:
    """Return what one member of a family holds and what its step costs, with data of these features.

    Raises UsageError for an input that the data do not have, and for a network that declares no cost and cannot run on
    the meta device.
    """
    shape = json.dumps(_without_fractions(config.model_dump(mode="json")))
    sizes = _sizes(shape, type(config), tuple(features))
    network = network_of(config)
    if isinstance(network, DeclaresCost):
        return sizes, network.cost(config, features, sizes, step)
    return sizes, count_on_meta(config, tuple(features), step)


@lru_cache(maxsize=4096)
def _sizes(model: str, family: type[FamilyConfig], features: tuple[Feature, ...]) -> Sizes:
    module = build(family.model_validate_json(model), features, 1, Normalization.identity(features))
    once = {id(part) for memory in module.modules() if isinstance(memory, TokenAttention) for part in memory.modules()}
    layers = [layer for layer in module.modules() if id(layer) not in once]  # what multiplies every token
    weights = [layer.weight[0].numel() for layer in layers if isinstance(layer, Linear)]
    weights += [layer.in_proj_weight[0].numel() for layer in layers if isinstance(layer, SelfAttention)]
    if not weights:  # a network of layers that are not ours
        weights = [parameter[0].numel() for parameter in module.parameters() if parameter.ndim > 2]
    return Sizes(parameter_count(module), sum(weights), len(weights))


def _without_fractions(value: Any) -> Any:
    """Leave out numbers with a decimal point, such as dropout: no shape depends on them."""
    if isinstance(value, dict):
        return {key: _without_fractions(part) for key, part in value.items() if not isinstance(part, float)}
    return value


def attention_floats(width: int, heads: int, time: int, step: StepShape, drops: bool) -> int:
    """Return the numbers per token that the weights of self-attention keep.

    For each head a row of `time`, padded to whole vectors; a fused kernel keeps its output and a number a head instead.
    """
    fused = not drops and (step.device != "cpu" or time > LONGEST)
    return width + heads if fused else heads * -(-time // VECTOR) * VECTOR


def count_on_meta(config: FamilyConfig, features: tuple[Feature, ...], step: StepShape) -> StepCost:
    """Run a step on the meta device and count, as torch itself does, a member's FLOPs and the bytes that it keeps.

    What is alive on top of them is taken to be as much again.
    """
    # One member alone would compute its small products twice, see `products.multiply`.
    members = 2
    module = build(config, features, members, Normalization.identity(features), step.precision)
    move_buffers(module, "meta")
    fixed = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a storage that is freed would give its address to another

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in fixed:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    try:
        with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            module(_meta_batch(config, module, features, members, step.windows))
    except (NotImplementedError, RuntimeError) as error:
        raise UsageError(
            f"model.family {config.family}: a step of {config.network} cannot be counted on torch's meta device "
            f"({first_line(error)}); let it declare a classmethod `cost`"
        ) from error
    saved = sum(kept.values()) // members
    return StepCost(counter.get_total_flops() / (members * step.windows), saved, saved)


def _meta_batch(
    config: FamilyConfig, module: nn.Module, features: tuple[Feature, ...], members: int, windows: int
) -> Batch:
    """Return a batch without numbers, of what its family reads."""

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    width, sites = sum(feature.width for feature in features), int(getattr(module, "sites", 0))
    noise = Noise(empty(members, 2), empty(1, windows)) if config.noise_draw else None
    wanted = config.chunk_tokenizer
    return Batch(
        points=empty(members, windows, config.window + 1, width, dtype=torch.float32),
        position=empty(windows),
        keys=empty(members, sites) if sites else None,
        noise=noise,
        tokens=empty(members, windows, wanted.max_length, dtype=torch.int64) if wanted else None,
    )
