import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ensemble.models.noise import beta, gumbel, noise_keys, normal, open_uniform, uniform

LAWS = {
    "uniform": (uniform, stats.uniform()),
    "open_uniform": (open_uniform, stats.uniform()),
    "normal": (normal, stats.norm()),
    "beta": (beta, stats.beta(1.5, 1)),
    "gumbel": (gumbel, stats.gumbel_r()),
}


def draws(name: str, seeds: list[int], step: int = 3, batch: int = 512, elements: int = 101) -> Tensor:
    """Draw (E, B, n) with the key of noise."""
    counter = torch.arange(batch, dtype=torch.int32)[None]
    return LAWS[name][0](noise_keys(seeds, step)[:, 0], counter, elements)


def unrelated(a: Tensor, b: Tensor) -> bool:
    """Whether the correlation is what chance allows (five standard errors)."""
    return abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 5 / np.sqrt(a.numel())


@pytest.mark.parametrize("name", LAWS)
def test_numbers_follow_the_law_they_are_drawn_from(name: str) -> None:
    law, values = LAWS[name][1], draws(name, [1, 2, 3]).double().numpy()
    for member in values:
        assert stats.kstest(member.ravel(), law.cdf).pvalue > 1e-4
    flat = values.ravel()
    assert abs(flat.mean() - law.mean()) < 5 * law.std() / np.sqrt(flat.size)
    assert flat.var() == pytest.approx(law.var(), rel=0.02)
    rows = values.mean(-1).ravel()  # of the samples' means: no sample is drawn to a side
    assert rows.var() == pytest.approx(law.var() / 101, rel=0.15)
    columns = values.reshape(-1, 101).mean(0)
    assert columns.var() == pytest.approx(law.var() / 1536, rel=0.6)


@pytest.mark.parametrize("name", LAWS)
def test_numbers_of_neighbours_members_steps_and_purposes_are_unrelated(name: str) -> None:
    now, later = draws(name, [1, 2]), draws(name, [1, 2], step=4)
    counter = torch.arange(512, dtype=torch.int32)[None]
    other = LAWS[name][0](noise_keys([1], 3)[:, 1], counter, 101)
    assert unrelated(now[0], now[1])
    assert unrelated(now, later)
    assert unrelated(now[:1], other)
    for lag in (1, 2, 3, 16, 50, 51):
        assert unrelated(now[:, :, :-lag], now[:, :, lag:])
        assert unrelated(now[:, :-lag], now[:, lag:])


def test_squares_of_neighbouring_normals_are_unrelated_too() -> None:
    squares = draws("normal", [4, 5], elements=100).square()  # both halves of a pair share a radius
    for lag in (1, 2, 49, 50, 51):
        assert unrelated(squares[:, :, :-lag], squares[:, :, lag:])
    assert unrelated(squares[:, :, :50], squares[:, :, 50:])


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("elements", [1, 2, 7, 50])
def test_a_member_and_a_slice_of_the_batch_draw_what_they_draw_in_the_whole(name: str, elements: int) -> None:
    law, keys = LAWS[name][0], noise_keys(range(10), 2**33 + 5)[:, 1]
    counter = torch.arange(20, 31, dtype=torch.int32)[None]
    whole = law(keys, counter, elements)
    assert whole.shape == (10, 11, elements)
    for member in range(10):
        assert torch.equal(whole[member : member + 1], law(keys[member : member + 1], counter, elements))
    assert torch.equal(whole[:5], law(keys[:5], counter.expand(5, -1), elements))
    assert torch.equal(whole[:, 3:7], law(keys, counter[:, 3:7], elements))
    own = torch.stack([counter[0] + member for member in range(10)])  # every member at its own windows
    shifted = law(keys, own, elements)
    assert torch.equal(shifted[0], whole[0])
    assert torch.equal(shifted[2, :-2], whole[2, 2:])


@pytest.mark.parametrize("name", ["uniform", "open_uniform", "gumbel"])
def test_elements_may_be_drawn_in_parts(name: str) -> None:
    law, keys, counter = LAWS[name][0], noise_keys([1, 2], 0)[:, 0], torch.arange(4, dtype=torch.int32)[None]
    whole = law(keys, counter, 40)
    assert torch.equal(whole[:, :, 24:], law(keys, counter, 16, start=24))


def test_keys_depend_on_seed_and_step_alone() -> None:
    keys = noise_keys([3, 4, 5], 9)
    assert keys.shape == (3, 2)
    assert keys.dtype == torch.int32
    assert torch.equal(keys[1:2], noise_keys([4], 9))
    many = torch.cat([noise_keys(range(20), step).flatten() for step in range(100)])
    assert many.unique().numel() > many.numel() - 5


def test_bounds_are_kept() -> None:
    values = draws("uniform", [1], batch=4096, elements=256)
    assert 0 <= float(values.min()) < 1e-5
    assert 1 - 1e-5 < float(values.max()) < 1
    inner = draws("open_uniform", [1], batch=4096, elements=256)
    assert 0 < float(inner.min()) < float(inner.max()) < 1
    assert bool(draws("gumbel", [1]).isfinite().all())
