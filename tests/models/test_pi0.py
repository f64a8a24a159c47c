"""pi0 against a twin of torch's own layers, and what its options do."""

import numpy as np
import pytest
import torch
from packs import make_pack, normalization
from policy_twins import TinyPi0
from torch import Tensor

from ensemble.config.policy import Pi0Config
from ensemble.errors import UsageError
from ensemble.models.base import Batch, Noise, Normalization, build, initialize, parameter_count
from ensemble.models.noise import noise_keys
from ensemble.models.pi0 import MAX_PERIOD, MIN_PERIOD, Pi0, sinusoids
from ensemble.models.state_dicts import load_state_dict, to_state_dict
from ensemble.schema import Feature

STATES = Feature("observations", 4, "state", ("x", "theta", "v", "w"), (False,) * 4)
FORCE = Feature("actions", 1, "control", ("u",), (False,))
PENDULUM = (FORCE, STATES)  # controls first, so that a slip in columns shows
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_inner": 24, "chunk": 6}


def pack(config: Pi0Config, members: int = 3) -> Pi0:
    module = build(config, PENDULUM, members, Normalization.identity(PENDULUM), device="cpu")
    initialize(module, range(members))
    return module


def noise(members: int, batch: int, step: int = 0) -> Noise:
    return Noise(noise_keys(range(members), step), torch.arange(batch, dtype=torch.int32)[None])


