"""Defaults of nested parts, and the bounds of everything that is counted."""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
from click.testing import CliRunner
from pydantic import Field

from ensemble.cli import cli
from ensemble.config import Experiment
from ensemble.config.base import Section
from ensemble.config.document import Keys
from ensemble.config.fields import Kind, keys_of, kind_of
from ensemble.config.loading import load
from ensemble.config.model import GPTDynamicsConfig, HeadConfig, MLPConfig
from ensemble.errors import UsageError

FAMILIES = ("gpt_dynamics", "pi0", "pi0_fast")


def experiment(family: str, path: Keys = (), value: Any = None) -> Experiment:
    document: dict[str, Any] = {"experiment": "x", "data": {"source": "double_pendulum"}, "model": {"family": family}}
    part = document
    for name in path[:-1]:
        part = part.setdefault(str(name), {})
    if path:
        part[str(path[-1])] = value
    return Experiment.model_validate_json(json.dumps(document))


def written_keys(section: Section, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from written_keys(value, (*path, name))
        elif path:
            yield (*path, name), section.model_dump(mode="json").get(name, value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_part_that_is_written_keeps_the_other_defaults_wherever_it_is(family: str) -> None:
    untouched = experiment(family)
    for path, value in written_keys(untouched):
        assert experiment(family, path, value) == untouched, path


def test_a_head_with_another_activation_keeps_its_hidden_layer(loaded: Any) -> None:
    model = loaded("model: {head: {activation: silu}}").first.model
    assert model.head == HeadConfig(layer_sizes=[64], activation="silu")
    model = loaded("model: {head: {activation: {choice: [silu, relu]}}}").configurations()[1].model
    assert model == GPTDynamicsConfig()


def test_a_family_with_a_default_that_a_part_would_lose_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"Deep\.part: its default differs from MLPConfig's own in layer_sizes; give"):

        class Deep(Section):
            part: MLPConfig = Field(MLPConfig(layer_sizes=[2]))


def test_the_schema_states_the_default_that_a_part_left_out_takes() -> None:
    stated = {key.path: key.default for key in keys_of(Experiment)}
    assert stated["model[gpt_dynamics].head.layer_sizes"] == [64]
    assert stated["model[gpt_dynamics].inputs.<name>.layer_sizes"] == []


def whole_numbers(kind: Kind) -> Iterator[Kind]:
    """Yield every whole number that a value of a kind may hold, with the bounds around it."""
    for member in kind.members:
        outer = Kind(member.bare, (*member.notes, *kind.notes))
        if get_origin(member.bare) in (list, tuple):
            yield from (found for item in get_args(member.bare) for found in whole_numbers(kind_of(item)))
        elif member.bare is int:
            yield outer


def test_every_whole_number_of_a_file_has_an_upper_bound_and_every_list_of_seeds_a_length() -> None:
    keys = [(key.path, found) for key in keys_of(Experiment) for found in whole_numbers(key.kind)]
    assert len(keys) > 40
    assert [path for path, kind in keys if kind.note("le") is None and kind.note("lt") is None] == []


@pytest.mark.parametrize(
    "override",
    [
        "ensemble.seeds=1000000000",
        "search.seeds=1000000000",
        f"ensemble.seeds=[{', '.join(map(str, range(10_001)))}]",
        "ensemble.seeds=[9223372036854775808]",
        "ensemble.finalists=1000000000",
        "search.trials=1000000000",
        "search.lag=1000000000",
        "data.simulate.episodes=1000000000",
        "data.simulate.steps=1000000000",
        "model.n_layer=1000000000",
        "model.history=1000000000",
        "model.head.layer_sizes=[1000000000]",
        "train.batch_size=1000000000",
        "train.steps=10000000000",
        "train.rollout.horizon=1000000000",
        "train.rollout.context=1000000000",
        "resources.workers=1000000000",
        "model.n_layer={int: [1, 1000000000]}",
        "model.n_layer={int: [1, 1000000000000000000000000000000]}",
        "train.optimizer.lr={int: [1, 1000000000000000000000000000000]}",
        "model.n_layer={int_log: [1, 1000000000000000000000000000000]}",
        "model.n_layer={choice: [1, 1000000000]}",
    ],
)
def test_a_count_beyond_any_memory_is_refused_at_once(write: Any, override: str) -> None:
    file = write("data: {source: double_pendulum}\n")
    load(file)
    with pytest.raises(UsageError, match=override.partition("=")[0].replace(".", r"\.")):
        load(file, [override])


def test_the_largest_ensemble_is_accepted(loaded: Any) -> None:
    assert loaded("ensemble: {seeds: 10000}").first.ensemble.seeds == 10_000
    assert loaded("train: {steps: 1000000000}").first.train.steps == 1_000_000_000


def test_every_whole_number_of_the_command_line_has_an_upper_bound() -> None:
    options = [(name, option) for name, command in cli.commands.items() for option in command.params]
    numbers = [(name, option) for name, option in options if option.type.name in ("integer", "integer range")]
    assert len(numbers) >= 8
    assert [f"{name} {option.name}" for name, option in numbers if getattr(option.type, "max", None) is None] == []
    for arguments in (
        ["simulate", "double_pendulum", "--episodes", "1000000000"],
        ["evaluate", ".", "--episodes", "1000000000"],
        ["resume", ".", "--seeds", "1000000000"],
    ):
        assert CliRunner().invoke(cli, arguments).exit_code == 2
