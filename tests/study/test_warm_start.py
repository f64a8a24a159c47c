"""Trials of earlier searches that a new one starts from: read from files, refused where space or objective differ."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ensemble.config import load
from ensemble.errors import UsageError
from ensemble.store import write_table
from ensemble.study.checks import check_search

Tiny = Callable[..., Path]
SAMPLED = ("sampler: grid, pruner: none", "sampler: tpe")


def earlier(tiny: Tiny, *replaced: tuple[str, str]) -> Path:
    """Write the files of a search of three trials, one of them pruned."""
    run = tiny(SAMPLED, *replaced).parent / "earlier"
    run.mkdir(exist_ok=True)
    (run / "experiment.yaml").write_text(tiny(SAMPLED, *replaced).read_text())
    parameters = [json.dumps({"train.optimizer.lr": rate}) for rate in (1e-3, 1e-2, 1e-2)]
    write_table(run / "trials.parquet", pa.table({"parameters": parameters, "value": [0.5, 0.25, None]}))
    return run


def test_completed_trials_of_the_same_question_are_known(tiny: Tiny) -> None:
    run = earlier(tiny)
    file = load(tiny(SAMPLED), [f"search.warm_start=[{run.name}]"])
    assert check_search(file, run.parent) == [
        ({"train.optimizer.lr": 1e-3}, 0.5),
        ({"train.optimizer.lr": 1e-2}, 0.25),
    ]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (("[1e-3, 1e-2]", "[1e-3, 2e-2]"), r"train\.optimizer\.lr is .*0\.02.* there, .*0\.01.* here"),
        (("seeds: 2}\nensemble", "seeds: 2, metric: validation/loss}\nensemble"), r"search\.metric is validation/loss"),
    ],
)
def test_another_space_or_objective_is_refused_by_its_first_difference(
    tiny: Tiny, replaced: tuple[str, str], message: str
) -> None:
    run = earlier(tiny, replaced)
    with pytest.raises(UsageError, match=message):
        check_search(load(tiny(SAMPLED), [f"search.warm_start=[{run}]"]), run.parent)


def test_a_directory_without_a_search_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"search\.warm_start: nowhere: no search there"):
        check_search(load(tiny(SAMPLED), ["search.warm_start=[nowhere]"]), tmp_path)
