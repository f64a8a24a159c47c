"""Constraints of the file: their meaning, when they apply, and the messages for wrong ones."""

import json
import math
import operator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.config import Experiment
from ensemble.config.constraints import ConstraintError, parse_constraint, violated
from ensemble.errors import UsageError

DATA = "data: {source: double_pendulum}\n"
HEADS = "model.n_embd >= 16 * model.n_head"


def experiment(**sections) -> Experiment:
    tree = {"experiment": "x", "data": {"source": "double_pendulum"}, **sections}
    return Experiment.model_validate_json(json.dumps(tree))


def constrained(*expressions: str) -> str:
    return f"search: {{constraints: {json.dumps(list(expressions))}}}\n"


def test_a_broken_constraint_is_told_with_its_values():
    model = {"n_embd": 128, "n_head": 16}
    words = "model.n_embd >= 16 * model.n_head does not hold (model.n_embd = 128, model.n_head = 16)"
    assert violated(experiment(model=model), [HEADS]) == words
    assert violated(experiment(model={"n_embd": 256, "n_head": 16}), [HEADS]) is None


def test_the_first_broken_one_of_several_is_told():
    first = violated(experiment(), ["model.n_layer == 6", "model.n_layer > 7", "model.n_layer > 8"])
    assert first == "model.n_layer > 7 does not hold (model.n_layer = 6)"


@pytest.mark.parametrize(
    "expression",
    [
        "1 < model.n_layer <= 6 < 7",
        "model.n_embd % model.n_head == 0 and train.batch_size <= 1024",
        "not (model.n_layer > 6 or model.dropout > 0)",
        "train.optimizer.name in ['adam', 'adamw'] and train.optimizer.name not in ['sgd']",
        "train.optimizer.name != 'sgd'",
        "min(model.n_layer, 3) == 3 and max([1, model.n_layer]) == 6 and abs(-model.n_layer) == 6",
        "model.n_embd // 100 == 1 and model.n_embd / 100 == 1.92 and +model.n_layer ** 2 == 36",
        "train.compile == False and train.compile == false and not train.compile",
        "train.patience == None and train.patience == null",
        "model.head.layer_sizes == [64] and train.optimizer.betas == (0.9, 0.999)",
        "'dyn' in model.family",
        "2 ** -1 * model.n_layer == 3",
        "search.seeds == 3 and resources.pack == 'auto'",
    ],
)
def test_the_language_says_what_python_would(expression):
    assert violated(experiment(), [expression]) is None
    assert violated(experiment(), [f"not ({expression})"]) is not None


def test_a_constraint_on_an_option_that_is_not_taken_does_not_apply():
    momentum = ["train.optimizer.momentum <= 0.5"]
    assert violated(experiment(train={"optimizer": {"name": "adam"}}), momentum) is None
    assert violated(experiment(train={"optimizer": {"name": "sgd", "momentum": 0.9}}), momentum) is not None
    encoder = ["model.inputs.proprio.layer_sizes == []"]
    assert violated(experiment(), encoder) is None
    named = experiment(model={"inputs": {"proprio": {"features": ["q"], "layer_sizes": [8]}}})
    assert violated(named, encoder) is not None


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("train.patience * 2 > 3", "needs a number, found None (train.patience = None)"),
        ("train.patience > 3", "None and 3 cannot be compared so (train.patience = None)"),
        ("train.optimizer.name > 3", "'adam' and 3 cannot be compared so (train.optimizer.name = 'adam')"),
        ("model.n_layer in 3", "6 and 3 cannot be compared so"),
        ("model.n_layer / (model.n_layer - 6) > 1", "division by zero (model.n_layer = 6)"),
        ("train.optimizer.name * 3 == 'adam'", "needs a number, found 'adam'"),
        ("train.compile + 1 == 1", "needs a number, found False"),
        ("model.n_layer or model.n_head", "needs true or false, found 6"),
        ("max(train.optimizer.name) == 'm'", "needs a number, found 'adam'"),
        ("model.n_layer ** 65 > 1", "6 ** 65 is too large"),
        ("((model.n_embd ** 64) ** 64) ** 64 > 1", "is too large"),
        ("(-model.n_layer) ** 0.5 > 1", "the root of a negative one"),
    ],
)
def test_a_constraint_that_cannot_be_decided_names_itself_and_the_value(expression, words):
    with pytest.raises(ConstraintError) as caught:
        violated(experiment(), ["model.n_layer > 1", expression])
    assert str(caught.value).startswith(f"search.constraints.1: {expression}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("model.n_embd >= ", "no expression such as model.n_embd >= 16 * model.n_head: invalid syntax"),
        ("model.n_embd > 3 > ) 4", "unmatched ')' at ') 4'"),
        ("n_embd > 3", "unknown name 'n_embd'; did you mean 'model.n_embd'?"),
        ("model.n_emb > 3", "unknown name 'model.n_emb'; did you mean 'model.n_embd'?"),
        ("train.lr > 3", "unknown name 'train.lr'; did you mean 'train.optimizer.lr'?"),
        ("model.head > 3", "model.head is a section; name one of its values, such as model.head.layer_sizes"),
        ("train.optimizer == 'adam'", "train.optimizer is a section; name one of its values"),
        ("model.n_embd % model.n_head", "is a value and no condition; compare it, as in"),
        ("model.n_layer > 1 and model.n_embd % 8", "is a value and no condition"),
        ("1 < 2", "names no value of the experiment"),
        ("", "no expression such as"),
        ("open('x') == model.n_layer", "\"open('x')\" is not understood; there are comparisons, and, or, not,"),
        ("model.n_layer.bit_length() == 3", "is not understood"),
        ("model.n_layer.__class__ == 3", "unknown name 'model.n_layer.__class__'"),
        ("[x for x in [model.n_layer]] == []", "is not understood"),
        ("(lambda: model.n_layer)() > 1", "is not understood"),
        ("model['n_layer'] > 1", "is not understood"),
        ("f'{model.n_layer}' == '1'", "is not understood"),
        ("model.n_layer is 3", "is not understood"),
        ("model.n_layer & 1 == 0", "is not understood"),
        ("(x := model.n_layer) > 1", "is not understood"),
        ("min(*[model.n_layer]) > 1", "is not understood"),
        ("min(model.n_layer, default=1) > 1", "is not understood"),
        ("abs() > model.n_layer", "is not understood"),
        ("-" * 200 + "model.n_layer > 1", "nested deeper than 40 levels"),
        ("model.n_layer > 1" + " " * 500, "at most 500 are read"),
        ("model.n_layer > 1j", "is not understood"),
    ],
)
def test_what_is_not_understood_is_refused_when_the_file_is_loaded(refused, expression, message):
    text = DATA + "search:\n  constraints:\n    - model.n_layer > 1\n    - " + json.dumps(expression) + "\n"
    [line] = refused(text)
    assert line.startswith("test.yaml:5:7: search.constraints.1: ")
    assert message in line


