"""The judge, replayed on made-up curves: no Ray, no training."""

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from ensemble.config import ExperimentFile, load
from ensemble.config.space import Choice
from ensemble.errors import StorageError, UsageError
from ensemble.run_directory import config_hash, member_id
from ensemble.search.findings import findings
from ensemble.search.judge import Judge
from ensemble.search.records import JobOutcome, Suggestion
from ensemble.search.space import labels
from ensemble.search_log import EventLog, read_events

METRIC = "validation/rollout_rmse"
RUNGS = (10, 20, 30, 40, 50, 60, 70, 80, 90)

SPACE: dict[str, Any] = {
    "data": {"source": "double_pendulum"},
    "model": {"n_layer": {"int": [1, 4]}, "n_head": {"choice": [2, 3, 4]}, "n_embd": {"choice": [16, 24, 32]}},
    "train": {
        "steps": 90,
        "optimizer": {
            "choice": [
                {"name": "adamw", "lr": {"log_uniform": [1e-4, 1e-1]}, "weight_decay": {"uniform": [0, 0.1]}},
                {"name": "sgd", "lr": {"log_uniform": [1e-3, 1.0]}, "momentum": {"uniform": [0.5, 0.99]}},
            ]
        },
    },
}


@pytest.fixture
def space(tmp_path: Path) -> Callable[..., ExperimentFile]:
    def write(tree: Mapping[str, Any] = SPACE, **search: Any) -> ExperimentFile:
        path = tmp_path / "space.yaml"
        path.write_text(yaml.safe_dump({**tree, "search": {"trials": 12, "seeds": 3, **search}}))
        return load(path)

    return write


def value(job: Suggestion, seed: int, step: int) -> float:
    """A made-up curve: the best learning rate is 1e-2, deeper is better, every seed adds its own noise."""
    lr, depth = job.experiment.train.optimizer.lr, job.experiment.model.n_layer
    floor = (math.log10(lr) + 2) ** 2 + 1 / depth
    noise = np.random.default_rng([seed, depth, int(1e6 * lr)]).normal()
    return float((1 + floor + 2 * math.exp(-step / 30)) * math.exp(0.1 * noise))


def run(judge: Judge, width: int = 1, shuffle: int | None = None, most: int = 10_000) -> list[Suggestion]:
    """Drive a search with `width` jobs at a time; the rungs of these are interleaved at random."""
    order = random.Random(shuffle)
    jobs: list[Suggestion] = []
    active: dict[int, tuple[Suggestion, int]] = {}
    waiting = judge.unfinished
    while len(jobs) < most:
        while len(active) < width and (job := waiting.pop(0) if waiting else judge.suggest()) is not None:
            jobs.append(job)
            active[job.number] = job, 0
        if not active:
            assert judge.finished
            break
        number = order.choice(sorted(active))
        job, rung = active[number]
        step = RUNGS[rung]
        values = {seed: value(job, seed, step) for seed in job.seeds}
        if step == RUNGS[-1]:
            judge.tell(number, JobOutcome("completed", {METRIC: values}, step * len(job.seeds)))
            del active[number]
        elif judge.may_continue(number, step, values):
            active[number] = job, rung + 1
        else:
            judge.tell(number, JobOutcome("pruned", {METRIC: values}, step * len(job.seeds)))
            del active[number]
    return jobs


def history(judge: Judge) -> list[Any]:
    return [(c.number, c.parameters, c.state, c.rungs, c.values) for c in judge.configurations]


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cma", "qmc", "nsga2"])
def test_a_search_suggests_as_many_new_possible_configurations_as_asked(
    space: Callable[..., ExperimentFile], sampler: str
) -> None:
    judge = Judge(space(sampler=sampler, startup=5))
    jobs = run(judge)
    assert len(jobs) == 12
    assert len({str(job.experiment) for job in jobs}) == 12
    assert all(job.experiment.model.n_embd % job.experiment.model.n_head == 0 for job in jobs)
    assert {job.seeds for job in jobs} == {(0, 1, 2)}
    assert judge.suggest() is None


