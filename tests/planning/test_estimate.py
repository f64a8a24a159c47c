"""What `ensemble plan` counts: shapes against autograd and torch's own counters, spaces against their grids."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ensemble.config import Experiment, find_space, load
from ensemble.errors import UsageError
from ensemble.models.base import Batch, Normalization, build, move_buffers, parameter_count
from ensemble.planning.cost import cost_of, fitting_pack, trial_bytes
from ensemble.planning.data_outlook import data_outlook
from ensemble.planning.estimate import TimeEstimate, estimate_time, refuse_too_large, rough_speed, survey
from ensemble.planning.sample import sample_space
from ensemble.planning.speed import LinearFit, Machine, Speed, calibrate, fit_line
from ensemble.planning.text import plan_text
from ensemble.schema import Feature
from ensemble.search.describe_space import describe_distribution, trial_count
from ensemble.search.rungs import first_rung, kept_share
from ensemble.study.cluster import ClusterNode
from ensemble.study.prepare import prepare

Tiny = Callable[..., Path]

FEATURES = (
    Feature("states", 4, "state", ("q0", "q1", "qd0", "qd1"), (True, True, False, False)),
    Feature("torque", 2, "control", ("a", "b"), (False, False)),
    Feature("pose", 7, "auxiliary", tuple("abcdefg"), (False,) * 7),
)
SHAPES: list[dict[str, Any]] = [
    {},
    {"n_layer": 2, "n_head": 3, "n_embd": 48, "history": 7, "head": {"layer_sizes": []}},
    {"n_layer": 3, "n_head": 16, "n_embd": 128, "history": 20, "block_size": 24, "head": {"layer_sizes": [128, 32]}},
    {"n_layer": 2, "n_head": 4, "n_embd": 64, "dropout": 0.1, "bias": True},
]


def experiment(model: dict[str, Any] | None = None, **sections: Any) -> Experiment:
    tree = {"experiment": "x", "data": {"source": "double_pendulum"}, "model": model or {}, **sections}
    return Experiment.model_validate_json(json.dumps(tree))


def trained_on_meta(config: Experiment, batch: int) -> tuple[int, int, int]:
    """Return parameters, FLOPs and bytes kept for the backward pass, as torch itself counts them in a step."""
    model = config.model
    module = build(model, FEATURES, 1, Normalization.identity(FEATURES), precision=config.train.precision)
    move_buffers(module, "meta")
    fixed = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())}
    kept, alive = {}, []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        if tensor.untyped_storage()._cdata not in fixed:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    points = torch.empty(1, batch, model.history + 1, 13, device="meta")
    keys = torch.empty(1, module.sites, dtype=torch.int32, device="meta") if module.sites else None
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss, _ = module(Batch(points, torch.arange(batch, dtype=torch.int32, device="meta"), keys))
        loss.sum().backward()
    return parameter_count(module), counter.get_total_flops(), sum(kept.values())


@pytest.mark.parametrize("model", SHAPES)
def test_parameters_flops_and_kept_bytes_are_what_torch_counts(model: dict[str, Any]) -> None:
    config = experiment(model, train={"batch_size": 96})
    cost = cost_of(config, FEATURES)
    parameters, flops, kept = trained_on_meta(config, 96)
    assert cost.parameters == parameters
    assert cost.flops == pytest.approx(flops, rel=0.01)
    assert cost.saved == pytest.approx(kept, rel=0.01)


def test_half_precision_keeps_half_of_what_enters_products() -> None:
    config = experiment(train={"batch_size": 96, "precision": "bf16"})
    _, _, kept = trained_on_meta(config, 96)
    assert cost_of(config, FEATURES).saved == pytest.approx(kept, rel=0.01)


def test_the_reference_model_has_its_published_size() -> None:
    config = experiment({"n_layer": 6, "n_head": 12, "n_embd": 192})
    nerd = (*FEATURES[:1], Feature("gravity_dir", 3, "control", ("x", "y", "z"), (False,) * 3))
    assert cost_of(config, nerd).parameters == 2_710_788


def test_what_has_no_shape_changes_neither_parameters_nor_flops() -> None:
    plain, dropping = (cost_of(experiment({"dropout": p}), FEATURES) for p in (0.0, 0.1))
    assert (plain.parameters, plain.flops) == (dropping.parameters, dropping.flops)
    assert dropping.activations > plain.activations


def test_a_pack_that_fits_fits_and_one_more_does_not() -> None:
    cost = cost_of(experiment(), FEATURES)
    room = trial_bytes(cost, 5, 3) + cost.activations // 2
    assert fitting_pack(cost, 5, room) == 3
    assert fitting_pack(cost, 2, 10**12) == 2
    assert fitting_pack(cost, 5, trial_bytes(cost, 5, 1) - 1) == 0


def test_a_small_grid_is_counted_whole_and_a_large_space_is_drawn(tiny: Tiny) -> None:
    grid = load(tiny(("n_embd: 8", "n_embd: {choice: [7, 8]}")))
    sample = sample_space(grid)
    assert sample.whole
    assert (sample.looked_at, sample.infeasible, len(sample.configurations)) == (4, 2, 2)
    assert sample.rules == {"model: n_embd is not divisible by n_head": 2}
    assert sample.first_infeasible == "model: n_embd 7 is not divisible by n_head 2"
    drawn = sample_space(load(tiny(("choice: [1e-3, 1e-2]", "log_uniform: [1e-3, 1e-2]"))), 50)
    assert not drawn.whole
    assert drawn.looked_at == 50
    assert len(drawn.hashes) == len(drawn.configurations) == 52  # and both ends
    assert sample_space(load(tiny()), 50).hashes == {*sample_space(load(tiny()), 9).hashes}


def test_the_share_of_impossible_draws_is_the_space_s_own(tiny: Tiny) -> None:
    file = load(tiny(("n_embd: 8", "n_embd: {int: [1, 2000]}")), ["model.n_head=1", "train.optimizer.lr={int: [1, 9]}"])
    even = load(file.path, ["model.n_embd={int: [1, 2000]}", "train.optimizer.lr={uniform: [1, 9]}"])
    sample = sample_space(even, 400)
    assert 0.42 < sample.infeasible / sample.looked_at < 0.58  # n_head is 2
    assert sample_space(even, 400) == sample


def test_constraints_are_counted_by_rule(tiny: Tiny) -> None:
    rule = "model.n_embd >= 8 * model.n_layer"
    space = ["model.n_layer={choice: [1, 2]}", f"search.constraints=['{rule}']"]
    sample = sample_space(load(tiny(), space))
    assert sample.rules == {rule: 2}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{choice: [1, 2, 5]}", "1, 2 or 5"),
        ("{choice: [null, 5]}", "null or 5"),
        ("{int: [1, 9], step: 2}", "1 to 9 in steps of 2"),
        ("{int: [1, 9]}", "1 to 9, whole numbers"),
        ("{int_log: [1, 9]}", "1 to 9, whole numbers, logarithmic"),
    ],
)
def test_a_distribution_is_said_in_words(tiny: Tiny, value: str, words: str) -> None:
    [distribution] = load(tiny(), ["train.optimizer.lr=1e-3", f"train.patience={value}"]).space.values()
    assert describe_distribution(distribution) == words


def test_options_with_parts_of_their_own_are_named(tiny: Tiny) -> None:
    optimizer = "{choice: [{name: adam}, {name: sgd, lr: {log_uniform: [1e-3, 1]}}]}"
    space = load(tiny(), [f"train.optimizer={optimizer}"]).space
    assert [describe_distribution(each) for each in space.values()] == ["adam or sgd ..", "0.001 to 1, logarithmic"]


@pytest.mark.parametrize(
    ("search", "share"),
    [
        ({"pruner": "none"}, 1.0),
        ({"pruner": "asha", "grace": 90, "eta": 3}, (90 + 180 / 3 + 540 / 9 + 90 / 27) / 900),
        ({"pruner": "asha", "eta": 3}, (90 + 180 / 3 + 540 / 9 + 90 / 27) / 900),
        (
            {"pruner": "asha", "grace": 100, "eta": 3},
            (135 + 180 / 3 + 585 / 9) / 900,
        ),  # decided at validations, every 45
        ({"pruner": "asha", "grace": 5000}, 1.0),
        ({"pruner": "hyperband", "grace": 300, "eta": 3}, (315 + 585 / 3) / 900),
        ({"pruner": "median"}, None),
    ],
)
def test_the_share_that_early_stopping_leaves(tiny: Tiny, search: dict[str, Any], share: float | None) -> None:
    overrides = [f"search.{key}={value}" for key, value in search.items()]
    file = load(tiny(), ["train.steps=900", "train.validate_every=45", *overrides])
    assert kept_share(file) == (share if share is None else pytest.approx(share))


def test_a_plan_counts_with_the_rungs_of_the_pruner() -> None:
    """Validations every 100 of 400 steps: asha's first rung is 100, not the 44 of steps / eta^2."""
    file = load(find_space("pi0_lr"))
    assert first_rung(file.first.search, file.first.train) == 100
    assert kept_share(file) == pytest.approx((100 + 200 / 3 + 100 / 9) / 400)


