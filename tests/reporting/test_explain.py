"""`ensemble explain`: what it says, and that its command trains the same bits again."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import build_run, build_search, hash_of, member, write_members

from ensemble.config import Choice, Experiment, load
from ensemble.config.space import Distribution
from ensemble.errors import UsageError
from ensemble.reporting.explain import explain
from ensemble.reporting.rebuild import rebuild
from ensemble.reporting.run import Run, read_run
from ensemble.reporting.selection import find_configuration
from ensemble.run_directory import RunDirectory, config_hash

SPACE = """\
# Do the overrides of `explain` say all that was searched?
experiment: space
data: {source: double_pendulum}
model:
  n_layer: 1
  n_head: 2
  n_embd: {choice: [8, 16]}
  history: 4
  dropout: {uniform: [0.0, 0.3]}
  head: {layer_sizes: {choice: [[8], [8, 8], []]}}
train:
  steps: {int: [8, 12], step: 4}
  batch_size: 8
  validate_every: 4
  checkpoint_every: 4
  validation_windows: 16
  gradient_clip: {choice: [null, 1.0]}
  optimizer:
    choice:
    - {name: adamw, lr: {log_uniform: [1e-4, 1e-2]}, weight_decay: {choice: [0.0, 0.1]}}
    - {name: sgd, lr: 1e-2, momentum: {uniform: [0.0, 0.9]}}
  schedule: {name: cosine, lr_end: {log_uniform: [1e-7, 1e-5]}, warmup_steps: {int_log: [1, 4]}}
  rollout: {horizon: 3, windows: 8}