def test_impossible_suggestions_cost_no_trial_and_are_counted(space: Callable[..., ExperimentFile]) -> None:
    judge = Judge(space(sampler="random", trials=30))
    assert len(run(judge)) == 30
    assert judge.infeasible >= 3  # of nine pairs of n_embd and n_head, two are impossible


def test_a_space_that_is_used_up_ends_the_search(space: Callable[..., ExperimentFile]) -> None:
    tree = {**SPACE, "model": {"n_layer": {"int": [1, 4]}}, "train": {"steps": 90}}
    judge = Judge(space(tree, sampler="tpe", trials=50))
    assert sorted(job.experiment.model.n_layer for job in run(judge)) == [1, 2, 3, 4]
    assert judge.finished


def test_a_grid_hands_out_every_possible_combination_in_the_order_of_the_file(
    space: Callable[..., ExperimentFile],
) -> None:
    tree = {**SPACE, "train": {"steps": 90}}
    file = space(tree, sampler="grid", trials=None)
    judge = Judge(file)
    assert [job.experiment for job in run(judge)] == file.configurations()


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median", "wilcoxon", "i_epoch"])
@pytest.mark.parametrize("order", ["async", "sync"])
def test_a_pruner_stops_bad_configurations_and_spares_the_best(
    space: Callable[..., ExperimentFile], pruner: str, order: str
) -> None:
    judge = Judge(space(pruner=pruner, order=order, trials=40, sampler="random", grace=10))
    run(judge, width=3, shuffle=0)
    states = [c.state for c in judge.configurations]
    assert 3 <= states.count("pruned") < 40
    whole = {c.number: value(Suggestion(0, c.experiment, (0,), 0), 0, 90) for c in judge.configurations}
    best = judge.ranking()[0]
    assert whole[best.number] <= sorted(whole.values())[4]


def test_no_pruner_stops_nobody_even_where_a_seed_diverged(space: Callable[..., ExperimentFile]) -> None:
    judge = Judge(space(pruner="none"))
    job = judge.suggest()
    assert job is not None
    assert judge.may_continue(job.number, 10, {0: math.nan, 1: 1.0, 2: 1.0})


def test_a_configuration_that_loses_a_seed_is_stopped_and_never_the_best(space: Callable[..., ExperimentFile]) -> None:
    judge = Judge(space(pruner="asha", trials=2))
    first, second = judge.suggest(), judge.suggest()
    assert first is not None
    assert second is not None
    assert not judge.may_continue(first.number, 10, {0: math.nan, 1: 0.0, 2: 0.0})
    judge.tell(first.number, JobOutcome("diverged", {METRIC: {1: 0.0, 2: 0.0}}, 30))
    judge.tell(second.number, JobOutcome("completed", {METRIC: {0: 9.0, 1: 9.0, 2: 9.0}}, 270))
    assert [c.number for c in judge.ranking()] == [second.number]


def test_an_answer_once_given_is_given_again(space: Callable[..., ExperimentFile]) -> None:
    judge = Judge(space(pruner="i_epoch", grace=10, keep=1, trials=3))
    jobs = [judge.suggest() for _ in range(3)]
    answers = [judge.may_continue(j.number, 10, dict.fromkeys(j.seeds, float(3 - i))) for i, j in enumerate(jobs) if j]
    assert answers == [True, True, True]
    assert judge.may_continue(0, 10, dict.fromkeys((0, 1, 2), 100.0))


@pytest.mark.parametrize(
    ("sampler", "pruner", "race"),
    [("tpe", "asha", False), ("cma", "hyperband", False), ("nsga2", "median", False), ("tpe", "asha", True)],
)
def test_in_sync_order_a_search_comes_out_the_same_whoever_ends_first(
    space: Callable[..., ExperimentFile], sampler: str, pruner: str, race: bool
) -> None:
    histories = []
    for width, shuffle in ((1, 0), (2, 1), (4, 2), (3, 3)):
        judge = Judge(space(sampler=sampler, pruner=pruner, order="sync", lag=4, race=race, seeds=5, trials=16))
        run(judge, width, shuffle)
        histories.append(history(judge))
    assert all(each == histories[0] for each in histories)