def test_a_grid_tries_every_configuration_and_a_sampler_no_more_than_there_are(tiny: Tiny) -> None:
    three = "train.optimizer.lr={choice: [1e-3, 2e-3, 3e-3]}"
    assert trial_count(load(tiny(), [three, "search.sampler=grid"])) == 3
    assert trial_count(load(tiny(), [three, "search.sampler=random"])) == 3
    assert trial_count(load(tiny(), [three, "search.sampler=tpe", "search.trials=5"])) == 3
    assert trial_count(load(tiny(), [three, "search.sampler=tpe", "search.trials=2"])) == 2
    assert trial_count(load(tiny(), ["search.sampler=random", "train.optimizer.lr={log_uniform: [1e-4, 1e-2]}"])) == 32
    assert trial_count(load(tiny(), ["train.optimizer.lr=1e-3"])) == 1


def test_data_are_foreseen_as_they_will_be(tiny: Tiny, tmp_path: Path) -> None:
    file = load(tiny())
    before = data_outlook(file.first, tmp_path, tmp_path / "results")
    assert not before.ready
    assert not (tmp_path / "shards").exists()
    prepare(file.first.data, tmp_path, tmp_path / "results", lambda line: None)
    after = data_outlook(file.first, tmp_path, tmp_path / "results")
    assert after.ready
    assert (before.features, before.points, before.episodes) == (after.features, after.points, after.episodes)
    [raw] = (tmp_path / "shards").glob("*.h5")
    headers = data_outlook(load(tiny(), [f"data.path={raw}"]).first, tmp_path, tmp_path / "results")
    assert (headers.features, headers.points) == (after.features, after.points)
    assert not headers.ready


