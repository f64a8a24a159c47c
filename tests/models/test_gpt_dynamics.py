import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from packs import FEATURES, make_batch, make_pack, make_points, normalization, pendulum_inputs
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model
from twins import ModelMixedInput, copy_member

from ensemble.config.model import GPTDynamicsConfig, HeadConfig, InputConfig
from ensemble.errors import UsageError
from ensemble.models.base import Batch, Normalization, build, initialize, parameter_count, wrap
from ensemble.schema import Feature

SMALL = GPTDynamicsConfig(
    n_layer=2, n_head=2, n_embd=16, history=5, block_size=8, inputs=pendulum_inputs("states", "gravity_dir")
)
STATE = slice(2, 6)  # where `states` lies in the points of packs.FEATURES


def feature(name: str, width: int, role: str = "state") -> Feature:
    return Feature(name, width, role, tuple(f"{name}[{i}]" for i in range(width)), (False,) * width)


def count(config: GPTDynamicsConfig, features: tuple[Feature, ...], members: int = 3) -> int:
    return parameter_count(build(config, features, members, Normalization.identity(features)))


# Parameter counts of reference/systems.md 0.2


@pytest.mark.parametrize(
    ("others", "state", "n_embd", "block_size", "expected"),
    [
        ([3], 4, 192, 16, 2_710_788),  # axion pendulum: states and gravity
        ([12, 12, 4, 2, 3], 4, 192, 16, 2_716_548),  # NeRD pendulum
        ([2], 4, 192, 32, 2_713_668),  # NeRD cartpole
        ([75, 75, 25, 8, 3], 29, 384, 32, 10_891_037),  # NeRD ant
        ([2, 3], 4, 192, 16, 2_711_172),  # nine inputs
    ],
)
def test_parameters_are_counted_to_the_digit(
    others: list[int], state: int, n_embd: int, block_size: int, expected: int
) -> None:
    features = (feature("states", state), *(feature(f"f{i}", w, "auxiliary") for i, w in enumerate(others)))
    inputs = pendulum_inputs(*(f.name for f in features))
    config = GPTDynamicsConfig(n_embd=n_embd, block_size=block_size, inputs=inputs)
    assert count(config, features) == expected


def test_the_default_input_is_every_state_and_control_but_no_auxiliary_feature() -> None:
    config = GPTDynamicsConfig()
    assert count(config, (feature("states", 4), feature("acts", 2, "control"), feature("gravity", 3, "auxiliary"))) == (
        2_710_788 - 192
    )


def test_parameters_are_named_and_ordered_as_in_the_reference() -> None:
    names = [name for name, _ in build(SMALL, FEATURES, 1, normalization()).named_parameters()]
    block = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    gpt = ["wte.weight", "wte.bias", "wpe.weight", *(f"h.{i}.{part}.weight" for i in range(2) for part in block)]
    assert names == [
        *(f"transformer_model.transformer.{name}" for name in [*gpt, "ln_f.weight"]),
        "transformer_model.lm_head.weight",
        "model.feature_net.body.0.weight",
        "model.feature_net.body.0.bias",
        "model.output_net.weight",
        "model.output_net.bias",
    ]


# Parity with torch's own modules and with transformers

ENCODED = SMALL.model_copy(
    update={
        "bias": True,
        "inputs": {
            "robot": InputConfig(features=["states", "joint_acts"], layer_sizes=[7, 6], activation="silu"),
            "world": InputConfig(features=["gravity_dir"], layer_sizes=[5], activation="elu", layernorm=True),
        },
        "head": HeadConfig(layer_sizes=[9, 3], activation="tanh", layernorm=True),
    }
)
COLUMNS = {"states": slice(2, 6), "joint_acts": slice(0, 2), "gravity_dir": slice(6, 9)}


def twin_loss(config: GPTDynamicsConfig, twin: nn.Module, points: Tensor) -> Tensor:
    """Loss of the reference, written from reference/systems.md 0.4 and 0.5, for one member's points (B, T+1, D)."""
    moments = normalization()
    points = points.clone()
    points[..., 2:4] = torch.remainder(points[..., 2:4] + math.pi, 2 * math.pi) - math.pi
    state, after = points[:, :-1, STATE], points[:, 1:, STATE]
    target = after.clone()
    if config.prediction == "relative":
        target = after - state
        target[..., :2] = torch.remainder(target[..., :2] + math.pi, 2 * math.pi) - math.pi
    normal = (points - torch.tensor(moments.mean)) / torch.sqrt(torch.tensor(moments.variance) + 1e-5)
    inputs = {
        name: torch.cat([normal[:, :-1, COLUMNS[f]] for f in entry.features], -1)
        for name, entry in config.inputs.items()
    }
    weight = 1 / torch.sqrt(torch.tensor(moments.target_variance) + 1e-5)
    prediction = twin(inputs) / weight + torch.tensor(moments.target_mean)
    return nn.functional.mse_loss(prediction * weight, target * weight)