@pytest.mark.parametrize("order", ["async", "sync"])
@pytest.mark.parametrize(("sampler", "race"), [("tpe", False), ("cma", False), ("gp", False), ("tpe", True)])
def test_a_search_resumed_from_its_log_goes_on_as_if_nothing_had_happened(
    space: Callable[..., ExperimentFile], tmp_path: Path, order: str, sampler: str, race: bool
) -> None:
    file = space(sampler=sampler, order=order, lag=1, trials=14, race=race, seeds=4, startup=4)
    whole = Judge(file, tmp_path / "whole")
    run(whole)
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for cut in random.Random(0).sample(range(1, len(lines)), 6):
        log = tmp_path / f"cut-{cut}"
        log.write_bytes(b"".join(lines[:cut]) + lines[cut][:7])  # and a torn line
        resumed = Judge(file, log)
        run(resumed)
        assert history(resumed) == history(whole), cut
        assert log.read_bytes() == b"".join(lines)


def test_a_failed_job_is_tried_again_after_a_resume(space: Callable[..., ExperimentFile], tmp_path: Path) -> None:
    file, log = space(trials=3), tmp_path / "log"
    judge = Judge(file, log)
    job = judge.suggest()
    assert job is not None
    judge.tell(job.number, JobOutcome("failed"))
    resumed = Judge(file, log)
    assert not resumed.unfinished
    resumed.reopen_failures()
    assert [each.number for each in resumed.unfinished] == [0]
    run(resumed)
    assert resumed.configurations[0].state in ("completed", "pruned")
    assert not Judge(file, log).unfinished


def test_more_trials_extend_a_finished_search(space: Callable[..., ExperimentFile], tmp_path: Path) -> None:
    log = tmp_path / "log"
    for trials in (6, 9):
        judge = Judge(space(trials=trials, race=True, seeds=4), log)
        run(judge)
        assert len(judge.configurations) == trials
    assert history(Judge(space(trials=9, race=True, seeds=4), log)) == history(judge)


def test_another_space_than_the_log_is_refused(space: Callable[..., ExperimentFile], tmp_path: Path) -> None:
    run(Judge(space(sampler="random"), tmp_path / "log"))
    with pytest.raises(UsageError, match=r"suggestion 0 of this search was"):
        Judge(space(sampler="random", seed=1), tmp_path / "log")