def test_missing_data_are_assumed_and_said_to_be(tiny: Tiny, tmp_path: Path) -> None:
    overrides = ["data={path: nowhere.h5, map: {q: pos, u: force}, roles: {q: state, u: action}}"]
    found = data_outlook(load(tiny(), overrides).first, tmp_path, tmp_path / "results")
    assert [(feature.name, feature.role) for feature in found.features] == [("q", "state"), ("u", "control")]
    assert "the numbers assume 2 columns (q, u)" in found.description


def test_hours_are_trials_times_their_time_over_what_runs_at_once(tiny: Tiny, tmp_path: Path) -> None:
    overrides = ["search.trials=20", "search.pruner=asha", "search.grace=5", "ensemble.finalists=2"]
    space = ("choice: [1e-3, 1e-2]", "log_uniform: [1e-3, 1e-2]")
    # A second a step.
    speed = Speed(Machine(1e10, 1e10), setup=0.0, step=LinearFit(1.0, 0.0), validation=LinearFit(0.0, 0.0))
    nodes = [ClusterNode("a", 4.0, 0.0, 8e9)]
    found = survey(load(tiny(space), overrides), tmp_path / "results", "cpu", nodes)
    time = estimate_time(found, speed)
    assert found.capacity.slots == 4
    assert time.search == pytest.approx(8 + 5 * (0.4 + 2 * 20))  # rounds of trials of 2 seeds of 20 steps
    assert time.expected is not None
    assert time.expected == pytest.approx(8 + 5 * (0.4 + 2 * 20 * (5 + 10 / 3 + 5 / 9) / 20))
    assert time.finalists == pytest.approx(5 * 20 + 0.8)  # 2 x 10 fresh seeds
    assert time.total == time.expected + time.finalists
    capped = survey(load(tiny(space), [*overrides, "search.budget=400"]), tmp_path / "results", "cpu", nodes)
    assert estimate_time(capped, speed).search == pytest.approx(8 + 5 * (0.4 + 20))