def test_wrong_constraints_come_with_all_other_problems_of_the_file(refused):
    lines = refused(DATA + "train: {stepps: 3}\n" + constrained("n_embd > 3", "model.n_layer > 1", "model.x > 1"))
    assert [line.split(": ")[1] for line in lines] == [
        "train.stepps",
        "search.constraints.0",
        "search.constraints.2",
    ]


def test_a_constraint_given_on_the_command_line_is_told_there(refused):
    override = "search.constraints=['n_embd > 3']"
    assert refused(DATA, override) == [
        f"--set {override}: search.constraints.0: unknown name 'n_embd'; did you mean 'model.n_embd'?"
    ]


def test_a_constraint_that_cannot_be_decided_for_the_file_is_refused_with_its_place(refused):
    assert refused(DATA + constrained("train.patience > 3")) == [
        "test.yaml:2:24: search.constraints.0: train.patience > 3: None and 3 cannot be compared so "
        "(train.patience = None)"
    ]


def test_a_grid_leaves_out_what_breaks_a_constraint(loaded):
    file = loaded("model: {n_embd: {choice: [64, 128]}, n_head: {choice: [4, 8]}}\n" + constrained(HEADS))
    assert [(each.model.n_embd, each.model.n_head) for each in file.configurations()] == [(64, 4), (128, 4), (128, 8)]
    words = f"{HEADS} does not hold (model.n_embd = 64, model.n_head = 8)"
    assert file.infeasible == [({"model.n_embd": 64, "model.n_head": 8}, words)]


def test_a_suggestion_that_breaks_a_constraint_is_refused_like_an_impossible_shape(loaded):
    file = loaded("model: {n_embd: {int: [64, 128], step: 64}, n_head: 8}\n" + constrained(HEADS))
    assert file.first.model.n_embd == file.resolve(lambda name, distribution: 128).model.n_embd == 128
    with pytest.raises(UsageError, match=r"does not hold \(model.n_embd = 64, model.n_head = 8\)"):
        file.resolve(lambda name, distribution: 64)


def test_a_space_that_its_constraints_leave_empty_is_refused_with_the_first(refused):
    text = "model: {n_embd: {choice: [32, 64]}, n_head: {choice: [8, 16]}}\n"
    [line] = refused(DATA + text + constrained(HEADS))
    assert line == (
        "test.yaml: none of 4 combinations is possible; the first, model.n_embd = 32, model.n_head = 8: "
        f"{HEADS} does not hold (model.n_embd = 32, model.n_head = 8)"
    )


def test_one_configuration_that_breaks_a_constraint_is_refused(refused):
    assert refused(DATA + constrained("model.n_layer > 7")) == [
        "test.yaml: model.n_layer > 7 does not hold (model.n_layer = 6)"
    ]


def test_a_space_that_is_possible_only_between_the_ends_of_its_ranges_is_accepted(loaded):
    text = "train: {optimizer: {lr: {log_uniform: [1e-5, 1]}}}\n"
    file = loaded(text + constrained("1e-4 < train.optimizer.lr < 1e-1"))
    assert 1e-4 < file.first.train.optimizer.lr < 1e-1


def test_an_override_that_does_not_fit_the_file_is_told_as_the_override(refused):
    assert refused(DATA + "model: {n_embd: 100, n_head: 4}", "model.n_head=3") == [
        "--set model.n_head=3: model: n_embd 100 is not divisible by n_head 3"
    ]
    assert refused(DATA, "resources.workers=3") == [
        "--set resources.workers=3: train.batch_size 512 is not divisible by resources.workers 3"
    ]


numbers = st.integers(-50, 50) | st.floats(-50, 50)
ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "%": operator.mod}


@given(numbers, numbers, st.sampled_from(sorted(ARITHMETIC)))
def test_arithmetic_is_python_s(left, right, sign):
    if not right and sign in "/%":
        return
    result = ARITHMETIC[sign](left, right)
    expression = f"({left!r}) {sign} ({right!r}) == {result!r} and model.n_layer == 6"
    assert not math.isfinite(result) or violated(experiment(), [expression]) is None


@given(st.text(max_size=40) | st.text("modeln_layr.()[]<>=+-*/% 0123456789'\"andortimx,", max_size=40))
def test_any_text_is_a_constraint_or_refused_in_words(text):
    with suppress(ValueError, ConstraintError):  # any other exception is a crash
        parse_constraint(text)
        violated(experiment(), [text])