def test_damage_in_the_middle_of_a_log_names_the_line(space: Callable[..., ExperimentFile], tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(Judge(space(), log))
    content = bytearray(log.read_bytes())
    content[content.index(b"\n") + 20] ^= 1
    log.write_bytes(bytes(content))
    with pytest.raises(StorageError, match=r"log:2: damaged line"):
        Judge(space(), log)


def test_points_are_tried_first_and_may_be_nested_or_dotted(space: Callable[..., ExperimentFile]) -> None:
    points = [
        {"model": {"n_layer": 2, "n_embd": 24}, "train": {"optimizer": {"name": "sgd", "lr": 0.25}}},
        {"model.n_head": 4, "model.n_embd": 32, "train.optimizer.name": "adamw", "train.optimizer.weight_decay": 0.05},
    ]
    first, second = itertools.islice(run(Judge(space(points=points, trials=3))), 2)
    assert (first.experiment.model.n_layer, first.experiment.model.n_embd) == (2, 24)
    assert (first.experiment.train.optimizer.name, first.experiment.train.optimizer.lr) == ("sgd", 0.25)
    assert (second.experiment.model.n_head, second.experiment.model.n_embd) == (4, 32)
    assert second.experiment.train.optimizer.model_dump()["weight_decay"] == 0.05


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"model": {"n_layr": 2}}, r"search\.points\.0: model\.n_layr is not searched; did you mean 'model\.n_layer'"),
        ({"model.n_layer": 9}, r"^search\.points\.0: model\.n_layer: needs 1 to 4, whole numbers, found 9"),
        ({"model.n_head": 5}, r"search\.points\.0: model\.n_head: needs 2, 3 or 4, found 5"),
        ({"train.steps": 70}, r"search\.points\.0: train\.steps is not searched; the file says 90"),
        (
            {"train.optimizer.name": "adam"},
            r"search\.points\.0: train\.optimizer: needs adamw .. or sgd .., found .*\"adam\"",
        ),
    ],
)
def test_a_point_outside_the_space_is_refused(
    space: Callable[..., ExperimentFile], point: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Judge(space(points=[point]))


def test_known_trials_of_an_earlier_search_guide_the_first_suggestions(space: Callable[..., ExperimentFile]) -> None:
    earlier = Judge(space(sampler="random", trials=60, pruner="none"))
    run(earlier)
    known = [(c.parameters, c.mean(METRIC) or 0.0) for c in earlier.configurations]
    guided = run(Judge(space(trials=10), known=known))
    blind = run(Judge(space(trials=10, sampler="random")))
    best = [np.median([value(job, 0, 90) for job in jobs]) for jobs in (guided, blind)]
    assert best[0] < best[1]


def test_a_race_adds_seeds_only_where_the_best_may_be(space: Callable[..., ExperimentFile]) -> None:
    judge = Judge(space(race=True, seeds=10, race_start=2, trials=20, pruner="none", sampler="random"))
    run(judge, width=3, shuffle=1)
    counts = [len(c.values[METRIC]) for c in judge.configurations]
    best = judge.ranking()[0]
    assert len(best.values[METRIC]) == max(counts) > 2
    assert counts.count(2) > 10


def test_a_budget_ends_a_search(space: Callable[..., ExperimentFile]) -> None:
    judge = Judge(space(trials=100, pruner="none", budget=270 * 5))
    assert len(run(judge)) == 5
    assert judge.spent == 270 * 5


def test_several_objectives_put_the_pareto_front_first(space: Callable[..., ExperimentFile]) -> None:
    judge = Judge(space(also={"parameters": "min"}, pruner="none", trials=4, sampler="random"))
    for error, parameters in ((3.0, 10.0), (1.0, 30.0), (2.0, 40.0), (2.5, 20.0)):
        job = judge.suggest()
        assert job is not None
        values = {METRIC: dict.fromkeys(job.seeds, error), "parameters": dict.fromkeys(job.seeds, parameters)}
        judge.tell(job.number, JobOutcome("completed", values, 270))
    assert [c.number for c in judge.ranking()] == [1, 3, 0, 2]


def test_the_journal_opens_in_optuna_and_nothing_in_it_is_left_running(
    space: Callable[..., ExperimentFile], tmp_path: Path
) -> None:
    judge = Judge(space(trials=15, pruner="asha", grace=10), journal=tmp_path / "optuna.journal")
    run(judge)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
    )
    study = optuna.load_study(study_name="space", storage=storage)
    states = [trial.state.name for trial in study.trials]
    assert [trial.params for trial in study.trials] == [c.parameters for c in judge.configurations]
    assert states.count("COMPLETE") == len(judge.ranking())
    assert "RUNNING" not in states
    assert all(trial.intermediate_values for trial in study.trials if trial.state.name == "PRUNED")


def test_importances_name_what_matters(space: Callable[..., ExperimentFile]) -> None:
    judge = Judge(space(trials=60, pruner="none", sampler="random", order="sync"))
    run(judge)
    found = judge.importances()
    assert math.isclose(sum(found.values()), 1.0)
    assert found["model.n_layer"] > found["model.n_head"]


@pytest.mark.parametrize("order", ["async", "sync"])
def test_seeds_in_any_order_give_the_same_means_after_a_resume(
    space: Callable[..., ExperimentFile], tmp_path: Path, order: str
) -> None:
    file = space(sampler="gp", startup=4, seeds=[7, 10, 3, 0, 11], trials=8, pruner="none", order=order, lag=1)
    whole = Judge(file, tmp_path / "log")
    run(whole)
    assert history(Judge(file, tmp_path / "log")) == history(whole)


