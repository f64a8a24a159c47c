"""Cards that are not here: their names, their memory, and what of an experiment fits."""

from pathlib import Path

import pytest

from ensemble.config import load
from ensemble.errors import UsageError
from ensemble.planning.estimate import survey
from ensemble.planning.gpu import find_card, gpu_needs

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "name", "memory"),
    [
        ("H100", "H100", 79 * GIB),
        ("NVIDIA H100 80GB HBM3", "H100", 79 * GIB),
        ("rtx4090", "RTX 4090", 23 * GIB),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", 23 * GIB),
        ("a100", "A100", 39 * GIB),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB", 79 * GIB),
        ("Tesla T4", "T4", 14 * GIB),
        ("24GiB", "GPU", 24 * GIB),
        ("24", "GPU", 24 * GIB),
        ("12.5 GB", "GPU", 12_500_000_000),
    ],
)
def test_a_card_is_known_by_any_of_its_names_or_by_its_memory(text: str, name: str, memory: int) -> None:
    card = find_card(text)
    assert (card.name, card.memory) == (name, memory)


@pytest.mark.parametrize(
    ("text", "said"), [("H10", "did you mean 'H100'?"), ("toaster", "known are T4, P100,"), ("0GiB", "known are")]
)
def test_an_unknown_card_is_refused_with_the_nearest(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        find_card(text)
    assert said in str(refused.value)
    assert "as in --gpu 24GiB" in str(refused.value)


def test_as_many_trials_fit_as_their_bytes_leave_room_for(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        "data: {source: double_pendulum, simulate: {episodes: 1000}}\n"
        "model: {n_embd: 256, n_head: 4}\ntrain: {batch_size: 512}\nensemble: {seeds: 4}\n"
    )
    counted = survey(load(tmp_path / "one.yaml"), tmp_path, "cpu")
    (case,) = counted.cases
    card = find_card("24GiB")
    alone, packed = gpu_needs(counted, case, card)
    assert (alone.pack, packed.pack) == (1, 4)
    assert alone.bytes < packed.bytes <= card.memory
    for need in (alone, packed):
        assert need.trials is not None
        assert need.trials * need.bytes <= card.memory < (need.trials + 1) * need.bytes
        assert need.share * need.trials <= 1
    # All members' parameters and the data lie there whatever the pack.
    assert alone.bytes > counted.data.bytes + 4 * case.cost.state
    (none,) = gpu_needs(counted, case, find_card("0.5GiB"))
    assert (none.pack, none.trials) == (0, 0)


def test_the_plan_says_what_fits_a_card(run_plan) -> None:
    out = run_plan("--gpu", "H100")
    for words in ("on a GPU, a pack of", "one H100 of 79.0 GiB, by memory", "trials at a time", "gpus_per_worker"):
        assert words in out


@pytest.fixture
def run_plan(tmp_path: Path):
    from click.testing import CliRunner

    from ensemble.cli import cli

    (tmp_path / "one.yaml").write_text("data: {source: double_pendulum, simulate: {episodes: 12}}\n")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["plan", str(tmp_path / "one.yaml"), "--device", "cpu", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    return run