@pytest.mark.parametrize("config", [SMALL, ENCODED, ENCODED.model_copy(update={"prediction": "absolute"})])
def test_loss_and_gradients_agree_with_a_twin_of_torch_modules(config: GPTDynamicsConfig) -> None:
    seeds = [3, 4]
    module, _ = make_pack(config, seeds)
    batch = make_batch(module, seeds, batch=6)
    loss, _ = module(batch)
    loss.sum().backward()
    widths = {name: sum(COLUMNS[f].stop - COLUMNS[f].start for f in e.features) for name, e in config.inputs.items()}
    for member in range(2):
        twin = ModelMixedInput(config, widths, outputs=4)
        copy_member(module, twin, member)
        expected = twin_loss(config, twin, batch.points[member])
        expected.backward()
        torch.testing.assert_close(loss[member], expected, rtol=1e-6, atol=1e-6)
        for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
            grad = ours.grad[member]
            grad = grad.T if grad.shape == theirs.shape[::-1] and theirs.dim() == 2 else grad.reshape(theirs.shape)
            torch.testing.assert_close(grad, theirs.grad, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("n_embd", [24, 192])
def test_the_transformer_agrees_with_hugging_face_to_1e6(n_embd: int) -> None:
    config = SMALL.model_copy(update={"n_embd": n_embd, "n_head": 12, "n_layer": 3, "bias": False})
    module, _ = make_pack(config, [7])
    gpt = module.transformer_model
    peer = GPT2Model(
        GPT2Config(
            n_embd=n_embd,
            n_layer=3,
            n_head=12,
            n_positions=8,
            vocab_size=1,
            activation_function="gelu",
            layer_norm_epsilon=1e-5,
            attn_implementation="eager",
        )
    ).eval()
    with torch.no_grad():
        for name, theirs in peer.named_parameters():
            if name == "wte.weight":
                continue
            parts = dict(gpt.transformer.named_parameters())
            theirs.copy_(parts[name][0].reshape(theirs.shape)) if name in parts else theirs.zero_()
        x = torch.randn(1, 6, 5, 7)  # Conv1D of transformers holds (in, out), as we do
        embedded = (x[0] @ gpt.transformer.wte.weight[0]) + gpt.transformer.wte.bias[0]
        expected = peer(inputs_embeds=embedded).last_hidden_state @ gpt.lm_head.weight[0]
        ours = gpt(x, torch.arange(6, dtype=torch.int32), None).view(6, 5, n_embd)
    assert (ours - expected).abs().max() <= 1e-6


def test_weights_start_as_in_the_reference() -> None:
    module, _ = make_pack(SMALL.model_copy(update={"n_embd": 96, "n_layer": 8}), [1])
    parts = {name: p.detach()[0] for name, p in module.named_parameters()}
    std = {name: float(p.std()) for name, p in parts.items() if p.numel() > 500}
    for name in ("transformer.wte", "transformer.wpe", "transformer.h.0.attn.c_attn", "transformer.h.3.mlp.c_fc"):
        assert std[f"transformer_model.{name}.weight"] == pytest.approx(0.02, rel=0.1)
    for name in ("h.0.attn.c_proj", "h.7.mlp.c_proj"):
        assert std[f"transformer_model.transformer.{name}.weight"] == pytest.approx(0.02 / 4, rel=0.1)
    assert parts["transformer_model.transformer.wte.bias"].abs().max() == 0
    assert bool((parts["transformer_model.transformer.ln_f.weight"] == 1).all())
    head = parts["model.feature_net.body.0.weight"]
    assert 0.98 / math.sqrt(96) < float(head.abs().max()) <= 1 / math.sqrt(96)
    assert 0 < float(parts["model.feature_net.body.0.bias"].abs().max()) <= 1 / math.sqrt(96)


# What the numbers mean


def test_changing_a_later_point_changes_no_earlier_prediction() -> None:
    module, _ = make_pack(SMALL, [1])
    points = module._wrapped(make_points(1, 3, 5))
    position = torch.arange(3, dtype=torch.int32)
    before = module._network(points, position, None).view(3, 5, 4)
    changed = points.clone()
    changed[:, :, 3] += 1
    after = module._network(changed, position, None).view(3, 5, 4)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 3:], after[:, 3:]).any()