search: {seeds: 2, metric: validation/rollout_rmse, pruner: none}
logging: {tensorboard: false}
"""


def points(space: Path, count: int) -> Iterator[Experiment]:
    """Draw configurations of a space, the way that a sampler answers."""
    import numpy as np

    random = np.random.default_rng(0)

    def ask(name: str, distribution: Distribution) -> Any:
        if isinstance(distribution, Choice):
            return int(random.integers(len(distribution.options)))
        low, high = distribution.ends
        value = float(low + random.random() * (high - low))
        step = getattr(distribution, "step", 1)
        return int(low + (value - low) // step * step) if isinstance(low, int) else value

    file = load(space)
    return (file.resolve(ask) for _ in range(count))


def row_of(experiment: Experiment, seed: int = 0) -> dict[str, Any]:
    config = experiment.model_dump(mode="json", include={"data", "model", "train"})
    row = member("00", seed, role="search", config=json.dumps(config, sort_keys=True), experiment="space")
    return row | {"config_hash": config_hash(experiment)}


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


def run_of(folder: Path, rows: list[dict[str, Any]], experiment: str = SPACE) -> Run:
    return read_run(build_run(folder, rows, experiment, complete=False))


def words_of(text: str) -> list[str]:
    return shlex.split(next(line for line in text.splitlines() if line.strip().startswith("ensemble train")))


def test_the_command_of_every_configuration_reads_back_as_that_configuration(tmp_path: Path, space: Path) -> None:
    drawn = list(points(space, 40))
    run = run_of(tmp_path / "results" / "space", [row_of(experiment) for experiment in drawn])
    assert len({row["config_hash"] for row in run.members}) == len({config_hash(each) for each in drawn}) > 30
    for row in run.members:
        found = rebuild(run, row)
        file = load(run.directory.experiment_file, found.overrides)
        assert config_hash(file.first) == row["config_hash"]
        assert not file.searched
        assert found.warnings == ()


def test_the_printed_command_survives_the_shell(tmp_path: Path, space: Path) -> None:
    run = run_of(tmp_path / "results" / "a run's $HOME", [row_of(next(points(space, 1)), 7)])
    words = words_of(explain(run, run.members[0]["config_hash"], 7))
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    file = load(words[words.index("--config") + 1], overrides)
    assert config_hash(file.first) == run.members[0]["config_hash"]
    assert file.first.ensemble.seeds == [7]
    assert file.first.experiment == f"{run.members[0]['config_hash']}-s7"
    assert words[words.index("--device") + 1] == "cpu"


def test_a_file_that_was_changed_since_is_overridden_or_said_to_be_another(tmp_path: Path, space: Path) -> None:
    row = row_of(next(points(space, 1)))
    run = run_of(tmp_path / "r" / "one", [row], SPACE.replace("n_layer: 1", "n_layer: 2") + "storage: /elsewhere\n")
    found = rebuild(run, run.members[0])
    assert "model.n_layer=1" in found.overrides
    assert "storage=null" in found.overrides
    assert found.warnings == ()
    lost = run_of(tmp_path / "r" / "two", [row | {"config_hash": "0123456789ab"}])
    assert "reads it as configuration" in rebuild(lost, lost.members[0]).warnings[0]


def test_data_that_are_not_found_are_told(tmp_path: Path) -> None:
    text = "experiment: e\ndata: {path: gone.h5}\n"
    (tmp_path / "e.yaml").write_text(text)
    run = run_of(tmp_path / "r" / "e", [row_of(load(tmp_path / "e.yaml").first)], text)
    assert "data.path gone.h5 is not found from here" in explain(run, run.members[0]["config_hash"], None)


def test_trained_again_by_its_command_a_member_has_the_same_weights(tmp_path: Path, space: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    from pendulum import trajectories

    from ensemble.training.context import InlineContext
    from ensemble.training.setup import TrialData
    from ensemble.training.trial import Trial, run_trial

    data, run = TrialData(trajectories(), {}), tmp_path / "results" / "space"
    run.mkdir(parents=True)
    (run / "experiment.yaml").write_text(SPACE)
    for experiment in points(space, 3):
        run_trial(Trial(experiment, (0, 5), "search", run), data, InlineContext())
    RunDirectory(run).collect()
    found = read_run(run)
    assert len(found.members) == 6
    for row in found.members[1::2]:
        text = explain(found, row["config_hash"], row["seed"])
        words = words_of(text)
        overrides = [value for flag, value in pairwise(words) if flag == "--set"]
        again = load(words[words.index("--config") + 1], overrides).first
        place = tmp_path / "rebuild" / again.experiment
        assert isinstance(again.ensemble.seeds, list)
        run_trial(Trial(again, tuple(again.ensemble.seeds), "ensemble", place), data, InlineContext())
        RunDirectory(place).collect()
        rebuilt = read_members(place)
        assert [(r["config_hash"], r["seed"]) for r in rebuilt] == [(row["config_hash"], 5)]
        assert rebuilt[0]["weights_sha256"] == row["weights_sha256"]
        assert f"gives weights_sha256 {row['weights_sha256']}" in text


def read_members(run: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(RunDirectory(run).members_file).to_pylist())


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = build_search(tmp_path_factory.mktemp("results") / "searched", complete=False)
    rows = read_members(run)
    for row in rows:
        row["config"] = json.dumps({"data": {"source": "double_pendulum"}, "model": {"n_embd": 32, "dropout": 0.1}})
    write_members(run, rows)
    return run


def test_a_configuration_is_found_by_its_number_or_the_beginning_of_its_hash(searched: Path) -> None:
    run = read_run(searched)
    assert find_configuration(run, "#7") == hash_of(7)
    assert find_configuration(run, hash_of(7)[:8]) == hash_of(7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("#99", r"no trial #99; it has #0 to #23"),
        ("#x", r"no trial #x"),
        ("zzzz", r"no configuration 'zzzz'; there are"),
        ("", r"no configuration ''"),
    ],
)
def test_what_is_no_configuration_is_refused_with_what_there_is(searched: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_configuration(read_run(searched), name)


def test_a_mistyped_hash_is_met_with_the_nearest(searched: Path) -> None:
    typo = hash_of(7)[:5] + "zz"
    with pytest.raises(UsageError, match=f"did you mean .*{hash_of(7)}"):
        find_configuration(read_run(searched), typo)


def test_the_beginning_of_several_hashes_is_refused_with_their_number(tmp_path: Path) -> None:
    run = run_of(tmp_path / "r", [member(f"ab{i}", 0) for i in range(7)])
    with pytest.raises(UsageError, match=r"ab is the beginning of 7 configurations: ab0, ab1, ab2, ab3, ab4, \.\."):
        find_configuration(run, "ab")


def test_everything_that_a_row_came_from_is_said(searched: Path) -> None:
    run = read_run(searched)
    finalist = next(m["config_hash"] for m in run.members if m["role"] == "finalist")
    text = explain(run, finalist, None)
    assert "finalist  seed 3 " in text
    assert "search    seed 0 " in text
    assert "fingerprint f1d2d2f924e9" in text
    assert "git commit 8ed9e29" in text
    assert "ensemble 0.1.0, torch 2.13.0" in text
    assert re.search(r"weights +\(3, 'weights', 0\) = [0-9a-f]{16}", text)
    assert re.search(r"dropout +\(3, 'dropout/site', 0\)", text)
    assert f"weights_sha256 {3:064x}" in text


def test_a_member_that_was_stopped_is_said_to_come_out_otherwise(searched: Path) -> None:
    run = read_run(searched)
    stopped = next(m for m in run.members if m["status"] == "pruned")
    text = explain(run, stopped["config_hash"], stopped["seed"])
    assert f"It was stopped at step {stopped['steps']}; the command trains it to the end" in text
    assert "gives weights_sha256" not in text


def test_a_seed_that_was_not_trained_is_refused_with_those_that_were(searched: Path) -> None:
    with pytest.raises(UsageError, match="no member of seed 77 that ended; it has 0, 1, 2"):
        explain(read_run(searched), "#0", 77)


def ensemble(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "ensemble", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def loaded(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_the_command_prints_without_torch_or_ray_and_exits_with_2_on_a_wrong_name(searched: Path) -> None:
    good, bad = ensemble("explain", str(searched), "#7"), ensemble("explain", str(searched), "nothing")
    assert (good.returncode, bad.returncode) == (0, 2)
    assert f"configuration {hash_of(7)}" in good.stdout
    assert "no configuration 'nothing'" in bad.stderr
    assert not loaded(good) & {"torch", "ray", "optuna", "matplotlib", "h5py", "jinja2"}
    assert "jinja2" not in loaded(ensemble("--help"))


def test_the_report_of_a_search_ends_with_how_to_explain_its_best(searched: Path, tmp_path: Path) -> None:
    run = shutil.copytree(searched, tmp_path / "my search")
    done = ensemble("report", str(run), "--no-figures")
    assert done.returncode == 0
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:-1] == ["next:", "ensemble", "explain", str(run)]
    assert re.fullmatch(r"#\d+", words[-1])