def test_an_ensemble_takes_as_many_rounds_as_its_seeds_need(tiny: Tiny, tmp_path: Path) -> None:
    file = load(tiny(), ["train.optimizer.lr=1e-3", "ensemble.seeds=10"])
    found = survey(file, tmp_path / "results", "cpu", [ClusterNode("a", 4.0, 0.0, 8e9)])
    speed = Speed(Machine(1e10, 1e10), setup=0.0, step=LinearFit(1.0, 0.0), validation=LinearFit(0.0, 0.0))
    assert estimate_time(found, speed) == TimeEstimate(pytest.approx(8 + 3 * 20 + 0.4), None, 0.0)


def test_what_fits_no_trial_is_named_with_its_size(tiny: Tiny, tmp_path: Path) -> None:
    space = ("n_embd: 8", "n_embd: {choice: [8, 1024, 2048]}")
    file = load(tiny(space))
    small = [ClusterNode("small", 2.0, 0.0, 2.2e9)]
    found = survey(file, tmp_path / "results", "cpu", small)
    assert [found.pack(case) for case in found.cases] == [2, 2, 0, 0, 0, 0]
    with pytest.raises(UsageError, match=r"n_embd=2048 .*with batch 8 needs .* for a trial of 2 members"):
        refuse_too_large(found)
    refuse_too_large(survey(file, tmp_path / "results", "cpu", [ClusterNode("large", 2.0, 0.0, 1e12)]))


def test_the_memory_of_a_cluster_s_gpus_is_not_made_up(tiny: Tiny, tmp_path: Path) -> None:
    nodes = [ClusterNode("gpus", 8.0, 4.0, 1e8), ClusterNode("none", 8.0, 0.0, 1e8)]
    found = survey(load(tiny()), tmp_path / "results", None, nodes)
    assert (found.capacity.device, found.capacity.slots, found.too_large) == ("cuda", 4, None)
    assert "GPU memory unknown from here" in plan_text(found, Speed(Machine(1e10, 1e10)))


def test_more_than_every_node_has_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs 1 CPU, 3 GPU"):
        survey(load(tiny(), ["resources.gpus_per_worker=3"]), tmp_path, None, [ClusterNode("a", 4.0, 2.0, 1e10)])


def test_expected_hours_grow_with_the_work(tiny: Tiny, tmp_path: Path) -> None:
    files = [load(tiny(), [f"train.steps={steps}"]) for steps in (1000, 100_000)]
    found = [survey(file, tmp_path / "results") for file in files]
    short, long = (estimate_time(each, rough_speed(found[0])).total for each in found)
    assert 0 < short < long / 20
    assert long < 12 * 3600


