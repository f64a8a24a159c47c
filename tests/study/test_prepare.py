"""From `data:` to shards, and the checks of an experiment against its data."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ensemble.config import load
from ensemble.data.notes import EPISODES, MANIFEST, note_path, write_note
from ensemble.errors import DataError, UsageError
from ensemble.study.prepare import PreparedData, check_experiments, naming_cache, prepare

Tiny = Callable[..., Path]


def ready(path: Path, results: Path, *overrides: str) -> tuple[PreparedData, list[str]]:
    said: list[str] = []
    file = load(path, overrides)
    return prepare(file.first.data, path.parent, results, said.append), said


def test_data_are_made_once_beside_the_results_and_said_so(tiny: Tiny, tmp_path: Path) -> None:
    data, said = ready(tiny(), tmp_path / "results")
    assert data.main.parent == tmp_path / "shards"
    assert "simulating 12 episodes" in said[0]
    assert "converting" in said[1]
    made = {path: path.stat().st_mtime_ns for path in data.main.iterdir()}
    again, silence = ready(tiny(), tmp_path / "results")
    assert again == data
    assert silence == []
    assert {path: path.stat().st_mtime_ns for path in data.main.iterdir()} == made


def test_what_changes_the_data_makes_others_and_what_does_not_shares_them(tiny: Tiny, tmp_path: Path) -> None:
    first, _ = ready(tiny(), tmp_path / "results")
    split, _ = ready(tiny(), tmp_path / "results", "data.split={train: 0.6, validation: 0.2, test: 0.2}")
    assert split.main == first.main
    sparse, said = ready(tiny(), tmp_path / "results", "data.decimate=2")
    assert sparse.main != first.main
    assert len(said) >= 1
    assert not any("simulating" in line for line in said)  # the same simulation, converted otherwise
    longer, said = ready(tiny(), tmp_path / "results", "data.simulate.steps=30")
    assert longer.main not in (first.main, sparse.main)
    assert "simulating" in said[0]


def test_a_relative_path_counts_from_the_file_as_well(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = ready(tiny(), tmp_path / "results")
    monkeypatch.chdir("/")
    named = f"shards/{data.main.name}"
    path = tiny(("source: double_pendulum", f"path: {named}"))
    found, said = ready(path, tmp_path / "elsewhere" / "results")
    assert found.main == data.main
    assert said == []
    with pytest.raises(DataError, match=r"no file or directory nowhere.h5 \(looked in"):
        ready(path, tmp_path / "results", "data.path=nowhere.h5")


def test_unknown_features_and_metrics_are_refused_together_with_the_nearest_names(tiny: Tiny, tmp_path: Path) -> None:
    path = tiny(("history: 5", "history: 5, inputs: {all: {features: [state]}}"))
    data, _ = ready(path, tmp_path / "results")
    file = load(path, ["search.metric=validation/rolout_rmse"])
    with pytest.raises(UsageError) as caught:
        check_experiments(file.configurations(), data)
    assert "model.inputs.all.features: no feature 'state'; the nearest is 'states'" in str(caught.value)
    assert "search.metric: no metric 'validation/rolout_rmse'; did you mean 'validation/rollout_rmse'?" in str(
        caught.value
    )


@pytest.mark.parametrize(
    "metric",
    ["validation/loss", "validation/rollout_rmse@5", "validation/one_step_rmse/q0", "validation_far/rollout_rmse"],
)
def test_every_metric_that_a_trial_validates_may_be_searched(tiny: Tiny, tmp_path: Path, metric: str) -> None:
    data, _ = ready(tiny(), tmp_path / "results")
    override = f"data.validation={{far: {data.main}}}"
    named, _ = ready(tiny(), tmp_path / "results", override)
    check_experiments(load(tiny(), [override, f"search.metric={metric}"]).configurations(), named)


def test_a_search_must_not_look_at_the_test_split(tiny: Tiny, tmp_path: Path) -> None:
    data, _ = ready(tiny(), tmp_path / "results")
    with pytest.raises(UsageError, match="no metric 'test/loss'"):
        check_experiments(load(tiny(), ["search.metric=test/loss"]).configurations(), data)


def test_episodes_too_short_for_the_rollout_are_refused_with_the_counts(tiny: Tiny, tmp_path: Path) -> None:
    data, _ = ready(tiny(), tmp_path / "results")
    with pytest.raises(DataError, match=r"rollouts of 30 steps: 0 of \d+ episodes >= 34 steps \(longest 24\)"):
        check_experiments(load(tiny(), ["train.rollout.horizon=30"]).configurations(), data)


@pytest.mark.parametrize("fault", ["manifest", "episodes", "shape"])
def test_a_damaged_shard_that_a_run_made_is_named_with_the_directory_to_delete(
    tiny: Tiny, tmp_path: Path, fault: str
) -> None:
    data, _ = ready(tiny(), tmp_path / "results")
    file = note_path(data.main, EPISODES if fault == "episodes" else MANIFEST)
    if fault == "shape":
        write_note(data.main, MANIFEST, '{"format": "ensemble-shards/1"}', pq.read_schema(file))
    else:
        file.write_text("{torn")
    run = tmp_path / "results" / "tiny"
    with pytest.raises(DataError) as caught, naming_cache(data, run):
        check_experiments(load(tiny()).configurations(), data)
    assert str(file) in str(caught.value)
    told = f"{data.main} was made from the original data: delete it, and a run makes it again"
    assert str(caught.value).endswith(told)
    shutil.rmtree(data.main)
    check_experiments(load(tiny()).configurations(), ready(tiny(), tmp_path / "results")[0])


def test_a_damaged_shard_that_the_user_made_is_not_to_be_deleted(tiny: Tiny, tmp_path: Path) -> None:
    data, _ = ready(tiny(), tmp_path / "results")
    note_path(data.main, MANIFEST).write_text("{torn")
    with pytest.raises(DataError) as caught, naming_cache(data, tmp_path / "elsewhere" / "results" / "tiny"):
        check_experiments(load(tiny()).configurations(), data)
    assert "delete" not in str(caught.value)
