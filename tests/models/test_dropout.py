import numpy as np
import pytest
import torch
from packs import make_batch, make_pack, pendulum_inputs

from ensemble.config.model import GPTDynamicsConfig
from ensemble.models.dropout import dropout, dropout_keys, keep_mask


def masks(seeds: list[int], sites: int, step: int, p: float = 0.1, batch: int = 64, elements: int = 4096) -> np.ndarray:
    """Return what is dropped, (E, sites, batch * elements), as float64."""
    keys = dropout_keys(seeds, sites, step)
    position = torch.arange(batch, dtype=torch.int32)
    kept = [keep_mask(keys[:, site], position, elements, p).flatten(1) for site in range(sites)]
    return 1.0 - torch.stack(kept, 1).double().numpy()


def assert_unrelated(a: np.ndarray, b: np.ndarray) -> None:
    """The correlation of two masks is what chance allows (five standard errors)."""
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_rate_is_the_one_asked_for(p: float) -> None:
    dropped = masks([1, 2, 3], sites=4, step=17, p=p)
    error = np.sqrt(p * (1 - p) / dropped.shape[-1])
    assert np.abs(dropped.mean(-1) - p).max() < 5 * error
    per_sample = dropped.reshape(12, 64, 4096)
    assert np.abs(per_sample.mean(-1) - p).max() < 6 * np.sqrt(p * (1 - p) / 4096)
    assert np.var(per_sample.mean(-1)) == pytest.approx(p * (1 - p) / 4096, rel=0.3)
    assert np.var(per_sample.mean(1)) == pytest.approx(p * (1 - p) / 64, rel=0.1)


def test_masks_of_members_sites_and_steps_are_unrelated() -> None:
    now, later = masks([1, 2], sites=2, step=5), masks([1, 2], sites=2, step=6)
    for other in (now[1, 0], now[0, 1], later[0, 0], masks([1], 1, 5 + 2**32)[0, 0]):
        assert_unrelated(now[0, 0], other)


@pytest.mark.parametrize("lag", [1, 2, 3, 16, 64, 1024])
def test_neighbouring_elements_and_samples_are_unrelated(lag: int) -> None:
    table = masks([9], sites=1, step=0)[0, 0].reshape(64, 4096)
    assert_unrelated(table[:, :-lag].ravel(), table[:, lag:].ravel())
    if lag < 64:
        assert_unrelated(table[:-lag].ravel(), table[lag:].ravel())


def test_the_pattern_of_two_samples_says_nothing_about_a_third() -> None:
    table = masks([9], sites=1, step=0, p=0.5)[0, 0].reshape(64, 4096).astype(bool)
    for i in range(0, 60, 3):
        assert_unrelated((table[i] ^ table[i + 1]).astype(float), table[i + 2].astype(float))


def test_a_slice_of_the_batch_gets_its_part_of_the_mask() -> None:
    keys = dropout_keys([4, 5], 1, 2)[:, 0]
    position = torch.arange(10, dtype=torch.int32)
    whole = keep_mask(keys, position, 33, 0.3)
    assert torch.equal(whole[:, 6:], keep_mask(keys, position[6:], 33, 0.3))
    assert torch.equal(whole[1:], keep_mask(keys[1:], position, 33, 0.3))


def test_keys_depend_on_seed_site_and_step_alone() -> None:
    keys = dropout_keys([3, 4, 5], sites=6, step=9)
    assert keys.shape == (3, 6)
    assert keys.dtype == torch.int32
    assert torch.equal(keys[1:2, :2], dropout_keys([4], sites=2, step=9))
    many = torch.cat([dropout_keys(range(20), 19, step).flatten() for step in range(20)])
    assert many.unique().numel() > many.numel() - 5  # two of 7600 may meet in 32 bits


def test_what_stays_is_scaled_and_so_is_its_gradient() -> None:
    x = torch.ones(2, 3, 5, 7, requires_grad=True)
    keys, position = dropout_keys([1, 2], 1, 0)[:, 0], torch.arange(3, dtype=torch.int32)
    y = dropout(x, 0.25, keys, position)
    y.sum().backward()
    assert y.detach().unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(x.grad, y.detach())


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    inputs = pendulum_inputs("states")
    config = GPTDynamicsConfig(n_layer=2, n_head=2, n_embd=16, dropout=0.2, history=5, inputs=inputs)
    module, _ = make_pack(config, [1, 2])
    batch = make_batch(module, [1, 2])
    assert module.sites == 7
    once, again = module(batch)[0], module(batch)[0]
    other, evaluated = module(make_batch(module, [1, 2], step=4))[0], module(batch._replace(keys=None))[0]
    assert torch.equal(once, again)
    assert not torch.isclose(once, other).any()
    assert not torch.isclose(once, evaluated).any()
    plain, _ = make_pack(config.model_copy(update={"dropout": 0.0}), [1, 2])
    assert torch.equal(evaluated, plain(batch._replace(keys=None))[0])


def test_half_a_batch_and_the_other_half_make_the_step_of_the_whole() -> None:
    inputs = pendulum_inputs("states")
    config = GPTDynamicsConfig(n_layer=1, n_head=2, n_embd=16, dropout=0.2, history=5, inputs=inputs)
    whole, grad = make_pack(config, [1])
    batch = make_batch(whole, [1], batch=8)
    whole(batch)[0].sum().backward()
    halves, halved = make_pack(config, [1])
    for part in (slice(0, 4), slice(4, 8)):
        half = batch._replace(points=batch.points[:, part], position=batch.position[part])
        (halves(half)[0].sum() / 2).backward()
    torch.testing.assert_close(grad, halved, rtol=1e-5, atol=1e-6)
