"""What every model family promises. A new family adds a line to FAMILIES and passes."""

import numpy as np
import pytest
import torch
from packs import FEATURES, into_arena, make_batch, make_pack, normalization, pendulum_inputs, take

from ensemble.config.model import GPTDynamicsConfig, ModelConfig
from ensemble.config.policy import Pi0Config, Pi0FastConfig, TokenizerConfig
from ensemble.models.base import Noise, build, initialize, move_buffers, parameter_count
from ensemble.models.noise import noise_keys

FAMILIES: dict[str, ModelConfig] = {
    "gpt_dynamics": GPTDynamicsConfig(
        n_layer=2, n_head=2, n_embd=32, history=5, block_size=5, inputs=pendulum_inputs("states", "joint_acts")
    ),
    "gpt_dynamics with biases and dropout": GPTDynamicsConfig(
        n_layer=1, n_head=4, n_embd=16, history=5, block_size=5, bias=True, dropout=0.1
    ),
    "pi0": Pi0Config(n_layer=2, n_head=2, n_embd=32, n_inner=48, chunk=6),
    "pi0 as openpi": Pi0Config(
        n_layer=2,
        n_head=2,
        n_embd=32,
        n_inner=48,
        chunk=6,
        attention="bidirectional",
        time_law="beta",
        time_per="sample",
        time_embedding="sinusoidal",
        noise_clip=None,
        solver="heun",
        normalize=True,
        dropout=0,
    ),
    "pi0_fast": Pi0FastConfig(
        n_layer=2, n_head=2, n_embd=32, n_inner=48, chunk=6, tokenizer=TokenizerConfig(vocabulary=20, max_length=7)
    ),
    "pi0_fast with logits dropped": Pi0FastConfig(
        n_layer=1,
        n_head=4,
        n_embd=32,
        n_inner=48,
        chunk=6,
        tokenizer=TokenizerConfig(vocabulary=20, max_length=7),
        logits_dropout=0.1,
        normalize=True,
    ),
}
SEEDS = [4, 2, 7]


@pytest.fixture(params=FAMILIES)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return FAMILIES[request.param]


def test_the_loss_is_one_finite_number_a_member(config: ModelConfig) -> None:
    module, _ = make_pack(config, SEEDS)
    loss, details = module(make_batch(module, SEEDS))
    assert loss.shape == (3,)
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite().all())
    assert details == {}


def test_details_come_when_asked_and_leave_the_loss_alone(config: ModelConfig) -> None:
    module, _ = make_pack(config, SEEDS)
    batch = make_batch(module, SEEDS)
    loss, details = module(batch, details=True)
    assert torch.equal(loss, module(batch)[0])
    assert all(value.shape[0] == 3 for value in details.values())
    assert set(details) == {*config.loss_details, *(["one_step_mse"] if config.task == "dynamics" else [])}
    names = {"gpt_dynamics": {"one_step_mse"}, "pi0": set(), "pi0_fast": {"token_accuracy"}}
    assert set(details) == names.get(config.family, set(details))


def test_a_gradient_reaches_every_parameter_of_every_member_in_the_arena(config: ModelConfig) -> None:
    module, grad = make_pack(config, SEEDS)
    module(make_batch(module, SEEDS))[0].sum().backward()
    start = grad.data_ptr()
    for name, parameter in module.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert start <= parameter.grad.data_ptr() < start + grad.numel() * 4, name
        assert bool((parameter.grad.flatten(1).abs().sum(1) > 0).all()), name


def test_the_sum_of_losses_gives_each_member_its_own_gradient(config: ModelConfig) -> None:
    module, grad = make_pack(config, SEEDS)
    batch = make_batch(module, SEEDS)
    module(batch)[0].sum().backward()
    whole = grad.clone()
    grad.zero_()
    module(batch)[0][1].backward()
    assert torch.equal(grad[1], whole[1])
    assert grad[[0, 2]].abs().max() == 0


