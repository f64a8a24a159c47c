import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.config import Choice, Int, IntLog, LogUniform, Uniform
from ensemble.config.document import parse
from ensemble.config.forks import grid, grid_size, plant
from ensemble.errors import UsageError

DATA = "data: {source: double_pendulum}\n"
CONDITIONAL = """
train:
  steps: {choice: [10, 20]}
  optimizer:
    choice:
      - {name: adamw, weight_decay: {choice: [0.0, 0.1]}}
      - {name: sgd, momentum: {choice: [0.5, 0.8, 0.9]}}
"""


def test_a_file_without_distributions_is_one_configuration(loaded):
    file = loaded("train: {steps: 7}")
    assert not file.searched
    assert file.configurations() == [file.first]
    assert file.varied(file.first) == {}
    assert file.infeasible == []


def test_a_grid_keeps_the_order_of_the_file_with_the_first_key_slowest(loaded):
    file = loaded("train: {steps: {choice: [20, 10]}}\nmodel: {n_layer: {int: [2, 6], step: 2}}\n")
    found = [(each.train.steps, each.model.n_layer) for each in file.configurations()]
    assert found == [(20, 2), (20, 4), (20, 6), (10, 2), (10, 4), (10, 6)]
    assert file.first == file.configurations()[0]


def test_parts_inside_an_option_vary_only_with_that_option(loaded):
    file = loaded(CONDITIONAL)
    assert list(file.space) == [
        "train.steps",
        "train.optimizer",
        "train.optimizer[adamw].weight_decay",
        "train.optimizer[sgd].momentum",
    ]
    assert len(file.configurations()) == 2 * (2 + 3)
    names = [each.train.optimizer.name for each in file.configurations()]
    assert names == ["adamw", "adamw", "sgd", "sgd", "sgd"] * 2


def test_searched_values_are_named_by_their_dotted_columns(loaded):
    file = loaded(CONDITIONAL)
    assert file.varied(file.configurations()[-1]) == {
        "train.steps": 20,
        "train.optimizer.name": "sgd",
        "train.optimizer.weight_decay": 0.0,
        "train.optimizer.momentum": 0.9,
    }


def test_a_choice_may_hold_choices_to_any_depth(loaded):
    file = loaded(
        "train: {optimizer: {choice: [{name: sgd, momentum: {choice: [{choice: [0.1, 0.2]}, 0.3]}}, {name: adam}]}}"
    )
    assert [file.varied(each).get("train.optimizer.momentum") for each in file.configurations()] == [
        0.1,
        0.2,
        0.3,
        None,
    ]


def test_a_whole_section_may_be_a_choice(loaded):
    file = loaded("model: {choice: [{n_layer: 1}, {n_layer: 2, n_head: {choice: [1, 2]}}]}")
    assert [(each.model.n_layer, each.model.n_head) for each in file.configurations()] == [(1, 12), (2, 1), (2, 2)]


def test_lists_may_be_options_and_hold_distributions(loaded):
    file = loaded("model: {head: {layer_sizes: {choice: [[8], [8, {choice: [4, 2]}], []]}}}")
    assert [each.model.head.layer_sizes for each in file.configurations()] == [[8], [8, 4], [8, 2], []]
    assert file.varied(file.first) == {"model.head.layer_sizes": "[8]"}


def test_options_that_mean_the_same_are_trained_once(loaded):
    assert len(loaded("train: {optimizer: {lr: {choice: [1, 1.0]}}}").configurations()) == 1


def test_distributions_keep_their_numbers(loaded):
    file = loaded(
        "train: {optimizer: {lr: {log_uniform: [1e-5, 1]}}}\n"
        "model: {dropout: {uniform: [0, 0.5]}, n_layer: {int: [2, 7], step: 2}, n_head: {int_log: [1, 4]}, "
        "prediction: {choice: [relative, absolute]}}\n"
    )
    assert file.space == {
        "train.optimizer.lr": LogUniform(log_uniform=(1e-5, 1.0)),
        "model.dropout": Uniform(uniform=(0.0, 0.5)),
        "model.n_layer": Int(int=(2, 7), step=2),
        "model.n_head": IntLog(int_log=(1, 4)),
        "model.prediction": Choice(choice=("relative", "absolute")),
    }
    assert (file.space["model.n_layer"].low, file.space["model.n_layer"].high) == (2, 6)


def test_a_range_that_is_no_list_cannot_be_a_grid(loaded):
    file = loaded("train: {optimizer: {lr: {log_uniform: [1e-5, 1]}}}")
    assert file.first.train.optimizer.lr == 1e-5
    with pytest.raises(
        UsageError,
        match=r"test\.yaml:2:.* train\.optimizer\.lr: a grid needs .* found log_uniform; list its values",
    ):
        file.configurations()


def test_a_grid_of_too_many_configurations_is_refused_before_it_is_built(loaded):
    file = loaded("train: {steps: {int: [1, 1000000]}, batch_size: {int: [2, 1000000]}}")
    with pytest.raises(UsageError, match="at most 10,000"):
        file.configurations()


def test_a_sampler_answers_the_distributions_that_are_reached(loaded):
    file = loaded("train: {optimizer: {choice: [{name: adam}, {name: sgd, lr: {log_uniform: [1e-3, 1]}}]}}")
    asked = []

    def ask(name, distribution):
        asked.append(name)
        return 1 if isinstance(distribution, Choice) else 0.5

    experiment = file.resolve(ask)
    assert asked == ["train.optimizer", "train.optimizer[sgd].lr"]
    assert (experiment.train.optimizer.name, experiment.train.optimizer.lr) == ("sgd", 0.5)


