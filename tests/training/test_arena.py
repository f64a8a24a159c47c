import pytest
import torch
from torch import nn

from ensemble.models.layers import Linear
from ensemble.training.arena import Arena


def two_layers(members: int = 3) -> nn.Module:
    return nn.Sequential(Linear(members, 4, 5, device="meta"), Linear(members, 5, 2, device="meta"))


def test_a_member_is_a_row_of_values_in_registration_order() -> None:
    module = two_layers()
    arena = Arena(module)
    arena.values[1] = torch.arange(arena.values.shape[1])
    assert arena.values.shape == (3, 4 * 5 + 5 + 5 * 2 + 2)
    assert [slot.name for slot in arena.layout] == [name for name, _ in module.named_parameters()]
    flat = torch.cat([parameter[1].reshape(-1) for parameter in module.parameters()])
    assert torch.equal(flat, arena.values[1])


def test_gradients_of_a_backward_pass_lie_in_the_arena() -> None:
    module = two_layers()
    arena = Arena(module)
    arena.values.normal_()
    arena.zero_grad()
    module(torch.randn(3, 6, 4)).square().sum().backward()
    arena.assert_attached()
    assert bool(arena.grad.any(dim=1).all())


@pytest.mark.parametrize("detach", ["gradient", "parameter"])
def test_a_gradient_or_parameter_that_left_the_arena_is_found(detach: str) -> None:
    module = two_layers()
    arena = Arena(module)
    parameter = next(module.parameters())
    if detach == "gradient":
        parameter.grad = torch.zeros_like(parameter)
    else:
        parameter.data = parameter.data.clone()
    with pytest.raises(RuntimeError, match="has left the arena"):
        arena.assert_attached()


def test_the_modules_own_zero_grad_is_refused() -> None:
    module = two_layers()
    Arena(module)
    with pytest.raises(RuntimeError, match=r"Arena\.zero_grad"):
        module.zero_grad()


def test_parameters_of_different_member_counts_are_refused() -> None:
    module = nn.Sequential(Linear(2, 4, 4, device="meta"), Linear(3, 4, 4, device="meta"))
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        Arena(module)