def test_it_overfits_eight_windows(config: ModelConfig) -> None:
    module, grad = make_pack(config, SEEDS)
    batch = make_batch(module, SEEDS, batch=8)._replace(keys=None)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    first = module(batch)[0].detach()
    for _ in range(200):
        grad.zero_()
        loss, _ = module(batch)
        loss.sum().backward()
        optimizer.step()
    assert bool((loss < 0.05 * first).all()), (first, loss)


def test_a_copy_of_its_parameters_is_the_same_model(config: ModelConfig) -> None:
    module, _ = make_pack(config, SEEDS)
    saved = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    other = build(config, FEATURES, 3, normalization(), device="cpu")
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(saved[name])
    batch = make_batch(module, SEEDS)
    assert torch.equal(module(batch)[0], other(batch)[0])


def test_weights_follow_from_the_seed_alone(config: ModelConfig) -> None:
    module, _ = make_pack(config, SEEDS)
    alone, _ = make_pack(config, [2])
    moved = build(config, FEATURES, 2, normalization(), device="cpu")
    initialize(moved, [9, 2])
    for ours, one, two in zip(module.parameters(), alone.parameters(), moved.parameters(), strict=True):
        assert torch.equal(ours[1], one[0])
        assert torch.equal(ours[1], two[1])
    different = [not torch.equal(p[0], p[1]) for p in module.parameters()]
    assert sum(different) > len(different) / 3


def test_the_order_within_a_batch_does_not_matter(config: ModelConfig) -> None:
    module, _ = make_pack(config, SEEDS)
    batch = make_batch(module, SEEDS, batch=6)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(module(batch)[0], module(take(batch, order))[0], rtol=1e-5, atol=0)


def test_a_pack_on_the_meta_device_costs_nothing_and_counts_alike(config: ModelConfig) -> None:
    bare = build(config, FEATURES, 1000, normalization())
    assert all(parameter.is_meta for parameter in bare.parameters())
    assert not any(buffer.is_meta for buffer in bare.buffers())
    assert parameter_count(bare) == parameter_count(make_pack(config, [1])[0])


def test_buffers_move_and_parameters_stay(config: ModelConfig) -> None:
    module = build(config, FEATURES, 2, normalization())
    into_arena(module, 2)
    before = [parameter.data_ptr() for parameter in module.parameters()]
    move_buffers(module, "meta")
    assert all(buffer.is_meta for buffer in module.buffers())
    assert [parameter.data_ptr() for parameter in module.parameters()] == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_precisions_tell_the_same_story(config: ModelConfig, precision: str) -> None:
    exact, exact_grad = make_pack(config, SEEDS)
    module, grad = make_pack(config, SEEDS, precision)
    batch = make_batch(module, SEEDS, batch=16)
    loss, expected = module(batch)[0], exact(batch)[0]
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    assert float(torch.cosine_similarity(grad.flatten(), exact_grad.flatten(), dim=0)) > 0.99
    assert (precision == "fp32") == torch.equal(grad, exact_grad)


def test_a_dynamics_model_predicts_a_state_for_each_step_and_a_policy_a_chunk_of_actions(config: ModelConfig) -> None:
    module, _ = make_pack(config, SEEDS)
    batch = make_batch(module, SEEDS, batch=2, time=7)
    if config.task == "dynamics":
        answer, shape = module.rollout(batch.points[:, :, :2], batch.points, 6), (3, 2, 6, 4)
    else:
        noise, shape = Noise(noise_keys(SEEDS, 0), batch.position[None]), (3, 2, 6, 2)
        answer = module.act(batch.points[:, :, 0, 2:6], noise, decode=pretend_decode)
    assert answer.shape == shape
    assert bool(answer.isfinite().all())
    assert not answer.requires_grad


def pretend_decode(tokens: np.ndarray) -> np.ndarray:
    """Turn tokens (N, L) into chunks (N, 6, 2) as a tokenizer would."""
    return np.repeat(tokens[:, :6, None].astype(np.float32), 2, axis=2)