def test_impossible_combinations_are_left_out_and_counted(loaded):
    file = loaded("model: {n_embd: {choice: [100, 96]}, n_head: {choice: [12, 4]}}")
    assert [(each.model.n_embd, each.model.n_head) for each in file.configurations()] == [(100, 4), (96, 12), (96, 4)]
    assert (file.first.model.n_embd, file.first.model.n_head) == (100, 4)
    assert file.infeasible == [
        ({"model.n_embd": 100, "model.n_head": 12}, "model: n_embd 100 is not divisible by n_head 12")
    ]


def test_a_space_without_a_possible_combination_is_refused_with_the_first(refused):
    [line] = refused(DATA + "model: {n_embd: {choice: [10, 20]}, n_head: {choice: [3, 7]}}")
    assert line == (
        "test.yaml: none of 4 combinations is possible; the first, model.n_embd = 10, model.n_head = 3: "
        "model: n_embd 10 is not divisible by n_head 3"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: {steps: {choice: []}}", "2:25: train.steps: choice: an empty choice"),
        ("train: {steps: {choice: 3}}", "2:25: train.steps: choice: needs a list of values"),
        ("train: {steps: {choice: [3, 4, 3]}}", "2:25: train.steps: choice: the choice holds 3 twice"),
        ("train: {steps: {int: [9, 3]}}", "2:22: train.steps: int: the low end 9 is above the high end 3"),
        (
            "train: {steps: {int: [3, 9], step: 0}}",
            "2:22: train.steps: int: needs two whole numbers of at most 2^53, [low, high], and perhaps a step of at least 1",  # noqa: E501
        ),
        (
            "train: {steps: {int: [3, 9.5]}}",
            "2:22: train.steps: int: needs two whole numbers of at most 2^53, [low, high], and perhaps a step of at least 1",  # noqa: E501
        ),
        ("train: {steps: {int: [3, 9], stp: 2}}", "2:30: train.steps: int: unknown key 'stp'; did you mean 'step'?"),
        (
            "train: {optimizer: {lr: {log_uniform: [0, 1]}}}",
            "2:39: train.optimizer.lr: log_uniform: a logarithmic range starts above 0, found 0.0",
        ),
        (
            "train: {optimizer: {lr: {log_uniform: [-1, 1]}}}",
            "2:39: train.optimizer.lr: log_uniform: a logarithmic range starts above 0, found -1.0",
        ),
        (
            "train: {steps: {int_log: [0, 4]}}",
            "2:26: train.steps: int_log: a logarithmic range starts above 0, found 0",
        ),
        (
            "train: {optimizer: {lr: {uniform: [1]}}}",
            "2:35: train.optimizer.lr: uniform: needs two numbers, [low, high]",
        ),
        (
            "train: {optimizer: {lr: {uniform: [1, .inf]}}}",
            "2:35: train.optimizer.lr: uniform: needs two numbers, [low, high]",
        ),
        ("search: {seeds: {choice: [1, 2]}}", "2:17: search.seeds: only model and train are searched"),
        (
            "train: {steps: {choise: [1, 2]}}",
            "2:16: train.steps: needs a whole number from 1 to 1000000000, found a mapping with the keys choise; did you mean 'choice'?",  # noqa: E501
        ),
    ],
)
def test_an_impossible_distribution_is_refused_where_it_stands(refused, text, line):
    assert refused(DATA + text) == ["test.yaml:" + line]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "train: {steps: {choice: [1, 2, x]}}",
            "2:32: train.steps: needs a whole number from 1 to 1000000000, found the text 'x'",
        ),
        (
            "train: {steps: {int: [0, 4]}}",
            "2:23: train.steps: needs a whole number from 1 to 1000000000, found the number 0",
        ),
        (
            "model: {dropout: {uniform: [0, 1]}}",
            "2:32: model.dropout: needs a number of at least 0 and below 1, found the number 1.0",
        ),
        (
            "train: {optimizer: {choice: [{name: adam}, {name: sgd, lr: {choice: [1, -1]}}]}}",
            "2:73: train.optimizer.lr: needs a number above 0, found the number -1",
        ),
        (
            "train: {optimizer: {choice: [{name: adam}, {name: sgd, lr: {choice: [-1, 1]}}]}}",
            "2:70: train.optimizer.lr: needs a number above 0, found the number -1",
        ),
        (
            "train: {optimizer: {choice: [{name: adam}, {name: sgd, betas: 1}]}}",
            "2:56: train.optimizer.betas: unknown key 'betas'; for that, set train.optimizer={name: adam, betas: ..}",
        ),
    ],
)
def test_every_value_a_distribution_can_take_is_checked(refused, text, line):
    assert refused(DATA + text) == ["test.yaml:" + line]


trees = st.recursive(
    st.integers(0, 9),
    lambda t: (
        st.dictionaries(st.sampled_from("abc"), t, min_size=1, max_size=3)
        | st.lists(t, min_size=2, max_size=3, unique_by=str).map(lambda options: {"choice": options})
    ),
    max_leaves=8,
)


@given(trees)
def test_the_grid_has_as_many_configurations_as_it_says(tree):
    planted, problems = plant(parse(f"train: {tree}".replace("'", ""), "f")[0])
    assert not problems
    if grid_size(planted) <= 500:
        assert sum(1 for _ in grid(planted)) == grid_size(planted)