def test_angles_wrap_to_the_half_open_circle() -> None:
    pi = math.pi
    angles = torch.tensor([-pi, pi, 3 * pi, 0.0, pi + 0.1, -pi - 0.1, 100.0, -1e-9 - pi])
    wrapped = wrap(angles)
    assert bool((wrapped >= -torch.tensor(pi)).all())
    assert bool((wrapped < torch.tensor(pi)).all())
    torch.testing.assert_close(torch.sin(wrapped), torch.sin(angles), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cos(wrapped), torch.cos(angles), atol=1e-5, rtol=0)
    assert wrapped[0] == wrapped[1] == -torch.tensor(pi)
    assert float(wrapped[2].abs()) == pytest.approx(pi, abs=1e-5)


def one_angle(prediction: str, **changes: object) -> tuple[nn.Module, tuple[Feature, ...]]:
    """Return a model whose last layer is zero: it predicts the mean of its target."""
    features = (Feature("q", 1, "state", ("q",), (True,)),)
    config = GPTDynamicsConfig(
        **({"n_layer": 1, "n_head": 1, "n_embd": 4, "history": 3, "prediction": prediction} | changes)
    )
    moments = Normalization(*(np.array([x], np.float32) for x in (0, 1, 0.25, 1)))
    module = build(config, features, 1, moments, device="cpu")
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.1)
    nn.init.zeros_(module.model.output_net.weight)
    nn.init.zeros_(module.model.output_net.bias)
    return module, features


def test_a_step_across_the_seam_is_a_small_one() -> None:
    module, _ = one_angle("relative")
    window = torch.tensor([math.pi - 0.1, math.pi + 0.15, math.pi + 0.4]).view(1, 1, 3, 1)  # steps of 0.25
    loss, details = module(Batch(window, torch.zeros(1, dtype=torch.int32)), details=True)
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert float(details["one_step_mse"]) == pytest.approx(0, abs=1e-9)
    predicted = module.rollout(window[:, :, :1], window[:, :, :1].expand(1, 1, 4, 1), 3)
    expected = wrap(torch.tensor([math.pi + 0.15, math.pi + 0.4, math.pi + 0.65])).view(1, 1, 3, 1)
    torch.testing.assert_close(predicted, expected, atol=1e-5, rtol=0)


def test_an_absolute_prediction_is_of_the_wrapped_next_state() -> None:
    module, _ = one_angle("absolute")
    window = torch.tensor([2.0, 0.25 + 2 * math.pi, 0.25]).view(1, 1, 3, 1)
    loss, _ = module(Batch(window, torch.zeros(1, dtype=torch.int32)))
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert float(module.rollout(window[:, :, :1], window, 1)) == pytest.approx(0.25)


def test_one_step_errors_are_wrapped_differences_in_raw_units() -> None:
    module, _ = one_angle("absolute")
    window = torch.tensor([0.0, 0.25 - math.pi - 0.1]).view(1, 1, 2, 1)  # 0.1 beyond half a turn away
    _, details = module(Batch(window, torch.zeros(1, dtype=torch.int32)), details=True)
    assert float(details["one_step_mse"]) == pytest.approx((math.pi - 0.1) ** 2, rel=1e-5)


def test_the_loss_is_the_squared_error_in_normalized_units() -> None:
    straight = tuple(replace(f, angles=(False,) * f.width) for f in FEATURES)
    module = build(SMALL, straight, 2, normalization(), device="cpu")
    initialize(module, [1, 2])
    loss, details = module(make_batch(module, [1, 2]), details=True)
    variance = torch.tensor(normalization().target_variance)
    torch.testing.assert_close(loss, (details["one_step_mse"] / (variance + 1e-5)).mean(-1))


def test_tanh_bounds_the_normalized_output() -> None:
    module, _ = one_angle("absolute", output_tanh=True)
    nn.init.constant_(module.model.output_net.bias, 50.0)
    window = torch.zeros(1, 1, 2, 1)
    assert float(module.rollout(window, window, 1)) == pytest.approx(1 * math.sqrt(1 + 1e-5) + 0.25)


