import pytest
import torch

from ensemble.config.train import AdamConfig, ConstantConfig, CosineConfig, LinearConfig, PlateauConfig, TrainConfig
from ensemble.training.schedule import Plateau, learning_rate


def rates(schedule, steps: int, epoch_steps: int) -> list[float]:
    train = TrainConfig(steps=steps, schedule=schedule, optimizer=AdamConfig(lr=1e-3))
    return [learning_rate(train, step, epoch_steps) for step in range(steps)]


def test_linear_per_epoch_gives_nerds_rates() -> None:
    found = rates(LinearConfig(lr_end=1e-4, per="epoch"), steps=15, epoch_steps=3)
    assert found[::3] == pytest.approx([1e-3, 8.2e-4, 6.4e-4, 4.6e-4, 2.8e-4])
    assert found[0] == found[2]


def test_cosine_per_epoch_gives_nerds_rates() -> None:
    found = rates(CosineConfig(lr_end=1e-4, per="epoch"), steps=5, epoch_steps=1)
    assert found == pytest.approx([1e-3, 9.1406e-4, 6.8906e-4, 4.1094e-4, 1.8594e-4], rel=1e-4)


def test_the_warm_up_rises_to_the_peak_and_the_schedule_goes_on_beneath_it() -> None:
    found = rates(ConstantConfig(warmup_steps=4), steps=8, epoch_steps=8)
    assert found == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3])


def test_per_step_the_rate_moves_at_every_step() -> None:
    found = rates(LinearConfig(lr_end=0.0), steps=4, epoch_steps=4)
    assert found == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_a_plateau_lowers_the_rate_when_torchs_does() -> None:
    schedule = PlateauConfig(factor=0.6, patience=2)
    losses = [1.0, 0.9, 0.95, 0.89995, 0.91, 0.92, 0.93, 0.94, 0.8, 0.8, float("nan"), 0.8, 0.8, 0.8, 0.8]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    twin = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor=0.6, patience=2)
    plateau, ours, theirs = Plateau(), [], []
    for loss in losses:
        plateau = plateau.after(schedule, loss)
        twin.step(loss)
        ours.append(plateau.scale)
        theirs.append(optimizer.param_groups[0]["lr"])
    assert ours == pytest.approx(theirs)
    assert ours[-1] < 1