def test_a_race_waits_for_a_failure_that_is_tried_again(space: Callable[..., ExperimentFile], tmp_path: Path) -> None:
    file, log = space(race=True, seeds=4, trials=2, pruner="none", sampler="random"), tmp_path / "log"
    judge = Judge(file, log)
    jobs = [judge.suggest(), judge.suggest()]
    for job in jobs:
        assert job is not None
        judge.tell(job.number, JobOutcome("failed", steps=7) if job.number == 0 else JobOutcome("completed", steps=9))
    resumed = Judge(file, log)
    resumed.reopen_failures()
    assert not resumed.finished
    assert resumed.suggest() is None
    assert resumed.configurations[0].steps == 0


def test_a_disk_that_fills_for_a_moment_leaves_the_log_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "log")
    log.append({"event": "one"})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            log.append({"event": "two"})
    log.append({"event": "three"})
    assert [event["event"] for event in read_events(tmp_path / "log")] == ["one", "three"]


NESTED = {
    "data": {"source": "double_pendulum"},
    "model": {"n_head": 2, "n_embd": {"choice": [16, {"choice": [32, {"choice": [64, 128]}]}]}},
    "train": {
        "optimizer": {
            "choice": [
                {"name": "adam", "lr": {"choice": [1e-3, {"log_uniform": [1e-4, 1e-2]}]}},
                {"choice": [{"name": "adamw", "lr": 1e-3, "weight_decay": {"choice": [0.0, {"uniform": [0.1, 0.2]}]}}]},
            ]
        }
    },
}


def test_a_choice_in_a_choice_is_told_by_the_value_it_comes_to(space: Callable[..., ExperimentFile]) -> None:
    judge = Judge(space(NESTED, trials=40, pruner="none", sampler="random"))
    run(judge)
    widths, names = set(), set()
    for row in findings(judge).trials.to_pylist():
        settings = json.loads(row["settings"])
        experiment = next(c.experiment for c in judge.configurations if c.number == row["number"])
        optimizer = experiment.train.optimizer.model_dump()
        assert settings.pop("model.n_embd") == experiment.model.n_embd
        assert {name: optimizer[name.rpartition(".")[2]] for name in settings} == settings
        assert ("train.optimizer.weight_decay" in settings) == (optimizer["name"] == "adamw")
        widths.add(experiment.model.n_embd)
        names.add(optimizer["name"])
    assert widths == {16, 32, 64, 128}
    assert names == {"adam", "adamw"}


def test_options_are_called_what_they_are(space: Callable[..., ExperimentFile]) -> None:
    found = {name: labels(each) for name, each in space(NESTED).space.items() if isinstance(each, Choice)}
    assert found["model.n_embd"] == [16, "(32 or (64 or 128))"]
    assert found["train.optimizer"] == ["adam", "(adamw ..)"]
    assert found["train.optimizer[adam].lr"] == [1e-3, "(0.0001 to 0.01, logarithmic)"]
    assert found["train.optimizer[1][adamw].weight_decay"][0] == 0.0


@pytest.mark.parametrize("order", ["async", "sync"])
def test_a_job_whose_rows_are_lost_is_done_again_and_comes_out_the_same(
    space: Callable[..., ExperimentFile], tmp_path: Path, order: str
) -> None:
    file, log = space(order=order), tmp_path / "search.log"
    judge = Judge(file, log)
    run(judge)
    rows = {member_id(config_hash(job.experiment), seed) for job in judge._jobs.values() for seed in job.seeds}
    lost = judge.ranking()[0]
    again = Judge(file, log)
    again.reopen_failures(rows - {member_id(config_hash(lost.experiment), 0)})
    assert [job.number for job in again.unfinished] == [lost.number]
    assert not again.finished
    run(again)
    resumed = Judge(file, log)
    resumed.reopen_failures(rows)
    assert resumed.finished
    for other in (again, resumed):
        assert [c.number for c in other.ranking()] == [c.number for c in judge.ranking()]
        assert [c.steps for c in other.configurations] == [c.steps for c in judge.configurations]
