"""A trial as a whole: what it leaves, and that neither its packs nor a kill change a bit of it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pendulum import experiment, trajectories

import ensemble
from ensemble.config import Experiment
from ensemble.errors import StorageError, UsageError
from ensemble.run_directory import RunDirectory
from ensemble.study.resume import damaged_checkpoints
from ensemble.training.context import InlineContext, Paused
from ensemble.training.members import Best, Member
from ensemble.training.optimizer import MemberOptimizer
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, _objectives, record_failure, run_trial

DATA = TrialData(trajectories(), {})
IDENTITY = {"pack", "seconds", "samples_per_second"}  # how a row came about, not what it says


class KilledError(Exception):
    pass


def train(
    run: Path, config: Experiment, seeds: tuple[int, ...] = (0, 1, 2), data: TrialData = DATA, kill_at: int = 0
) -> dict[int, dict]:
    def report(progress: Mapping[str, object]) -> None:
        if progress["step"] == kill_at:
            raise KilledError

    trial = Trial(config, seeds, "ensemble", run)
    run_trial(trial, data, InlineContext(report=report))
    return rows(run, trial)


def rows(run: Path, trial: Trial) -> dict[int, dict]:
    found = (pq.read_table(path).to_pylist()[0] for path in sorted(run.glob("members/*/member.parquet")))
    return {row["seed"]: row for row in found}


def comparable(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in IDENTITY}


def test_every_member_leaves_a_row_a_curve_weights_and_a_log(tmp_path: Path) -> None:
    config = experiment()
    found = train(tmp_path, config)
    assert sorted(found) == [0, 1, 2]
    row = found[1]
    assert row["status"] == "completed"
    assert row["steps"] == 12
    assert row["samples"] == 12 * 8
    assert row["world_size"] == 1
    assert row["model.n_embd"] == 8
    assert row["train.optimizer.lr"] == 1e-3
    assert np.isfinite([row["test/loss"], row["test/rollout_rmse"], row["test/rollout_rmse@3"]]).all()
    assert row["test/rollout_rmse/omega"] > 0
    directory = RunDirectory(tmp_path).member(f"{row['config_hash']}-s1")
    curve = pq.read_table(directory.curves_file).to_pandas()
    assert sorted(set(curve["step"])) == [4, 8, 12]
    assert {"train/loss", "train/learning_rate", "train/gradient_norm_before_clip"} <= set(curve["metric"])
    assert directory.weights.is_file()
    assert directory.log_file.read_text().count("step ") >= 3
    assert len({row["weights_sha256"] for row in found.values()}) == 3


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_neither_a_weight_nor_a_row_depends_on_the_pack(tmp_path: Path, dropout: float) -> None:
    results = []
    for pack in (1, 2, 5, 10):
        config = experiment(model={"dropout": dropout}, resources={"pack": pack})
        found = train(tmp_path / str(pack), config, seeds=tuple(range(10)))
        results.append({seed: comparable(row) for seed, row in found.items()})
    assert all(result == results[0] for result in results[1:])


def test_averaged_weights_and_plateaus_neither_depend_on_the_pack_nor_on_a_kill(tmp_path: Path) -> None:
    schedule = {"name": "plateau", "factor": 0.3, "patience": 0, "threshold": 0.5}
    chosen = {"ema": 0.9, "schedule": schedule, "steps": 24, "checkpoint_every": 4, "validate_every": 4}
    alone, packed = (experiment(train=chosen, resources={"pack": pack}) for pack in (1, 3))
    whole = train(tmp_path / "whole", alone)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", packed, kill_at=16)
    resumed = train(tmp_path / "killed", packed)
    assert {s: comparable(r) for s, r in resumed.items()} == {s: comparable(r) for s, r in whole.items()}
    curve = pq.read_table(next((tmp_path / "whole").glob("members/*-s0/curves.parquet"))).to_pandas()
    rates = curve[curve["metric"] == "train/learning_rate"]["value"].to_numpy()
    assert rates[0] == 1e-3
    assert rates[-1] < 1e-3
    plain = train(tmp_path / "plain", experiment(train={**chosen, "ema": None}))
    assert plain[0]["validation/loss"] != whole[0]["validation/loss"]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("kill_at", [4, 8, 12])
def test_a_killed_trial_continues_to_the_bit(tmp_path: Path, optimizer: str, kill_at: int) -> None:
    config = experiment(model={"dropout": 0.1}, train={"optimizer": {"name": optimizer}}, resources={"pack": 2})
    whole = train(tmp_path / "whole", config)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config, kill_at=kill_at)
    resumed = train(tmp_path / "killed", config)
    assert {s: comparable(r) for s, r in resumed.items()} == {s: comparable(r) for s, r in whole.items()}
    for row in whole.values():
        name = f"members/{row['config_hash']}-s{row['seed']}/curves.parquet"
        assert pq.read_table(tmp_path / "whole" / name) == pq.read_table(tmp_path / "killed" / name)


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, caplog) -> None:
    config = experiment(resources={"pack": 2})
    whole = train(tmp_path / "whole", config)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config, kill_at=8)
    newest = next((tmp_path / "killed").glob("members/*-s0/checkpoints/step-00000008/members.safetensors"))
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    resumed = train(tmp_path / "killed", config)
    assert "damaged" in caplog.text
    assert "sha256" in caplog.text
    assert {s: r["weights_sha256"] for s, r in resumed.items()} == {s: r["weights_sha256"] for s, r in whole.items()}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def killed_trial(run: Path, config: Experiment) -> list[Path]:
    """Kill a trial at its second checkpoint, and return those of seed 0, the newest first."""
    with pytest.raises(KilledError):
        train(run, config, kill_at=8)
    return sorted(run.glob("members/*-s0/checkpoints/step-*"), reverse=True)


def test_a_member_whose_every_checkpoint_is_damaged_begins_again_and_its_row_says_so(tmp_path: Path) -> None:
    config = experiment(resources={"pack": 2})
    whole = train(tmp_path / "whole", config)
    checkpoints = killed_trial(tmp_path / "killed", config)
    assert len(checkpoints) == 2
    for path in checkpoints:
        flip(path / "members.safetensors")
    (line,) = damaged_checkpoints(tmp_path / "killed")
    assert f"{checkpoints[0]}: members.safetensors has sha256" in line
    assert "-s0 is trained again from step 0, as its row will say" in line
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config, kill_at=8)  # killed again: what is saved now counts
    assert list(damaged_checkpoints(tmp_path / "killed")) == []
    resumed = train(tmp_path / "killed", config)
    assert resumed[0].pop("notice") == "trained again from step 0: its 2 checkpoints were damaged"
    assert {s: comparable(r) for s, r in resumed.items()} == {s: comparable(r) for s, r in whole.items()}


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", '{"state.json": {"bytes": 1}}', '{"state.json": 3}', "{", ""])
def test_a_manifest_that_does_not_list_its_files_is_damaged(tmp_path: Path, manifest: str) -> None:
    config = experiment(resources={"pack": 1})
    newest, before = killed_trial(tmp_path, config)
    (newest / "MANIFEST.json").write_text(manifest)
    (line,) = damaged_checkpoints(tmp_path)
    assert str(newest) in line
    assert "MANIFEST.json" in line
    assert "goes on from the one before" in line
    (before / "MANIFEST.json").write_text(manifest)
    assert "is trained again from step 0" in next(damaged_checkpoints(tmp_path))


def test_a_member_that_failed_has_a_row_whatever_is_damaged_or_full(tmp_path: Path) -> None:
    config = experiment(resources={"pack": 1})
    newest, before = killed_trial(tmp_path, config)
    trial = Trial(config, (0, 1, 2), "ensemble", tmp_path)
    (newest / "state.json").write_text("{torn")
    flip(before / "curves.parquet")
    trial.directory(0).log_file.unlink()
    trial.directory(0).log_file.mkdir()  # no line can be written
    (next(tmp_path.glob("members/*-s1/checkpoints/step-00000008")) / "MANIFEST.json").write_text('{"a": 1}')
    record_failure(trial, ValueError("no such thing"), "fingerprint")
    found = rows(tmp_path, trial)
    assert {seed: (row["status"], row["steps"]) for seed, row in found.items()} == {
        0: ("failed", 0),
        1: ("failed", 4),
        2: ("failed", 8),
    }
    assert {row["error"] for row in found.values()} == {"ValueError: no such thing"}


def test_weights_that_are_not_those_that_were_written_are_not_loaded(tmp_path: Path) -> None:
    train(tmp_path, experiment(), seeds=(0,))
    RunDirectory(tmp_path).collect()
    ensemble.load(tmp_path)
    weights = next(tmp_path.glob("members/*/best.safetensors"))
    flip(weights)
    with pytest.raises(StorageError, match=r"best\.safetensors: damaged: its weights have sha256 .*, expected"):
        ensemble.load(tmp_path)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"best\.safetensors: damaged"):
        ensemble.load(tmp_path)
    next(tmp_path.glob("members/*/model.json")).write_text("{}")
    with pytest.raises(StorageError, match=r"model\.json: damaged: no 'config_hash'"):
        ensemble.load(tmp_path)


def test_a_finished_member_is_not_trained_again(tmp_path: Path) -> None:
    config = experiment()
    train(tmp_path, config, seeds=(0, 1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("members/*/member.parquet")}
    found = train(tmp_path, config, seeds=(0, 1, 2))
    assert sorted(found) == [0, 1, 2]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_checkpoints_of_other_data_are_refused(tmp_path: Path) -> None:
    config = experiment()
    with pytest.raises(KilledError):
        train(tmp_path, config, kill_at=4)
    other = trajectories(seed=1)
    changed = TrialData(type(other)(*(getattr(other, f) for f in other.__slots__[:5]), "another", other.dt), {})
    with pytest.raises(StorageError, match="data_fingerprint is fingerprint, this run's is another"):
        train(tmp_path, config, data=changed)


def test_a_diverging_member_is_frozen_and_its_neighbours_do_not_notice(tmp_path: Path, monkeypatch) -> None:
    config = experiment(resources={"pack": 3})
    calm = train(tmp_path / "calm", config)
    step = MemberOptimizer.step

    def poisoned(self, *arguments):
        step(self, *arguments)
        self._rows[1].fill_(torch.nan)

    monkeypatch.setattr(MemberOptimizer, "step", poisoned)
    found = train(tmp_path / "poisoned", config)
    assert found[1]["status"] == "diverged"
    assert "is not finite at step 1" in found[1]["error"]
    assert found[1].get("test/loss") is None
    for seed in (0, 2):
        assert comparable(found[seed]) == comparable(calm[seed])


def test_a_member_without_progress_stops_early_and_keeps_its_best(tmp_path: Path) -> None:
    config = experiment(train={"patience": 1, "optimizer": {"lr": 1e-30}, "schedule": {"name": "constant"}})
    found = train(tmp_path, config)
    assert all(row["status"] == "completed" for row in found.values())
    assert {row["steps"] for row in found.values()} == {8}
    assert {row["best_step"] for row in found.values()} == {4}


def test_named_validation_sets_are_measured_beside(tmp_path: Path) -> None:
    found = train(tmp_path, experiment(), data=TrialData(trajectories(), {"other": trajectories(seed=5)}))
    assert found[0]["validation_other/loss"] != found[0]["validation/loss"]
    assert np.isfinite(found[0]["validation_other/rollout_rmse"])


def test_training_can_start_from_anothers_weights(tmp_path: Path) -> None:
    first = train(tmp_path / "first", experiment())
    member = next((tmp_path / "first").glob("members/*-s1"))
    still = {"steps": 4, "optimizer": {"lr": 1e-30}, "schedule": {"name": "constant"}}
    run = experiment(train={**still, "init_from": str(tmp_path / "first")})
    one = experiment(train={**still, "init_from": str(member)})
    by_seed = train(tmp_path / "by_seed", run)
    assert {s: r["test/loss"] for s, r in by_seed.items()} == {s: r["test/loss"] for s, r in first.items()}
    from_one = train(tmp_path / "from_one", one)
    assert {row["weights_sha256"] for row in from_one.values()} == {first[1]["weights_sha256"]}
    with pytest.raises(UsageError, match="no member of seed 7; it has seeds 0, 1, 2"):
        train(tmp_path / "missing", run, seeds=(7,))


def test_weights_of_another_question_are_refused_as_a_start(tmp_path: Path) -> None:
    train(tmp_path / "first", experiment())
    train(tmp_path / "first", experiment(train={"batch_size": 4}))
    run = experiment(train={"init_from": str(tmp_path / "first")})
    with pytest.raises(UsageError, match="holds 2 configurations"):
        train(tmp_path / "two", run)
    member = str(next((tmp_path / "first").glob("members/*-s1")))
    absolute = experiment(model={"prediction": "absolute"}, train={"init_from": member})
    with pytest.raises(UsageError, match=r"has model\.prediction relative, this model absolute"):
        train(tmp_path / "other", absolute)


def test_a_member_whose_rollouts_run_off_has_no_best_rollout(tmp_path: Path, monkeypatch) -> None:
    def endless(self, history, known, horizon):
        return torch.full((*history.shape[:2], horizon, 2), torch.inf)

    monkeypatch.setattr("ensemble.models.gpt_dynamics.GPTDynamics.rollout", endless)
    row = train(tmp_path, experiment(), seeds=(0,))[0]
    assert row["status"] == "completed"
    assert not any(name.startswith("best_rollout/") for name in row)
    assert not list(tmp_path.glob("members/*/best_rollout.safetensors"))


def test_a_judge_hears_nan_of_a_diverged_seed_and_the_best_of_one_that_stopped() -> None:
    class Pack:
        members: ClassVar = [
            Member(0, state="stopped", best_loss=Best(1.0, 4), last={"validation/loss": 9.0}),
            Member(1, last={"validation/loss": 3.0}),
        ]

    class Standing:
        pack = Pack()

    Pack.members[1].diverge(5, "the training loss")
    found = _objectives("validation/loss", [Standing()])
    assert found[0] == 1.0
    assert np.isnan(found[1])


@pytest.mark.parametrize("pack", [1, 3])
def test_a_trial_told_to_stop_leaves_pruned_rows_without_a_test(tmp_path: Path, pack: int) -> None:
    config = experiment(resources={"pack": pack})
    asked: list[tuple[int, set[int]]] = []

    def ask(step: int, values: Mapping[int, float]) -> bool:
        asked.append((step, set(values)))
        return len(asked) < 2

    trial = Trial(config, (0, 1, 2), "search", tmp_path)
    run_trial(trial, DATA, InlineContext(ask=ask))
    found = rows(tmp_path, trial)
    assert {row["status"] for row in found.values()} == {"pruned"}
    assert {row["steps"] for row in found.values()} == {asked[1][0]}
    assert all(seeds == {0, 1, 2} for _, seeds in asked)
    assert not any(name.startswith(("test/", "best_rollout/test")) for row in found.values() for name in row)
    assert all(row["weights_sha256"] for row in found.values())


def test_a_paused_trial_goes_on_where_it_was_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", experiment())
    trial = Trial(experiment(), (0, 1, 2), "ensemble", tmp_path / "paused")
    first: list[int] = []

    def pause(step: int, values: Mapping[int, float]) -> bool:
        first.append(step)
        raise Paused

    with pytest.raises(Paused):
        run_trial(trial, DATA, InlineContext(ask=pause))
    assert trial.pending == (0, 1, 2)
    after: list[int] = []
    run_trial(trial, DATA, InlineContext(ask=lambda step, values: not after.append(step)))
    assert len(first) == 1
    assert first[0] == after[0]  # asked again: the answer was never heard
    found = rows(tmp_path / "paused", trial)
    assert {s: row["weights_sha256"] for s, row in found.items()} == {
        s: row["weights_sha256"] for s, row in whole.items()
    }


def test_a_failure_leaves_a_row_and_a_traceback_for_each_unfinished_member(tmp_path: Path) -> None:
    trial = Trial(experiment(), (0, 1), "ensemble", tmp_path)
    try:
        raise ValueError("no such thing\nsecond line")
    except ValueError as error:
        record_failure(trial, error, "fingerprint")
    found = rows(tmp_path, trial)
    assert {row["status"] for row in found.values()} == {"failed"}
    assert found[0]["error"] == "ValueError: no such thing"
    assert "Traceback" in trial.directory(1).log_file.read_text()


def test_nothing_a_run_leaves_is_a_pickle(tmp_path: Path) -> None:
    train(tmp_path, experiment())
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes <= {".parquet", ".safetensors", ".json", ".log"}
    manifest = next(tmp_path.glob("members/*/checkpoints/*/MANIFEST.json"))
    assert set(json.loads(manifest.read_text())) == {"members.safetensors", "state.json", "curves.parquet", "sha256"}
    shutil.rmtree(tmp_path)


def test_a_loaded_ensemble_repeats_the_rollouts_of_its_training(tmp_path: Path) -> None:
    found = train(tmp_path, experiment())
    RunDirectory(tmp_path).collect()
    loaded = ensemble.load(tmp_path)
    assert loaded.seeds == (0, 1, 2)
    assert loaded.state == ("theta", "omega")
    assert repr(loaded).endswith(": 3 members (seeds 0, 1, 2) of theta (1), omega (1), torque (1)>")
    shown = pq.read_table(next(tmp_path.glob("members/*-s1/rollouts.parquet"))).to_pandas()
    first = shown[shown["window"] == 0].pivot(index="step", columns="label", values=["true", "predicted"])
    seen, horizon = 4, len(first) - 4
    row = np.flatnonzero(DATA.main.rows[:, 0] == first["true"]["theta"].iloc[0])[0]
    window = DATA.main.rows[row : row + len(first)]
    arrays = {
        "theta": window[None, :seen, 0:1],
        "omega": window[None, :seen, 1:2],
        "torque": window[None, :, 2:3],
    }
    predicted = loaded.rollout(arrays, horizon)
    assert predicted.shape == (3, 1, horizon, 2)
    np.testing.assert_allclose(predicted[1, 0, :, 0], first["predicted"]["theta"].to_numpy()[seen:], rtol=1e-5)
    np.testing.assert_allclose(loaded.member(1).rollout(arrays, horizon)[0], predicted[1], rtol=1e-5)
    assert np.array_equal(loaded.predict(arrays), predicted[:, :, 0])
    assert found[1]["config_hash"] == loaded.config_hash


def test_what_a_loaded_ensemble_is_not_given_is_named(tmp_path: Path) -> None:
    train(tmp_path, experiment())
    with pytest.raises(StorageError, match="no finished run there"):
        ensemble.load(tmp_path)
    RunDirectory(tmp_path).collect()
    loaded = ensemble.load(tmp_path)
    theta = np.zeros((1, 4, 1))
    with pytest.raises(UsageError, match="no feature 'omega' given"):
        loaded.predict({"theta": theta})
    with pytest.raises(UsageError, match=r"omega has shape \(1, 4, 2\)"):
        loaded.predict({"theta": theta, "omega": np.zeros((1, 4, 2)), "torque": theta})
    with pytest.raises(UsageError, match="torque has 4 points, 6 are needed"):
        loaded.rollout({"theta": theta, "omega": theta, "torque": theta}, 3)
    with pytest.raises(UsageError, match="no member of seed 9; there are 0, 1, 2"):
        loaded.member(9)
