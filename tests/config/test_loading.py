import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.config import load
from ensemble.errors import UsageError

DATA = "data: {source: double_pendulum}\n"


def test_a_mistyped_key_is_named_with_its_place_and_the_nearest_key(refused):
    text = DATA + "train:\n  schedule:\n    warmpu_steps: 3\n"
    assert refused(text) == [
        "test.yaml:4:5: train.schedule.warmpu_steps: unknown key 'warmpu_steps'; did you mean 'warmup_steps'?"
    ]


def test_a_bad_file_is_refused_before_ray_or_torch_is_imported(write):
    path = write(DATA + "trian: {}\n")
    code = f"""
import sys
from ensemble.config import load
from ensemble.errors import UsageError
try:
    load({str(path)!r})
except UsageError as error:
    print(error)
print(sorted({{"ray", "torch", "numpy", "pyarrow", "h5py", "optuna"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{path}:2:1: trian: unknown key 'trian'; did you mean 'train'?", "[]"]


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, ensemble; print(sorted({'ray', 'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_an_exponent_without_a_dot_is_a_number(loaded):
    assert loaded("train: {optimizer: {lr: 1e-4}}").first.train.optimizer.lr == 0.0001


def test_no_is_a_text_where_true_or_false_is_wanted(refused):
    assert refused(DATA + "train: {compile: no}") == [
        "test.yaml:2:18: train.compile: needs true or false, found the text 'no'"
    ]


def test_a_duplicate_key_is_refused_with_both_lines(refused):
    assert refused(DATA + "train: {}\nmodel: {}\ntrain: {}\n") == [
        "test.yaml:4:1: train: key 'train' is given twice, at lines 2 and 4"
    ]


def test_python_objects_are_refused(refused):
    assert refused(DATA + "train: !!python/object:os.system {}\n") == [
        "test.yaml:2:8: train: the tag !!python/object:os.system is refused; files hold plain values only"
    ]


def test_all_errors_come_at_once_in_the_order_of_the_file(refused):
    lines = refused("data: {source: double_pendulm}\nmodel: {n_layer: fast, n_layers: 3}\ntrain: {steps: 0}\n")
    assert lines == [
        "test.yaml:1:16: data.source: needs one of 'double_pendulum', 'inverted_pendulum' or null, found the text 'double_pendulm'; did you mean 'double_pendulum'?",  # noqa: E501
        "test.yaml:2:18: model.n_layer: needs a whole number of at least 1, found the text 'fast'",
        "test.yaml:2:24: model.n_layers: unknown key 'n_layers'; did you mean 'n_layer'?",
        "test.yaml:3:16: train.steps: needs a whole number of at least 1, found the number 0",
    ]


def test_at_most_ten_errors_are_shown_and_the_rest_is_counted(refused):
    lines = refused(DATA + "train:\n" + "".join(f"  stepps{i}: 1\n" for i in range(13)))
    assert len(lines) == 11
    assert lines[-1] == "... and 3 more"


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n"])
def test_an_empty_file_misses_its_data(refused, text):
    assert refused(text) == ["test.yaml:1:1: data: missing key 'data' (trajectories)"]


def test_a_list_at_top_level_is_refused(refused):
    assert refused("- a\n") == ["test.yaml:1:1: needs a mapping of sections (data, model, train, ..)"]


def test_tabs_are_refused_with_their_place(refused):
    assert refused("data:\n\tsource: x\n") == ["test.yaml:2:1: a tab; YAML is indented with spaces"]


def test_byte_order_mark_and_crlf_are_fine(loaded):
    assert loaded("\ufeffdata:\r\n  source: double_pendulum\r\ntrain:\r\n  steps: 7\r\n").first.train.steps == 7


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "ensemble: {seeds: a}",
            "2:19: ensemble.seeds: needs a number of seeds of at least 1, or a list of seeds such as [0, 1, 7], found the text 'a'",  # noqa: E501
        ),
        ("ensemble: {seeds: [1, b]}", "2:23: ensemble.seeds.1: needs a whole number of at least 0, found the text 'b'"),
        ("ensemble: {seeds: [1, 1]}", "2:19: ensemble.seeds: the seed 1 is given twice"),
        (
            "resources: {pack: aut}",
            "2:19: resources.pack: needs 'auto' or a whole number of at least 1, found the text 'aut'; did you mean 'auto'?",  # noqa: E501
        ),
        (
            "train: 3",
            "2:8: train: needs a section with keys such as steps, batch_size, epoch_steps, optimizer, found the number 3",  # noqa: E501
        ),
        ("train: {lr: 1}", "2:9: train.lr: unknown key 'lr'; there is train.optimizer[adam].lr"),
        (
            "train: {optimizer: {name: adm}}",
            "2:27: train.optimizer.name: needs one of adam, adamw, sgd, found the text 'adm'; did you mean 'adam'?",
        ),
        (
            "train: {optimizer: {name: sgd, betas: [1, 1]}}",
            "2:32: train.optimizer.betas: unknown key 'betas'; there is train.optimizer[adam].betas",
        ),
        ("train: {optimizer: {lr: .nan}}", "2:25: train.optimizer.lr: needs a number above 0, found the number nan"),
        ("train: {optimizer: 3}", "2:20: train.optimizer: needs a section with the key 'name', found the number 3"),
        ("model: {inputs: {a: {features: [1]}}}", "2:33: model.inputs.a.features.0: needs text, found the number 1"),
        (
            "model: {inputs: {a: {}}}",
            "2:21: model.inputs.a.features: missing key 'features' (features, concatenated in this order)",
        ),
        ("model: {n_embd: 100, n_head: 3}", "2:8: model: n_embd 100 is not divisible by n_head 3"),
        ("resources: {workers: 3}", "1:1: train.batch_size 512 is not divisible by resources.workers 3"),
    ],
)
def test_an_error_says_what_is_wanted_and_what_was_found(refused, text, line):
    assert refused(DATA + text) == ["test.yaml:" + line]


def test_a_share_of_a_split_that_is_no_share_gets_one_message(refused):
    [line] = refused("data: {source: double_pendulum, split: {train: 1.5}}")
    wanted = "a fraction between 0 and 1, a number of episodes of at least 1, a list of names, or {rows: [first, end]}"
    assert line == f"test.yaml:1:48: data.split.train: needs {wanted}, found the number 1.5"


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".hidden", "a b", "a\\b", '""', "a\\nb", "x" * 101])
def test_a_name_that_would_leave_the_results_is_refused(refused, name):
    text = DATA + (f"experiment: {name}\n" if name.strip('"') else 'experiment: ""\n')
    [line] = refused(text)
    assert line.startswith("test.yaml:2:13: experiment: needs a name of letters, digits and . _ -")


def test_the_name_defaults_to_the_stem_of_the_file(tmp_path: Path):
    path = tmp_path / "my räum (2).yaml"
    path.write_text(DATA)
    assert load(path).first.experiment == "my-r-um-2-"


def test_whole_numbers_do_for_numbers_and_lists_for_tuples(loaded):
    optimizer = loaded("train: {optimizer: {name: adamw, lr: 1, betas: [0, 0.9]}}").first.train.optimizer
    assert (optimizer.lr, optimizer.betas) == (1.0, (0.0, 0.9))
    assert type(optimizer.lr) is float


def test_a_section_without_its_name_is_the_default_one(loaded):
    assert loaded("train: {schedule: {warmup_steps: 3}}").first.train.schedule.name == "linear"


def test_an_override_replaces_a_value(loaded):
    file = loaded("train: {steps: 3}", "train.steps=500", "train.optimizer.lr=1e-4", "experiment=other")
    assert (file.first.train.steps, file.first.train.optimizer.lr) == (500, 1e-4)
    assert file.first.experiment == "other"


def test_the_last_of_two_overrides_holds(loaded):
    assert loaded("", "train.steps=5", "train.steps=6").first.train.steps == 6


def test_an_override_may_give_or_replace_a_distribution(loaded):
    given = loaded("", "train.optimizer.lr={choice: [1e-3, 1e-4]}")
    assert [each.train.optimizer.lr for each in given.configurations()] == [1e-3, 1e-4]
    assert not loaded("train: {optimizer: {lr: {choice: [1, 2]}}}", "train.optimizer.lr=3").searched


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.stpes=500", "train.stpes: unknown key 'stpes'; did you mean 'steps'?"),
        ("tran.steps=500", "tran: unknown key 'tran'; did you mean 'train'?"),
        ("train.steps=x", "train.steps: needs a whole number of at least 1, found the text 'x'"),
        ("train.steps=[1", "while parsing a flow sequence, did not find expected ',' or ']'"),
        ("train.steps", "needs key=value, as in train.steps=500"),
        ("train..steps=1", "needs key=value, as in train.steps=500"),
        ("train.batch_size.x=1", "train.batch_size.x: train.batch_size has no key 'x'; it is a value"),
        ("train.optimizer.lr=1", "train.optimizer.lr: train.optimizer is a choice; set train.optimizer as a whole"),
    ],
)
def test_an_error_of_an_override_names_the_override(refused, override, line):
    text = DATA + "train:\n  batch_size: 8\n  optimizer: {choice: [{name: adam}, {name: sgd}]}\n"
    assert refused(text, override) == [f"--set {override}: {line}"]


def test_errors_of_file_and_overrides_come_together(refused):
    assert len(refused(DATA + "train: {steps: x}", "train.stepz=500", "model.n_layer=0")) == 3


def test_a_loaded_file_is_a_usage_error_with_exit_code_two(write):
    with pytest.raises(UsageError) as caught:
        load(write("a: 1"))
    assert caught.value.exit_code == 2
