"""What `ensemble plan` counts for policies, and for a family that declares no cost, against torch's own counters."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ensemble.config import Experiment
from ensemble.config.family import FamilyConfig
from ensemble.config.model import GPTDynamicsConfig
from ensemble.config.policy import Pi0Config, Pi0FastConfig
from ensemble.models.base import Batch, Noise, Normalization, build, initialize, parameter_count
from ensemble.models.cost import StepShape, cost_of_step, count_on_meta
from ensemble.models.dropout import dropout_keys
from ensemble.models.noise import noise_keys
from ensemble.planning.cost import cost_of
from ensemble.schema import Feature

POLICIES = [
    Pi0Config(),
    Pi0Config(dropout=0.0, n_layer=2, n_head=2, n_embd=64, n_inner=96, chunk=20),
    Pi0FastConfig(),
    Pi0FastConfig(dropout=0.0, n_layer=2, n_embd=64),
]
FEATURES = (
    Feature("observations", 4, "state", tuple("abcd"), (False,) * 4),
    Feature("actions", 1, "control", ("u",), (False,)),
)


@pytest.mark.parametrize("model", POLICIES)
def test_a_policy_s_parameters_are_exact_and_its_flops_and_bytes_near(model: Pi0Config | Pi0FastConfig) -> None:
    tree = {"experiment": "x", "data": {"source": "inverted_pendulum"}, "train": {"batch_size": 32}}
    config = Experiment.model_validate({**tree, "model": model.model_dump()})
    cost = cost_of(config, FEATURES)
    module = build(model, FEATURES, 1, Normalization.identity(FEATURES), "fp32", "cpu")
    initialize(module, (0,))
    kept: dict[int, int] = {}
    alive = []  # so that no storage is used again
    parameters = {parameter.untyped_storage()._cdata for parameter in module.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        if tensor.untyped_storage()._cdata not in parameters:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    batch = config.train.batch_size
    position = torch.arange(batch, dtype=torch.int32)
    tokens = torch.full((1, batch, model.tokens), 5)
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        keys = dropout_keys((0,), module.sites, 0) if module.sites else None
        noise = Noise(noise_keys((0,), 0), position[None])
        loss, _ = module(Batch(torch.zeros(1, batch, model.chunk + 1, 5), position, keys, noise, tokens))
        loss.sum().backward()
    assert cost.parameters == parameter_count(module)
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.15)
    assert cost.saved == pytest.approx(sum(kept.values()), rel=0.15)


@pytest.mark.parametrize("model", [*POLICIES, GPTDynamicsConfig(), GPTDynamicsConfig(n_layer=2, dropout=0.1)])
def test_a_step_counted_on_the_meta_device_is_near_what_its_family_declares(model: FamilyConfig) -> None:
    step = StepShape(32, "fp32", "cpu")
    _, declared = cost_of_step(model, FEATURES, step)
    counted = count_on_meta(model, FEATURES, step)
    assert counted.forward == pytest.approx(declared.forward, rel=0.15)
    assert counted.saved == pytest.approx(declared.saved, rel=0.15)