def batch_of(module: Pi0, batch: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(module.members, batch, module.config.chunk + 1, 5, generator=generator)
    return Batch(points, torch.arange(batch, dtype=torch.int32), None, noise(module.members, batch))


def twin_of(module: Pi0, member: int) -> TinyPi0:
    twin = TinyPi0(module.config, 4, 1)
    ours = to_state_dict(module, member)
    assert list(ours) == list(twin.state_dict())  # the order of parameters as well
    twin.load_state_dict(ours)
    return twin.train(False)


def test_the_tiny_form_has_the_published_number_of_parameters() -> None:
    assert parameter_count(build(Pi0Config(), PENDULUM, 2, Normalization.identity(PENDULUM))) == 537_729


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("sizes", [SMALL, {}], ids=["small", "tiny"])
def test_flow_loss_and_gradients_agree_with_a_twin_of_torch_layers(attention: str, sizes: dict[str, int]) -> None:
    module = pack(Pi0Config(attention=attention, **sizes))
    batch = batch_of(module)
    loss, _ = module(batch)
    loss.sum().backward()
    n, t = module.noise(batch.noise), module.times(batch.noise)
    state, action = batch.points[:, :, 0, 1:], batch.points[:, :, :-1, :1]
    flow = module.flow(state, (1 - t) * n + t * action, t, batch.position, None)
    for member in range(3):
        twin = twin_of(module, member)
        theirs = twin(state[member], ((1 - t) * n + t * action)[member], t[member])
        torch.testing.assert_close(flow[member], theirs, rtol=1e-6, atol=2e-6)
        expected = (theirs - (action - n)[member]).square().mean()
        torch.testing.assert_close(loss[member], expected, rtol=1e-6, atol=0)
        expected.backward()
        compare_gradients(module, twin, member)


def compare_gradients(module: Pi0, twin: TinyPi0, member: int) -> None:
    holder = build(module.config, PENDULUM, 1, Normalization.identity(PENDULUM), device="cpu")
    with torch.no_grad():
        for ours, parameter in zip(holder.parameters(), module.parameters(), strict=True):
            ours.copy_(parameter.grad[member : member + 1])
    ours = to_state_dict(holder, 0)
    for name, theirs in twin.named_parameters():
        torch.testing.assert_close(ours[name], theirs.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_sampled_chunks_agree_with_the_twin() -> None:
    module = pack(Pi0Config(**SMALL))
    states = torch.randn(3, 5, 4)
    given = noise(3, 5, step=9)
    chunks = module.act(states, given)
    assert chunks.shape == (3, 5, 6, 1)
    for member in range(3):
        theirs = twin_of(module, member).sample(states[member], module.noise(given)[member])
        torch.testing.assert_close(chunks[member], theirs, rtol=1e-6, atol=2e-6)


def test_a_state_dict_goes_out_and_comes_back_and_a_strange_one_changes_nothing() -> None:
    module, other = pack(Pi0Config(**SMALL)), pack(Pi0Config(**SMALL), members=1)
    twin = TinyPi0(module.config, 4, 1)
    load_state_dict(module, 1, twin.state_dict())
    load_state_dict(other, 0, to_state_dict(module, 1))
    assert all(torch.equal(mine, twin.state_dict()[name]) for name, mine in to_state_dict(other, 0).items())
    before = to_state_dict(other, 0)
    wrong = {name: value for name, value in twin.state_dict().items() if name != "flow_output.bias"}
    wrong |= {"extra": torch.zeros(1), "flow_output.weight": torch.zeros(2, 16)}
    with pytest.raises(UsageError, match=r"flow_output.bias: missing\nextra: .*\nflow_output.weight: shape \(2, 16\)"):
        load_state_dict(other, 0, wrong)
    assert all(torch.equal(mine, before[name]) for name, mine in to_state_dict(other, 0).items())


def test_weights_are_filled_by_xavier_and_attention_biases_are_zero() -> None:
    for name, value in to_state_dict(pack(Pi0Config()), 0).items():
        if value.ndim > 1:
            bound = np.sqrt(6 / sum(value.shape))
            assert 0.9 * bound < float(value.abs().max()) <= bound, name
            assert value.numel() < 500 or float(value.std()) == pytest.approx(bound / np.sqrt(3), rel=0.1), name
        elif "in_proj" in name or "out_proj" in name:
            assert float(value.abs().max()) == 0, name


@pytest.mark.parametrize(("law", "mean"), [("uniform", 0.5), ("beta", 0.999 * 0.4)])
@pytest.mark.parametrize("per", ["position", "sample"])
def test_times_lie_near_noise_in_openpis_law_and_are_as_many_as_asked(law: str, mean: float, per: str) -> None:
    times = pack(Pi0Config(time_law=law, time_per=per, **SMALL)).times(noise(3, 4096))
    assert times.shape == (3, 4096, 6 if per == "position" else 1, 1)
    assert 0 <= float(times.min()) < float(times.max()) < 1
    assert float(times.mean()) == pytest.approx(mean, abs=0.01)


def test_noise_is_held_within_its_clip_and_differs_between_steps() -> None:
    clipped, free = pack(Pi0Config(noise_clip=1.0, **SMALL)), pack(Pi0Config(noise_clip=None, **SMALL))
    assert float(clipped.noise(noise(3, 512)).abs().max()) == 1
    assert float(free.noise(noise(3, 512)).abs().max()) > 3
    assert torch.equal(clipped.noise(noise(3, 512)), free.noise(noise(3, 512)).clamp(-1, 1))
    assert not torch.isclose(free.noise(noise(3, 9)), free.noise(noise(3, 9, step=1))).any()


def test_a_causal_token_does_not_see_later_actions_and_openpis_state_sees_itself_alone() -> None:
    for attention in ("causal", "bidirectional"):
        module = pack(Pi0Config(attention=attention, **SMALL))
        x, t, position = torch.randn(3, 2, 6, 1), torch.rand(3, 2, 6, 1), torch.arange(2, dtype=torch.int32)
        state = torch.randn(3, 2, 4)
        changed = x.clone()
        changed[:, :, 3] += 1
        same = torch.isclose(module.flow(state, x, t, position, None), module.flow(state, changed, t, position, None))
        assert same[:, :, :3].all() == (attention == "causal")
        assert not same[:, :, 3:].any()
    assert pack(Pi0Config(attention="bidirectional", **SMALL))._mask(7, torch.device("cpu"))[0].isinf().sum() == 6


def test_sines_of_time_are_those_of_openpi() -> None:
    period = np.geomspace(MIN_PERIOD, MAX_PERIOD, 8)
    angle = 0.3 / period * 2 * np.pi
    ours = sinusoids(torch.tensor([[0.3]]), 16)[0].numpy()
    np.testing.assert_allclose(ours, np.concatenate([np.sin(angle), np.cos(angle)]), atol=1e-4)


class StraightLine:
    """The flow x' = f(t) of known solution, in place of a network."""

    def __call__(self, state: Tensor, x: Tensor, time: Tensor, position: Tensor, keys: None) -> Tensor:
        return (3 * time.square()).expand_as(x)


@pytest.mark.parametrize(
    ("solver", "steps", "error"), [("euler", 10, 0.145), ("euler", 100, 0.01495), ("heun", 10, 0.005)]
)
def test_solvers_have_the_errors_of_their_order(solver: str, steps: int, error: float) -> None:
    module = pack(Pi0Config(solver=solver, **SMALL))
    module.flow = StraightLine()
    given = noise(3, 2)
    travelled = module.act(torch.zeros(1, 2, 4), given, steps=steps) - module.noise(given)
    torch.testing.assert_close((travelled - 1).abs(), torch.full_like(travelled, error), rtol=1e-3, atol=1e-6)


def test_normalized_units_are_those_of_the_training_split() -> None:
    config = Pi0Config(normalize=True, **SMALL)
    module, _ = make_pack(config, [0])  # features: controls 0:2, states 2:6, of which two are angles
    moments = normalization()
    points = torch.randn(1, 3, 7, 9)
    chunk = module.chunk_of(points)
    expected = (points[:, :, :-1, :2].numpy() - moments.mean[:2]) / np.sqrt(moments.variance[:2] + 1e-5)
    torch.testing.assert_close(chunk, torch.from_numpy(expected.astype(np.float32)))
    torch.testing.assert_close(module._raw(chunk), points[:, :, :-1, :2])
    turned = points[:, :, 0, 2:6] + torch.tensor([2 * torch.pi, 0, 0, 0])
    given = noise(1, 3)
    torch.testing.assert_close(module.act(turned, given), module.act(points[:, :, 0, 2:6], given), rtol=1e-4, atol=1e-4)


def test_what_is_missing_is_named() -> None:
    module = pack(Pi0Config(**SMALL))
    with pytest.raises(ValueError, match=r"batch.noise"):
        module(batch_of(module)._replace(noise=None))
    with pytest.raises(ValueError, match="noise to act"):
        module.act(torch.zeros(1, 2, 4), None)
    with pytest.raises(UsageError, match="none of the features is a control"):
        build(Pi0Config(), (STATES,), 1, Normalization.identity((STATES,)))
