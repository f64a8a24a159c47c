"""pi0-FAST against a twin of torch's own layers, and how it generates."""

from functools import partial

import numpy as np
import pytest
import torch
from packs import make_tokens, take
from policy_twins import TinyPi0Fast
from test_pi0 import PENDULUM, noise
from torch.nn import functional as F

from ensemble.config.policy import Pi0FastConfig, TokenizerConfig
from ensemble.models.base import Batch, Normalization, build, initialize, parameter_count
from ensemble.models.pi0_fast import Pi0Fast
from ensemble.models.state_dicts import load_state_dict, to_state_dict
from ensemble.models.transformer import PassInputs

SMALL = Pi0FastConfig(
    n_layer=2,
    n_head=2,
    n_embd=16,
    n_inner=24,
    chunk=6,
    dropout=0,
    tokenizer=TokenizerConfig(vocabulary=20, max_length=9),
)
TINY = Pi0FastConfig(dropout=0)


def pack(config: Pi0FastConfig, members: int = 3) -> Pi0Fast:
    module = build(config, PENDULUM, members, Normalization.identity(PENDULUM), device="cpu")
    initialize(module, range(members))
    return module


def batch_of(module: Pi0Fast, batch: int = 6) -> Batch:
    points = torch.randn(module.members, batch, module.config.chunk + 1, 5, generator=torch.Generator().manual_seed(1))
    tokens = torch.cat([make_tokens(module.config, batch, seed) for seed in range(module.members)])
    return Batch(points, torch.arange(batch, dtype=torch.int32), tokens=tokens)


def twin_of(module: Pi0Fast, member: int) -> TinyPi0Fast:
    twin = TinyPi0Fast(module.config, 4)
    ours = to_state_dict(module, member)
    assert list(ours) == list(twin.state_dict())
    twin.load_state_dict(ours)
    return twin.train(False)


def test_the_tiny_form_has_the_published_number_of_parameters() -> None:
    assert parameter_count(build(Pi0FastConfig(), PENDULUM, 2, Normalization.identity(PENDULUM))) == 864_768


@pytest.mark.parametrize("config", [SMALL, TINY], ids=["small", "tiny"])
def test_logits_loss_and_gradients_agree_with_a_twin_of_torch_layers(config: Pi0FastConfig) -> None:
    module = pack(config)
    batch = batch_of(module)
    loss, details = module(batch, details=True)
    loss.sum().backward()
    state, tokens = batch.points[:, :, 0, 1:], batch.tokens
    logits = module.logits(state, tokens[:, :, :-1], batch.position, None)
    for member in range(3):
        twin, inputs, target = twin_of(module, member), tokens[member, :, :-1], tokens[member, :, 1:]
        counted = target != 2
        for padding in (False, True):  # where padding comes last, no token that counts sees it
            theirs = twin(state[member], inputs, padding)
            torch.testing.assert_close(logits[member][counted], theirs[counted], rtol=1e-6, atol=5e-6)
        expected = F.cross_entropy(theirs.flatten(0, 1), target.flatten(), ignore_index=2)
        torch.testing.assert_close(loss[member], expected, rtol=1e-6, atol=0)
        right = (theirs.argmax(-1) == target)[counted].float().mean()
        torch.testing.assert_close(details["token_accuracy"][member], right)
        expected.backward()
        ours = gradients_of(module, member)
        for name, parameter in twin.named_parameters():
            message = partial("{}: {}".format, name)
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=message)


def gradients_of(module: Pi0Fast, member: int) -> dict[str, torch.Tensor]:
    holder = build(module.config, PENDULUM, 1, Normalization.identity(PENDULUM), device="cpu")
    with torch.no_grad():
        for ours, parameter in zip(holder.parameters(), module.parameters(), strict=True):
            ours.copy_(parameter.grad[member : member + 1])
    return to_state_dict(holder, 0)


def test_queries_and_keys_of_one_memory_token_get_exactly_no_gradient_here_and_in_torch() -> None:
    module = pack(Pi0FastConfig(**(dict(SMALL) | {"dropout": 0.1})), members=1)
    batch = batch_of(module)
    keys = torch.arange(module.sites, dtype=torch.int32)[None]
    module(batch._replace(keys=keys))[0].sum().backward()
    twin = twin_of(module, 0).train()
    twin(batch.points[0, :, 0, 1:], batch.tokens[0, :, :-1]).square().sum().backward()
    ours = gradients_of(module, 0)
    for layer in range(2):
        name = f"transformer.layers.{layer}.multihead_attn.in_proj_weight"
        for gradient in (ours[name], twin.get_parameter(name).grad):
            assert float(gradient[:32].abs().max()) == 0
            assert float(gradient[32:].abs().min()) > 0


