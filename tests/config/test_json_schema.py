from pathlib import Path

import jsonschema
import pytest

from ensemble.config import Experiment, json_schema, render_json_schema, render_schema_text, shipped
from ensemble.config.document import parse, read_text
from ensemble.config.fields import keys_of

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def accepts(text: str) -> bool:
    return VALIDATOR.is_valid(parse(text, "f")[0].plain())


def test_the_committed_schema_is_current():
    current = (ROOT / "search_spaces" / "schema.json").read_text() == render_json_schema()
    assert current, "run: ensemble schema --json > search_spaces/schema.json"


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_shipped_files_hold_to_the_schema_and_point_to_it():
    for path in shipped().glob("*.yaml"):
        text = read_text(path)
        assert text.startswith("# yaml-language-server: $schema=schema.json\n"), path
        VALIDATOR.validate(parse(text, path.name)[0].plain())


@pytest.mark.parametrize(
    "text",
    [
        "train: {steps: 3}",
        "train: {steps: {choice: [3, 4]}}",
        "train: {steps: {int: [3, 9], step: 2}}",
        "train: {optimizer: {lr: {log_uniform: [1e-4, 1]}}}",
        "train: {optimizer: {choice: [{name: adam}, {name: sgd, momentum: {uniform: [0, 0.5]}}]}}",
        "model: {choice: [{n_layer: 3}, {n_layer: 4}]}",
        "model: {inputs: {a: {features: [x], layer_sizes: {choice: [[], [3]]}}}}",
    ],
)
def test_the_schema_accepts_values_and_distributions(text):
    assert accepts("data: {source: double_pendulum}\n" + text)


@pytest.mark.parametrize(
    "text",
    [
        "train: {stepz: 3}",
        "train: {steps: fast}",
        "train: {steps: {choise: [3, 4]}}",
        "train: {steps: {choice: []}}",
        "model: {prediction: {uniform: [0, 1]}}",
        "search: {seeds: {choice: [1, 2]}}",
        "experiment: ../x",
    ],
)
def test_the_schema_refuses_what_loading_refuses(text, refused):
    assert not accepts("data: {source: double_pendulum}\n" + text)
    assert refused("data: {source: double_pendulum}\n" + text)


def test_the_text_names_every_key_with_its_default():
    text = render_schema_text()
    for key in keys_of(Experiment):
        assert key.path in text
        assert key.meaning, f"{key.path} has no description"
        assert key.meaning in text
    assert "train.optimizer[sgd].momentum (default 0.9)" in text
