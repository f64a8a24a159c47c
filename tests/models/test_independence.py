"""The law of independence: a member's numbers are the same bits alone and in any pack, on one number of threads."""

from collections.abc import Callable, Iterator

import pytest
import torch
from packs import make_batch, make_pack, pendulum_inputs
from torch import Tensor

from ensemble.config.model import GPTDynamicsConfig, HeadConfig, InputConfig, ModelConfig
from ensemble.config.policy import Pi0Config, Pi0FastConfig, TokenizerConfig
from ensemble.models.activations import ACTIVATIONS
from ensemble.models.attention import LONGEST
from ensemble.models.attention import attention as attend
from ensemble.models.base import Noise, initialize, wrap
from ensemble.models.dropout import dropout
from ensemble.models.layers import CausalSelfAttention, Dropout, LayerNorm
from ensemble.models.noise import noise_keys
from ensemble.models.products import LOOP_FROM, add_row, member_mean, per_member, product
from ensemble.models.transformer import PassInputs, TokenAttention

Operation = Callable[..., Tensor]
Shape = tuple[int, ...]
PACKS = (2, 3, 5, 10)


@pytest.fixture(params=[1, 2], ids=["one_thread", "two_threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def in_arena(tensors: list[Tensor]) -> list[Tensor]:
    """Lay (E, ..) tensors side by side in one matrix with an odd start, and return views of it."""
    flat = torch.cat([torch.zeros(tensors[0].shape[0], 1), *(t.flatten(1) for t in tensors)], 1)
    sizes = [1, *(t[0].numel() for t in tensors)]
    return [part.view(t.shape) for part, t in zip(flat.split(sizes, 1)[1:], tensors, strict=True)]


def results(operation: Operation, tensors: list[Tensor], cotangent: Tensor | None = None) -> list[Tensor]:
    """Return the output and the gradient of every input."""
    leaves = [t.detach().requires_grad_() for t in in_arena(tensors)]
    out = operation(*leaves)
    out.backward(torch.cos(out.detach()) if cotangent is None else cotangent)
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def breaches(name: str, operation: Operation, shapes: list[Shape], scale: float = 1.0) -> list[str]:
    """Compare packs with members alone; return what differed, by the operation's name."""
    tensors = [torch.randn(max(PACKS), *shape) * scale for shape in shapes]
    alone = [results(operation, [t[e : e + 1].clone() for t in tensors]) for e in range(max(PACKS))]
    found = []
    for members in PACKS:
        packed = results(operation, [t[:members].clone() for t in tensors])
        for what, together in enumerate(packed):
            single = torch.cat([one[what] for one in alone[:members]])
            if not torch.equal(single, together):
                part = "output" if what == 0 else f"gradient {what - 1}"
                found.append(f"{name} {shapes}: {part} differs in a pack of {members}")
    return found


def activation_cases() -> dict[str, Operation]:
    return {f"activation {name}": function for name, function in ACTIVATIONS.items()}


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    layer = LayerNorm(x.shape[0], x.shape[-1])
    del layer.weight, layer.bias
    layer.weight, layer.bias = weight, bias
    return layer(x)


def kernel(heads: int, p: float, mask: Callable[[int], Tensor]) -> Operation:
    """Attention alone, from (B*T, 3d), under any mask."""

    def run(x: Tensor, key: Tensor) -> Tensor:
        members, batch, time, width = x.shape
        position = torch.arange(batch, dtype=torch.int32)
        keep = Dropout(p, 0).kept(position, as_keys(key), (heads, time, time))
        qkv = x.reshape(members * batch, time, 3, heads, width // 3 // heads)
        out = attend(qkv, mask(time), None if keep is None else keep.flatten(0, 1), p)
        return out.reshape(members, batch, time, -1)

    return run


def openpi_mask(time: int) -> Tensor:
    mask = torch.zeros(time, time)
    mask[0, 1:] = -torch.inf
    return mask


def token_attention(heads: int, p: float) -> Operation:
    def run(memory: Tensor, in_proj: Tensor, out_proj: Tensor, key: Tensor) -> Tensor:
        members, batch, width = memory.shape
        config = Pi0FastConfig(n_embd=width, n_head=heads, dropout=p)
        layer = TokenAttention(config, members, 0, "fp32", "cpu")
        initialize(layer, range(members))
        del layer.in_proj_weight, layer.out_proj.weight
        layer.in_proj_weight, layer.out_proj.weight = in_proj, out_proj
        position = torch.arange(batch, dtype=torch.int32)
        return layer(memory, 5, PassInputs(position, as_keys(key), torch.zeros(5, 5))).clone()

    return run


def attention(heads: int, p: float) -> Operation:
    def run(x: Tensor, c_attn: Tensor, c_proj: Tensor, key: Tensor) -> Tensor:
        members, batch, time, width = x.shape
        layer = CausalSelfAttention(members, width, heads, bias=False, drop=Dropout(p, 0))
        del layer.c_attn.weight, layer.c_proj.weight
        layer.c_attn.weight, layer.c_proj.weight = c_attn, c_proj
        position = torch.arange(batch, dtype=torch.int32)
        return layer(x.view(members, batch * time, width), time, position, as_keys(key))

    return run


def as_keys(key: Tensor) -> Tensor:
    """Turn numbers (E, 1) into keys: the harness hands each member its own."""
    return (key.detach() * 1e6).to(torch.int32)


def drop(x: Tensor, key: Tensor) -> Tensor:
    return dropout(x, 0.3, as_keys(key)[:, 0], torch.arange(x.shape[1], dtype=torch.int32))


def sweep_products(rows: list[int], widths: list[int]) -> list[str]:
    found = []
    for m in rows:
        for inner in widths:
            for outer in widths:
                found += breaches("linear", product, [(m, inner), (inner, outer), (1, outer)])
    return found


def sweep_rows(rows: list[int], widths: list[int]) -> list[str]:
    cases: dict[str, Operation] = activation_cases() | {"wrap": wrap}
    cases["member_mean"] = lambda x: member_mean(x.square())
    found = []
    for m in rows:
        for width in widths:
            for name, operation in cases.items():
                found += breaches(name, operation, [(m, width)], scale=3.0)
            found += breaches("layer_norm", norm, [(m, width), (1, width), (1, width)])
            found += breaches("dropout", drop, [(m, width), (1,)])
            found += breaches("add_row", add_row, [(m, width), (1, width)])
    return found


def sweep_attention(batches: list[int], times: list[int], widths: list[tuple[int, int]]) -> list[str]:
    found = []
    for batch in batches:
        for time in times:
            for width, heads in widths:
                shapes = [(batch, time, width), (width, 3 * width), (width, width), (1,)]
                for p in (0.0, 0.2):
                    found += breaches(f"attention, {heads} heads, dropout {p}", attention(heads, p), shapes)
                    one = [(batch, time, 3 * width), (1,)]
                    found += breaches(f"openpi's attention, {heads} heads, {p}", kernel(heads, p, openpi_mask), one)
    return found


def report(found: list[str]) -> str:
    return f"{len(found)} breaches, such as:\n" + "\n".join(found[:20])


def test_a_linear_layer_gives_each_member_the_bits_it_gets_alone(threads: int) -> None:
    found = sweep_products(list(range(1, 34)), [1, 3, 16, 33])
    found += sweep_products([1, 2, 5, 11, 16, 33], [1, 2, 7, 8, 17, 64, 100])
    assert not found, report(found)


def test_large_products_give_each_member_the_bits_it_gets_alone(threads: int) -> None:
    shapes = [(512, 64, 1), (512, 64, 4), (320, 7, 192), (40, 192, 576), (333, 96, 33), (1, 700, 700), (9, 300, 200)]
    assert any(m * i * o >= LOOP_FROM for m, i, o in shapes)
    assert any(m * i * o < LOOP_FROM for m, i, o in shapes)
    found = [b for m, i, o in shapes for b in breaches("linear", product, [(m, i), (i, o), (1, o)])]
    assert not found, report(found)


def test_elementwise_norms_and_sums_give_each_member_the_bits_it_gets_alone(threads: int) -> None:
    found = sweep_rows([2, 3, 5, 16, 17, 33], [1, 3, 7, 16, 33]) + sweep_rows([700], [3, 97])
    assert not found, report(found)


def test_attention_gives_each_member_the_bits_it_gets_alone(threads: int) -> None:
    found = sweep_attention([2, 3, 9], [1, 5, 10], [(1, 1), (6, 3), (48, 12)])
    found += sweep_attention([2, 3], [LONGEST, LONGEST + 1], [(6, 3)])
    assert not found, report(found)


def test_attention_to_one_token_gives_each_member_the_bits_it_gets_alone(threads: int) -> None:
    found = []
    for batch in (2, 3, 16, 64):
        for width, heads in ((2, 1), (6, 3), (48, 4), (128, 4)):
            shapes = [(batch, width), (width, 3 * width), (width, width), (1,)]
            for p in (0.0, 0.2):
                found += breaches(f"one token, {heads} heads, dropout {p}", token_attention(heads, p), shapes)
    assert not found, report(found)


@pytest.mark.slow
def test_a_wider_sweep_of_shapes_keeps_every_member_to_itself(threads: int) -> None:
    found = sweep_products(list(range(1, 34)), [1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 33, 64, 100])
    found += sweep_rows([*range(2, 34), 100, 512, 1000], [1, 2, 3, 7, 16, 17, 33, 64, 192, 768])
    found += sweep_attention([*range(2, 12), 33, 64], [1, 2, 5, 10, 16], [(1, 1), (6, 3), (48, 12), (64, 1), (96, 2)])
    assert not found, report(found)


def small(**changes: object) -> GPTDynamicsConfig:
    base = GPTDynamicsConfig(n_layer=2, n_head=2, n_embd=16, history=5, block_size=8)
    return GPTDynamicsConfig(**(dict(base) | {"inputs": pendulum_inputs("states", "joint_acts")} | changes))


MODELS = {
    "plain": small(),
    "biased": small(bias=True, prediction="absolute"),
    "dropout": small(dropout=0.1),
    "narrow": small(n_embd=1, n_head=1, head=HeadConfig(layer_sizes=[])),
    "encoders": small(
        inputs={
            "robot": InputConfig(features=["states"], layer_sizes=[7, 5], activation="silu", layernorm=True),
            "world": InputConfig(features=["gravity_dir", "joint_acts"], layer_sizes=[3], activation="elu"),
        },
        head=HeadConfig(layer_sizes=[5, 3], activation="tanh", layernorm=True),
        output_tanh=True,
    ),
    "wide": small(n_embd=192, n_head=12, n_layer=1),
}


def policy(kind: type[Pi0Config] | type[Pi0FastConfig], **changes: object) -> Pi0Config | Pi0FastConfig:
    return kind(**({"n_layer": 2, "n_head": 2, "n_embd": 16, "n_inner": 24, "chunk": 6} | changes))


TOKENS = TokenizerConfig(vocabulary=20, max_length=7)
POLICIES = {
    "pi0": policy(Pi0Config),
    "pi0 as openpi": policy(
        Pi0Config,
        attention="bidirectional",
        time_law="beta",
        time_per="sample",
        time_embedding="sinusoidal",
        solver="heun",
        normalize=True,
    ),
    "pi0, tiny": policy(Pi0Config, n_layer=1, n_head=4, n_embd=128, n_inner=256, chunk=50, solver_steps=3),
    "pi0_fast": policy(Pi0FastConfig, tokenizer=TOKENS, logits_dropout=0.1, temperature=0.7, normalize=True),
    "pi0_fast, no dropout": policy(Pi0FastConfig, tokenizer=TOKENS, dropout=0),
    "pi0_fast, tiny": policy(
        Pi0FastConfig, n_layer=1, n_head=4, n_embd=128, n_inner=256, chunk=50, tokenizer=TokenizerConfig()
    ),
}


def gradients(config: ModelConfig, seeds: list[int], batch: int, precision: str) -> dict[str, Tensor]:
    """Return losses, details, and the whole gradient arena (E, P) of one step."""
    module, grad = make_pack(config, seeds, precision)
    loss, details = module(make_batch(module, seeds, batch=batch), details=True)
    loss.sum().backward()
    assert grad.abs().sum() > 0
    return {"loss": loss.detach(), **details, "gradient": grad}


def actions(config: ModelConfig, seeds: list[int], batch: int, precision: str) -> dict[str, Tensor]:
    """Return what a policy answers: a chunk, or the tokens of one."""
    module, _ = make_pack(config, seeds, precision)
    given = make_batch(module, seeds, batch=batch)
    noise, states = Noise(noise_keys(seeds, 7), given.position[None]), given.points[:, :, 0, 2:6]
    if config.family == "pi0_fast":
        return {"tokens": module.generate(states, noise)}
    return {"chunk": module.act(states, noise)}


def differences(
    name: str, run: Callable[..., dict[str, Tensor]], config: ModelConfig, precision: str, packs: tuple[int, ...]
) -> list[str]:
    """Run members alone and in packs of several sizes; return what differed."""
    seeds = [11, 5, 8, 1, 2, 3, 4, 90, 91, 92][: max(packs)]
    found = []
    for batch in (2, 3, 16):
        alone = [run(config, [seed], batch, precision) for seed in seeds]
        for members in packs:
            for part, together in run(config, seeds[:members], batch, precision).items():
                if not torch.equal(torch.cat([one[part] for one in alone[:members]]), together):
                    found.append(f"model {name}, {precision}, batch {batch}: {part} differs in a pack of {members}")
    return found


@pytest.mark.parametrize("name", [*MODELS, *POLICIES])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_whole_model_steps_alike_alone_and_in_any_pack(name: str, precision: str, threads: int) -> None:
    found = differences(name, gradients, (MODELS | POLICIES)[name], precision, PACKS)
    assert not found, report(found)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_policy_acts_alike_alone_and_in_any_pack(name: str, precision: str, threads: int) -> None:
    found = differences(name, actions, POLICIES[name], precision, (2, 5))
    assert not found, report(found)


def test_per_member_calls_and_joins_in_order() -> None:
    x = torch.arange(6.0).view(3, 2)
    assert torch.equal(per_member(lambda part: part.flip(0), x), x.flip(1))