def test_dropped_heads_are_those_of_a_mask_applied_to_attention_weights() -> None:
    config = Pi0FastConfig(**(dict(SMALL) | {"dropout": 0.4}))
    layer = pack(config).transformer.layers[0].multihead_attn
    memory, position = torch.randn(3, 5, 16), torch.arange(5, dtype=torch.int32)
    keys = torch.arange(3 * 14, dtype=torch.int32).view(3, 14)
    ours = layer(memory, 4, PassInputs(position, keys, torch.zeros(4, 4))).view(3, 5, 4, 16)
    keep = layer.drop.kept(position, keys, (4, 2)) / 0.6  # (E, B, T, N)
    values = torch.einsum("ebd,edf->ebf", memory, layer.in_proj_weight[:, :, 32:]) + layer.in_proj_bias[:, :, 32:]
    heads = keep[..., None] * values.view(3, 5, 1, 2, 8)
    expected = torch.einsum("ebtd,edf->ebtf", heads.flatten(3), layer.out_proj.weight) + layer.out_proj.bias[:, :, None]
    torch.testing.assert_close(ours, expected)


def trained(config: Pi0FastConfig) -> tuple[Pi0Fast, Batch]:
    """Return a pack that has learned its batch, so that sequences end and differ."""
    module = pack(config)
    batch = batch_of(module)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        module(batch)[0].sum().backward()
        optimizer.step()
    return module, batch


def test_greedy_tokens_agree_with_the_twin_and_recall_what_was_learned() -> None:
    module, batch = trained(SMALL)
    states = torch.cat([batch.points[:, :, 0, 1:], torch.randn(3, 20, 4)], 1)
    tokens = module.generate(states)
    assert tokens.shape == (3, 26, 9)
    for member in range(3):
        for ours, theirs in zip(tokens[member], twin_of(module, member).generate(states[member], 9), strict=True):
            assert ours.tolist() == theirs + [2] * (9 - len(theirs))
    assert float((tokens[:, :6] == batch.tokens).float().mean()) > 0.9


def test_the_cache_gives_the_logits_of_the_whole_sequence() -> None:
    module = pack(SMALL)
    states = torch.randn(3, 4, 4)
    tokens = module.generate(states)
    logits = module.logits(states, tokens[:, :, :-1], torch.arange(4, dtype=torch.int32), None)
    before_end = (tokens[:, :, 1:] == 1).cumsum(-1) - (tokens[:, :, 1:] == 1).long() == 0
    assert torch.equal(logits.argmax(-1)[before_end], tokens[:, :, 1:][before_end])


def test_drawn_tokens_follow_the_softmax_of_the_logits_over_temperature() -> None:
    config = Pi0FastConfig(**(dict(SMALL) | {"temperature": 0.7}))
    module = pack(config, members=1)
    state = torch.randn(1, 1, 4)
    tokens = module.generate(state.expand(1, 20_000, 4), noise(1, 20_000))[0, :, 1]
    start = torch.zeros(1, 1, 1, dtype=torch.int64)
    logits = module.logits(state, start, torch.zeros(1, dtype=torch.int32), None)[0, 0, 0]
    expected = (logits.detach() / 0.7).softmax(-1).numpy()
    found = np.bincount(tokens.numpy(), minlength=20) / 20_000
    assert np.abs(found - expected).max() < 5 * np.sqrt(expected.max() / 20_000)
    with pytest.raises(ValueError, match="noise to draw"):
        module.generate(state)


def test_act_hands_tokens_to_the_tokenizer_and_returns_raw_units() -> None:
    module = pack(SMALL)
    states, seen = torch.randn(1, 4, 4), []

    def decode(tokens: np.ndarray) -> np.ndarray:
        seen.append(tokens)
        return np.arange(len(tokens) * 6, dtype=np.float32).reshape(-1, 6, 1)

    chunks = module.act(states, None, decode=decode)
    assert chunks.shape == (3, 4, 6, 1)
    assert chunks.flatten().tolist() == list(range(72))
    assert np.array_equal(seen[0], module.generate(states).flatten(0, 1).numpy())
    with pytest.raises(ValueError, match="decode"):
        module.act(states, None)


def test_halves_with_unequal_numbers_of_tokens_make_the_step_of_the_whole() -> None:
    module = pack(SMALL)
    batch = batch_of(module)
    count = (batch.tokens[:, :, 1:] != 2).sum((1, 2))
    whole = module(batch)[0]
    halves = [take(batch, part)._replace(targets=count / 2) for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(sum(module(half)[0] for half in halves) / 2, whole)
    plain = sum(module(half._replace(targets=None))[0] for half in halves) / 2
    assert not torch.isclose(plain, whole, rtol=1e-4).any()


def test_a_published_state_dict_fills_a_member_and_leaves_its_neighbours() -> None:
    module = pack(SMALL)
    before = to_state_dict(module, 0)
    twin = TinyPi0Fast(SMALL, 4)
    load_state_dict(module, 1, twin.state_dict())
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in to_state_dict(module, 1).items())
    assert all(torch.equal(value, before[name]) for name, value in to_state_dict(module, 0).items())


def test_a_batch_without_tokens_is_refused() -> None:
    module = pack(SMALL)
    with pytest.raises(ValueError, match=r"batch.tokens"):
        module(batch_of(module)._replace(tokens=None))