def test_without_normalization_the_moments_play_no_part() -> None:
    config = SMALL.model_copy(update={"normalize_input": False, "normalize_output": False})
    module, _ = make_pack(config, [1])
    other = build(config, FEATURES, 1, Normalization.identity(FEATURES), device="cpu")
    other.load_state_dict(module.state_dict())
    batch = make_batch(module, [1])
    assert torch.equal(module(batch)[0], other(batch)[0])


def test_one_members_windows_serve_every_member() -> None:
    module, _ = make_pack(ENCODED, [1, 2, 3])
    batch = make_batch(module, [1])
    shared, _ = module(batch)
    repeated, _ = module(batch._replace(points=batch.points.repeat(3, 1, 1, 1)))
    assert torch.equal(shared, repeated)


# Rollouts


@pytest.mark.parametrize("context", [1, 3, 5])
@pytest.mark.parametrize("config", [SMALL, ENCODED], ids=["gravity", "controls"])
def test_a_rollout_feeds_predictions_back_over_a_sliding_context(config: GPTDynamicsConfig, context: int) -> None:
    module, _ = make_pack(config, [1, 2])
    known = make_points(2, 3, context + 7)
    predicted = module.rollout(known[:, :, :context], known, 7)
    assert predicted.shape == (2, 3, 7, 4)
    points = module._wrapped(known)
    for i in range(7):
        end = context + i
        window = points[:, :, max(0, end - config.history) : end]
        following = torch.cat([window, torch.zeros_like(window[:, :, :1])], 2)
        _, details = module(Batch(following, torch.arange(3, dtype=torch.int32)), details=True)
        assert details  # the window is one that training could have seen
        step = module.rollout(window, torch.cat([window, window[:, :, -1:]], 2), 1)[:, :, 0]
        torch.testing.assert_close(predicted[:, :, i], step, rtol=1e-5, atol=1e-5)
        points[:, :, end, STATE] = step


def test_a_rollout_reads_no_state_beyond_its_context_and_no_last_control() -> None:
    module, _ = make_pack(ENCODED, [1, 2])
    known = make_points(2, 3, 9)
    expected = module.rollout(known[:, :, :3], known, 6)
    hidden = known.clone()
    hidden[:, :, 3:, STATE] = torch.nan
    hidden[:, :, 8:] = torch.nan
    before = hidden.clone()
    assert torch.equal(module.rollout(known[:, :, :3], hidden, 6), expected)
    assert torch.equal(hidden.nan_to_num(9), before.nan_to_num(9))  # arguments are left as they were


def test_a_control_moves_only_the_states_after_it() -> None:
    module, _ = make_pack(ENCODED, [1])
    known = make_points(1, 2, 9)
    changed = known.clone()
    changed[:, :, 5, :2] += 1  # the control at point 5 acts between points 5 and 6
    one, two = (module.rollout(k[:, :, :3], k, 6) for k in (known, changed))
    assert torch.equal(one[:, :, :3], two[:, :, :3])  # points 3, 4, 5
    assert not torch.equal(one[:, :, 3], two[:, :, 3])


def test_a_rollout_of_a_pack_agrees_with_each_member_alone() -> None:
    module, _ = make_pack(SMALL, [1, 2, 3])
    known = make_points(1, 4, 9)
    together = module.rollout(known[:, :, :2], known, 7)
    alone = [make_pack(SMALL, [seed])[0].rollout(known[:, :, :2], known, 7) for seed in (1, 2, 3)]
    assert torch.equal(together, torch.cat(alone))


# Errors


def test_an_unknown_input_feature_names_its_key_and_the_nearest_one() -> None:
    config = SMALL.model_copy(update={"inputs": pendulum_inputs("states", "gravity")})
    with pytest.raises(UsageError, match=r"model\.inputs\.low_dim\.features: no feature 'gravity'.*'gravity_dir'"):
        build(config, FEATURES, 1, normalization())


@pytest.mark.parametrize("name", ["low.dim", "items", "2d"])
def test_an_input_needs_a_plain_name(name: str) -> None:
    config = SMALL.model_copy(update={"inputs": {name: InputConfig(features=["states"])}})
    with pytest.raises(UsageError, match="plain name"):
        build(config, FEATURES, 1, normalization())


def test_data_without_a_state_are_refused() -> None:
    with pytest.raises(UsageError, match="state"):
        build(GPTDynamicsConfig(), (feature("u", 2, "control"),), 1, normalization())
