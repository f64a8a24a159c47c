import subprocess
import sys

import pytest
import torch

from ensemble.config.train import AdamConfig, AdamWConfig, SGDConfig
from ensemble.models.layers import Linear
from ensemble.training.arena import Arena
from ensemble.training.optimizer import MemberOptimizer

CONFIGS = [
    AdamConfig(lr=0.01, weight_decay=0.1),
    AdamWConfig(lr=0.01, betas=(0.8, 0.99)),
    SGDConfig(lr=0.1, momentum=0.9),
    SGDConfig(lr=0.1, momentum=0.0),
]
TWINS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def arena(members: int) -> Arena:
    result = Arena(Linear(members, 5, 3, device="meta"))
    for member in range(members):
        result.values.data[member].normal_(generator=torch.Generator().manual_seed(member))
    return result


def gradients(step: int) -> torch.Tensor:
    return torch.randn(3, 18, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("config", CONFIGS)
def test_each_member_moves_as_under_torchs_own_optimizer_with_its_own_rate(config) -> None:
    pack = arena(3)
    optimizer = MemberOptimizer(pack, config)
    rates = [0.1, 0.01, 0.001]
    options = config.model_dump(exclude={"name", "lr"})
    rows = [torch.nn.Parameter(row.clone()) for row in pack.values]
    twins = [TWINS[config.name]([row], lr=rate, **options) for row, rate in zip(rows, rates, strict=True)]
    for step in range(5):
        pack.grad.copy_(gradients(step))
        optimizer.step(rates, [True] * 3)
        for row, twin, grad in zip(rows, twins, gradients(step), strict=True):
            row.grad = grad.clone()
            twin.step()
    for row, member in zip(rows, pack.values, strict=True):
        torch.testing.assert_close(member, row.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("config", CONFIGS)
def test_saved_moments_continue_to_the_bit(config) -> None:
    whole, first = arena(3), arena(3)
    one, two = MemberOptimizer(whole, config), MemberOptimizer(first, config)
    for step in range(6):
        whole.grad.copy_(gradients(step))
        one.step([0.01] * 3, [True] * 3)
    for step in range(3):
        first.grad.copy_(gradients(step))
        two.step([0.01] * 3, [True] * 3)
    second = arena(3)
    second.values.data.copy_(first.values)
    three = MemberOptimizer(second, config)
    three.load_moments(two.moments)
    for step in range(3, 6):
        second.grad.copy_(gradients(step))
        three.step([0.01] * 3, [True] * 3)
    assert torch.equal(whole.values, second.values)


def test_a_frozen_member_stays_and_its_neighbours_do_not_notice() -> None:
    pack, alone = arena(3), arena(3)
    frozen, free = MemberOptimizer(pack, CONFIGS[0]), MemberOptimizer(alone, CONFIGS[0])
    before = pack.values[1].clone()
    for step in range(3):
        pack.grad.copy_(gradients(step))
        pack.grad[1] = torch.nan
        alone.grad.copy_(gradients(step))
        frozen.step([0.01] * 3, [True, False, True])
        free.step([0.01] * 3, [True] * 3)
    assert torch.equal(pack.values[1], before)
    assert torch.equal(pack.values[0], alone.values[0])
    assert torch.equal(pack.values[2], alone.values[2])


def test_clipping_is_torchs_for_each_member_by_itself() -> None:
    pack = arena(3)
    optimizer = MemberOptimizer(pack, CONFIGS[0])
    pack.grad.copy_(gradients(0) * torch.tensor([[0.01], [1.0], [100.0]]))
    expected = [torch.nn.Parameter(torch.zeros(18)) for _ in range(3)]
    for row, grad in zip(expected, pack.grad.clone(), strict=True):
        row.grad = grad
        torch.nn.utils.clip_grad_norm_([row], 1.0)
    before, after = optimizer.clip(1.0)
    assert before[0] < 1 < before[1] < before[2]
    torch.testing.assert_close(after[1:].float(), torch.ones(2), rtol=1e-5, atol=0)
    for row, grad in zip(expected, pack.grad, strict=True):
        torch.testing.assert_close(grad, row.grad)


def test_training_does_not_import_the_compiler() -> None:
    code = """
import sys
import torch
from ensemble.config.train import AdamConfig
from ensemble.models.layers import Linear
from ensemble.training.arena import Arena
from ensemble.training.optimizer import MemberOptimizer
pack = Arena(Linear(2, 5, 3, device="meta"))
optimizer = MemberOptimizer(pack, AdamConfig())
optimizer.clip(1.0)
optimizer.step([0.01, 0.02], [True, True])
assert pack.values.isfinite().all()
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
