"""The checks that `plan` and a run share: both refuse the same files."""

import re
from pathlib import Path

import pytest

from ensemble.config import load
from ensemble.errors import UsageError
from ensemble.planning.data_outlook import data_outlook
from ensemble.study.checks import check_plan, search_notes
from ensemble.study.plan import make_plan

SPACE = """\
data: {source: double_pendulum, simulate: {episodes: 12, steps: 24}}
model: {n_layer: 1, n_head: 2, n_embd: 8, history: 5, block_size: 8}
train: {steps: 40, batch_size: 8, rollout: {horizon: 5}, optimizer: {name: adam, lr: {log_uniform: [1e-4, 1e-2]}}}
search: {trials: 6, seeds: 2}
ensemble: {finalists: 2, seeds: 3}
"""
BAD = [
    ("search.metric=validation/los", "search.metric: no metric 'validation/los'; did you mean 'validation/loss'?"),
    ("search.metric=''", "search.metric: no metric ''; there are"),
    (
        "search.points=[{train.optimizer.lr: 0.5}]",
        "search.points.0: train.optimizer.lr: needs 0.0001 to 0.01, logarith",
    ),
    ("search.points=[{train.optimizer.lr: .nan}]", "search.points.0: train.optimizer.lr: needs 0.0001 to 0.01"),
    ("search.points=[{train.optimizer.rate: 1}]", "search.points.0: train.optimizer.rate is not searched"),
    ("search.points=[{model.n_embd: 16}]", "search.points.0: model.n_embd is not searched; the file says 8"),
    ("search.warm_start=[nowhere]", "search.warm_start: nowhere: no search there"),
    ("search.sampler=grid", "train.optimizer.lr: a grid needs a choice or an int with a step"),
    ("search.race=true", "search.seeds: a race begins with 2 seeds"),
    ("ensemble.seeds=[1, 2]", "ensemble.seeds: seed 1 is one of search.seeds"),
]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


@pytest.mark.parametrize(("override", "words"), BAD)
def test_what_does_not_fit_is_refused_before_anything_is_made(space: Path, override: str, words: str) -> None:
    file = load(space, [override])
    data = data_outlook(file.first, space.parent, space.parent / "results")
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        check_plan(make_plan(file, space.parent / "results"), data.features)
    assert str(refused.value).count(words.partition(": ")[0]) == 1
    assert sorted(path.name for path in space.parent.iterdir()) == ["space.yaml"]


def test_a_pruner_that_comes_too_late_is_said(space: Path) -> None:
    assert search_notes(load(space)) == []
    assert search_notes(load(space, ["search.grace=50"])) == [
        "search.grace: asha decides from step 50 on, training ends at 40: nothing is stopped"
    ]
    assert search_notes(load(space, ["search.grace=50", "search.pruner=none"])) == []