def test_a_fit_finds_a_line_and_never_a_negative_one() -> None:
    assert fit_line([1, 2, 4], [3, 5, 9]) == LinearFit(pytest.approx(1.0), pytest.approx(2.0))
    assert fit_line([1, 2, 4], [1, 3, 7]).a == 0.0
    assert fit_line([1, 2, 4], [4, 2, 1]).b > 0
    assert fit_line([2.0], [3.0])(2.0) == pytest.approx(3.0)


def test_a_calibration_trains_what_the_file_says_and_leaves_nothing(tiny: Tiny, tmp_path: Path) -> None:
    file = load(tiny(("n_embd: 8", "n_embd: {choice: [8, 32]}")))
    data = prepare(file.first.data, tmp_path, tmp_path / "results", lambda line: None)
    found = survey(file, tmp_path / "results")
    chosen = [case.experiment for case in (found.cases[0], found.cases[-1])]
    speed, timings = calibrate(chosen, data, True, 0.5)
    assert [each.pack in (1, 2) and each.steps >= 3 for each in timings] == [True, True]
    assert all(each.step > 0 and each.validation > 0 for each in timings)
    assert 0 < estimate_time(found, speed).total < 3600
    assert not (tmp_path / "results").exists()


def test_the_plan_says_space_members_models_and_time(tiny: Tiny, tmp_path: Path) -> None:
    nodes = [ClusterNode("first", 4.0, 0.0, 8e9), ClusterNode("second", 2.0, 0.0, 4e9)]
    file = load(tiny(("n_embd: 8", "n_embd: {choice: [7, 8, 16]}")), ["search.sampler=grid"])
    text = plan_text(survey(file, tmp_path / "results", "cpu", nodes), Speed(Machine(1e10, 1e10)))
    for words in (
        "tiny: 6 combinations",
        "model.n_embd         7, 8 or 16",
        "impossible: 33% of all 6, for model: n_embd is not divisible by n_head (33%)",
        "4 trials x 2 seeds = 8 members",
        "double_pendulum, simulated by the run: 12 episodes, 300 points",
        "parameters",
        "second",
    ):
        assert words in text, text


PEAK = """
import json, sys, threading, time
import numpy as np, torch
from ensemble.config import Experiment
from ensemble.models.base import Batch, Normalization
from ensemble.training.trial import keep_freed_memory
from ensemble.schema import Feature
from ensemble.training.context import InlineContext
from ensemble.training.pack import Pack

def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])

def train(model, batch, members):
    tree = {"experiment": "x", "data": {"source": "double_pendulum"}, "model": model}
    config = Experiment.model_validate_json(json.dumps(tree))
    features = (Feature("q", 4, "state", tuple("abcd"), (False,) * 4),)
    pack = Pack(config, features, Normalization.identity(features), range(members), InlineContext(), wrap=False)
    points = torch.randn(members, batch, config.model.history + 1, 4)
    for _ in range(3):
        pack.step(Batch(points, torch.arange(batch, dtype=torch.int32)), [1e-3] * members)

torch.set_num_threads(1)
keep_freed_memory()
train({"n_layer": 1, "n_head": 1, "n_embd": 8}, 8, 1)
before, peak, on = resident(), 0, True

def watch():
    global peak
    while on:
        peak = max(peak, resident())
        time.sleep(0.001)

thread = threading.Thread(target=watch)
thread.start()
train(json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
on = False
thread.join()
print(peak - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "batch", "members"),
    [({}, 512, 1), ({"n_layer": 3, "n_head": 4, "n_embd": 64}, 512, 3), ({"n_layer": 8, "n_head": 8}, 256, 2)],
)
def test_the_memory_of_a_step_is_what_the_system_sees(model: dict[str, Any], batch: int, members: int) -> None:
    command = [sys.executable, "-c", PEAK, json.dumps(model), str(batch), str(members)]
    measured = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    features = (Feature("q", 4, "state", tuple("abcd"), (False,) * 4),)
    cost = cost_of(experiment(model, train={"batch_size": batch}), features)
    state = cost.state * 4 // 6  # a pack alone keeps no best copies
    assert members * (cost.activations + state) == pytest.approx(measured, rel=0.15)
