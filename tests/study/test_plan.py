"""The plan of a study, its run directory, and the files of an earlier run."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ensemble.config import load
from ensemble.errors import StorageError, UsageError
from ensemble.run_directory import RunDirectory, member_id
from ensemble.store import read_table, write_json, write_table
from ensemble.study.plan import (
    Plan,
    forget_failures,
    is_complete,
    is_finished,
    make_plan,
    planned_members,
    planned_text,
    read_notes,
    write_plan,
)
from ensemble.study.resume import data_of_run, plan_of_run

Tiny = Callable[..., Path]


def plan_of(path: Path, *overrides: str) -> Plan:
    return make_plan(load(path, overrides), path.parent / "results")


def members(plan: Plan) -> list[str]:
    return [member_id(identity, seed) for identity, _, seed in plan.known]


def write_row(plan: Plan, identity: str, status: str = "completed") -> None:
    config_hash, _, seed = identity.partition("-s")
    row = {"config_hash": [config_hash], "seed": [int(seed)], "status": [status]}
    write_table(RunDirectory(plan.run).member(identity).row_file, pa.table(row))


def end_search(plan: Plan) -> None:
    write_table(plan.run / "members.parquet", pa.table({"status": ["completed"]}))
    write_json(plan.run / "search.json", {"finished": True})


def test_a_search_plans_every_configuration_with_every_seed(tiny: Tiny) -> None:
    plan = plan_of(tiny())
    assert plan.role == "search"
    assert len(set(members(plan))) == 4
    fixed = plan_of(tiny(), "train.optimizer.lr=1e-3", "ensemble.seeds=[3, 5]")
    assert fixed.role == "ensemble"
    assert fixed.seeds == (3, 5)
    assert {member.partition("-")[0] for member in members(fixed)} < {m.partition("-")[0] for m in members(plan)}


def test_what_is_written_keeps_the_question_and_plans_the_same_members_again(tiny: Tiny) -> None:
    plan = plan_of(tiny(), "train.steps=7")
    write_plan(plan, {"shards": {"main": "/nowhere"}})
    text = (plan.run / "experiment.yaml").read_text()
    assert text.startswith("# Does the learning rate matter?\n# It is a test.\n")
    assert members(plan_of_run(plan.run)) == members(plan)
    assert plan_of_run(plan.run).run == plan.run
    assert data_of_run(plan) is None  # those shards are gone
    planned = read_table(plan.run / "planned.parquet")
    assert planned.num_rows == 4
    assert set(planned["role"].to_pylist()) == {"search"}


def test_an_unfinished_run_is_met_with_a_command_that_a_shell_takes(tiny: Tiny) -> None:
    file = tiny()
    plan = make_plan(load(file), file.parent / "my results")
    write_plan(plan, {})
    with pytest.raises(UsageError) as refused:
        is_finished(plan)
    assert shlex.split(str(refused.value).split("`")[1]) == ["ensemble", "resume", str(plan.run)]


def test_the_plan_of_one_of_each_is_singular(tiny: Tiny) -> None:
    one = ("search={sampler: tpe, trials: 1, seeds: 1}", "ensemble={finalists: 1, seeds: 1}")
    assert planned_text(plan_of(tiny(), *one)) == (
        "1 configuration by tpe, stopped by asha, x 1 seed, then 1 finalist x 1 fresh seed"
    )
    assert planned_text(plan_of(tiny(), "train.optimizer.lr=1e-3", "ensemble.seeds=1")) == "1 seed (ensemble)"
    assert planned_text(plan_of(tiny(), "search.seeds=1")) == "2 configurations x 1 seed (search)"


def test_a_run_is_finished_when_every_member_of_the_same_experiment_has_its_row(tiny: Tiny) -> None:
    plan = plan_of(tiny())
    assert not is_finished(plan)
    write_plan(plan, {})
    for identity in members(plan)[1:]:
        write_row(plan, identity)
    with pytest.raises(UsageError, match=r"unfinished, 1 of 4 members to go; .*`ensemble resume .*--overwrite"):
        is_finished(plan)
    write_row(plan, members(plan)[0])
    end_search(plan)
    assert is_finished(plan)


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("train.steps=21", "train.steps is 20 there, 21 here"),
        ("train.optimizer.lr=1e-3", "train.optimizer.lr"),
        ("search.seeds=3", "search.seeds is 2 there, 3 here"),
        ("resources.pack=1", "resources.pack is auto there, 1 here"),
    ],
)
def test_another_experiment_of_the_same_name_is_refused_by_its_first_difference(
    tiny: Tiny, override: str, difference: str
) -> None:
    write_plan(plan_of(tiny()), {})
    with pytest.raises(UsageError, match=difference) as caught:
        is_finished(plan_of(tiny(), override))
    assert "--overwrite" in str(caught.value)
    assert "ensemble resume" in str(caught.value)


def test_where_curves_go_makes_no_other_experiment(tiny: Tiny) -> None:
    plan = plan_of(tiny())
    write_plan(plan, {})
    for identity in members(plan):
        write_row(plan, identity)
    end_search(plan)
    assert is_finished(plan_of(tiny(), "logging.tensorboard=false"))


def test_a_directory_of_something_else_is_left_alone(tiny: Tiny) -> None:
    plan = plan_of(tiny())
    plan.run.mkdir(parents=True)
    (plan.run / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="no run directory"):
        is_finished(plan)


def test_only_failed_members_are_tried_again(tiny: Tiny) -> None:
    plan = plan_of(tiny())
    for identity, status in zip(members(plan), ("completed", "failed", "diverged", "failed"), strict=True):
        write_row(plan, identity, status)
    assert forget_failures(plan) == 2
    left = [RunDirectory(plan.run).member(identity).row_file.is_file() for identity in members(plan)]
    assert left == [True, False, True, False]


@pytest.mark.parametrize("name", ["experiment.yaml", "space.yaml"])
def test_an_edited_file_of_a_run_is_refused_by_its_key_and_nothing_is_given_up(tiny: Tiny, name: str) -> None:
    plan = make_plan(load(tiny()), tiny().parent / "results")
    write_plan(plan, {})
    assert plan_of_run(plan.run).resolved == plan.resolved
    file = plan.run / name
    was = file.read_text()
    file.write_text(was.replace("steps: 20", "steps: 50"))
    with pytest.raises(UsageError, match=rf"{name} was edited: train\.steps is 20 in the run, 50 in {name}") as refused:
        plan_of_run(plan.run)
    assert "--overwrite" not in str(refused.value)
    file.write_text(was)
    plan_of_run(plan.run)


@pytest.mark.parametrize(("name", "content"), [("data.json", "{torn"), ("search.json", "[]"), ("planned.parquet", "")])
def test_a_truncated_record_of_a_run_is_named_with_the_way_on(tiny: Tiny, name: str, content: str) -> None:
    plan = plan_of(tiny())
    write_plan(plan, {})
    for identity in members(plan):
        write_row(plan, identity)
    RunDirectory(plan.run).collect()
    (plan.run / name).write_text(content)
    with pytest.raises(StorageError) as caught:
        is_complete(plan_of_run(plan.run))
    assert str(plan.run / name) in str(caught.value)
    assert f"remove that file, and `ensemble resume {plan.run}` goes on without it" in str(caught.value)
    (plan.run / name).unlink()
    again = plan_of_run(plan.run)
    write_plan(again, read_notes(again))
    assert len(planned_members(plan.run)) == 4
    assert not is_complete(again)  # a search is finished when search.json says so
