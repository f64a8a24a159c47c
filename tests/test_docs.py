"""The pages tell the truth: commands, options, links and figures exist, made parts are fresh, examples run.

Run as a script, it makes the made parts anew: `python tests/test_docs.py`.
"""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from pages import (
    DOCS,
    MADE,
    PAGES,
    PURPOSE,
    README,
    ROOT,
    anchors,
    blocks,
    broken_links,
    commands,
    ensemble_arguments,
    examples,
    folder_map,
    hidden_words,
    made_parts,
    make_targets,
    missing_modules,
    missing_paths,
    modules_of,
    package_folders,
    quoted_means,
    ragged_rows,
    unknown_make_targets,
    with_parts,
    wrong_names,
)
from reporting.synthetic_run import build_run
from test_architecture import FLOORS

from ensemble.config import load

EXTENDING = DOCS / "extending.md"
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize("name", NAMES)


@each_page
def test_every_command_exists_with_these_options(name: str) -> None:
    lines = [ensemble_arguments(words) for words in commands((ROOT / name).read_text())]
    program = importlib.import_module("ensemble.cli").cli
    wrong = {shlex.join(line): wrong_names(program, line) for line in lines if line is not None}
    assert wrong or name != "README.md"
    assert not {line: names for line, names in wrong.items() if names}


@each_page
def test_every_make_target_and_every_module_of_a_command_exists(name: str) -> None:
    targets = make_targets((ROOT / "Makefile").read_text())
    lines = list(commands((ROOT / name).read_text()))
    assert name != "README.md" or any(words[0] == "make" for words in lines)
    goals = [goal for words in lines if words[0] == "make" for goal in unknown_make_targets(words, targets)]
    assert not [*goals, *(module for words in lines for module in missing_modules(words, ROOT))]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith(("LOG.md", "CHANGELOG.md"))])
def test_every_path_in_the_text_exists(name: str) -> None:
    assert not missing_paths((ROOT / name).read_text(), ROOT)


@each_page
def test_every_link_leads_somewhere(name: str) -> None:
    assert not broken_links(ROOT / name, (ROOT / name).read_text())


@each_page
def test_every_row_of_a_table_has_the_cells_of_its_header(name: str) -> None:
    assert not ragged_rows((ROOT / name).read_text())


@each_page
def test_no_word_is_hidden_as_a_tag(name: str) -> None:
    assert not hidden_words((ROOT / name).read_text())


@each_page
def test_every_block_of_python_is_python(name: str) -> None:
    for block in blocks((ROOT / name).read_text(), "python"):
        ast.parse(block)


@each_page
def test_every_block_of_yaml_is_an_experiment_or_a_part_of_one(name: str, tmp_path: Path) -> None:
    for block in blocks((ROOT / name).read_text(), "yaml"):
        data = "" if re.search(r"^data:", block, re.MULTILINE) else "data: {source: double_pendulum}\n"
        (tmp_path / "example.yaml").write_text(data + block)
        load(tmp_path / "example.yaml")


@each_page
def test_every_made_part_is_fresh(name: str) -> None:
    text = (ROOT / name).read_text()
    assert with_parts(text) == text, "run: python tests/test_docs.py"


def test_every_part_that_can_be_made_stands_on_a_page() -> None:
    assert sorted(part for page in PAGES for part in made_parts(page.read_text())) == sorted(MADE)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("results/", "CHANGELOG"))])
def test_every_quoted_mean_is_in_the_log_or_its_tables(name: str) -> None:
    measured = [ROOT / "results" / "LOG.md", *sorted((ROOT / "results" / "tables").glob("*.md"))]
    known = set().union(*(quoted_means(page.read_text()) for page in measured))
    assert not quoted_means((ROOT / name).read_text()) - known


def test_the_readme_is_short_and_its_map_is_the_package() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 170
    assert folder_map(text) == package_folders(ROOT)


def test_the_readme_links_to_every_page_of_docs() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+\.md)", README.read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")}


def test_every_floor_has_a_purpose() -> None:
    assert PURPOSE.keys() == set(FLOORS.values())


SECTIONS = examples(EXTENDING.read_text())


@pytest.mark.parametrize("section", SECTIONS)
def test_the_examples_of_extending_run(section: str, tmp_path: Path) -> None:
    files, script = SECTIONS[section]
    build_run(tmp_path / "results" / "double_pendulum")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    run_python(script, tmp_path)


def test_the_one_liners_of_the_results_page_run(tmp_path: Path) -> None:
    build_run(tmp_path / "wide")
    (script,) = blocks((DOCS / "results.md").read_text(), "python")
    run_python(script, tmp_path)


def run_python(script: str, folder: Path) -> None:
    """Run a script in a folder as a program would be; what it prints on an error is the failure."""
    (folder / "example.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# Each check finds what it is for.


def test_a_module_that_is_missing_from_the_list_is_found(tmp_path: Path) -> None:
    (tmp_path / "ensemble").mkdir()
    (tmp_path / "ensemble" / "a.py").write_text('"""First line.\n\nMore."""')
    before = modules_of(tmp_path)
    assert "- [`a.py`](../ensemble/a.py): First line\n" in before
    (tmp_path / "ensemble" / "b.py").write_text('"""Another."""')
    assert modules_of(tmp_path) != before


@click.group()
def example() -> None: ...


@example.command()
@click.option("--space", "-s")
@click.option("--trace/--no-trace")
@click.argument("file")
def tune(**_: object) -> None: ...


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("tune --space a.yaml file", []),
        ("tune --space=a.yaml -s b --no-trace -1", []),
        ("--help", []),
        ("tune --help", []),
        ("tnue --space a.yaml", ["tnue"]),
        ("tune --spaec a.yaml", ["--spaec"]),
    ],
)
def test_a_wrong_command_or_option_is_found(line: str, wrong: list[str]) -> None:
    assert wrong_names(example, line.split()) == wrong


def test_commands_are_found_in_pipes_continuations_and_job_submissions() -> None:
    text = """```bash
    cd x && ensemble tune \\
        --space a.yaml   # comment
    RAY_AUTH_MODE=token ray job submit --working-dir . -- ensemble report "a b"
    .venv/bin/python -m ensemble schema
    .venv/bin/ensemble inspect a | less
    ray job submit -- python ensemble
    ```""".replace("\n    ", "\n")
    found = [ensemble_arguments(words) for words in commands(text)]
    assert [line for line in found if line is not None] == [
        ["tune", "--space", "a.yaml"],
        ["report", "a b"],
        ["schema"],
        ["inspect", "a"],
    ]


def test_a_make_target_that_does_not_exist_is_found() -> None:
    assert unknown_make_targets(["make", "-C", "a/b", "tune", "SPACE=x.yaml"], {"tune"}) == []
    assert unknown_make_targets(["make", "-C", "a/b", "tnue"], {"tune"}) == ["tnue"]


def test_a_module_of_a_command_that_does_not_exist_is_found() -> None:
    assert missing_modules(["python", "-m", "benchmarks.search.search"], ROOT) == []
    assert missing_modules(["python", "-m", "ensemble"], ROOT) == []
    assert missing_modules(["python", "-m", "benchmarks.search"], ROOT) == ["benchmarks.search"]  # a folder only
    assert missing_modules(["python", "-m", "ensemble.cil"], ROOT) == ["ensemble.cil"]


def test_a_path_that_does_not_exist_is_found() -> None:
    assert missing_paths("`ensemble/store.py` `training/loop` `tests/models/` `results/x` `a/b`", ROOT) == []
    assert missing_paths("`ensemble/stroe.py` `training/lop` `python -m ensemble.cil`", ROOT) == [
        "ensemble/stroe.py",
        "training/lop",
        "ensemble.cil",
    ]


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `b.c`, two\n")
    page = tmp_path / "page.md"
    good = "[a](other.md) [b](other.md#one-bc-two) ![c](https://x.org/y) [d](#here)\n\n## Here\n"
    page.write_text(good)
    assert broken_links(page, good) == []
    assert broken_links(page, "[a](none.md) [b](other.md#two) [d](#here) `[e](code.md)`") == [
        "none.md",
        "other.md#two",
        "#here",
    ]


def test_headings_are_named_as_github_names_them() -> None:
    assert anchors("# A *b* (c)\n## `x.y`, z\n## A b c\n") == {"a-b-c", "xy-z", "a-b-c-1"}


def test_a_ragged_table_is_found() -> None:
    assert ragged_rows("| a | b |\n| - | - |\n| 1 | 2 \\| 3 |\n") == []
    assert ragged_rows("| a | b |\n| - | - |\n| 1 | 2 | 3 |\n") == ["| 1 | 2 | 3 |"]
    assert ragged_rows("| a | b |\n| 1 | 2 |\n") == ["| a | b |"]


def test_a_hidden_word_is_found() -> None:
    assert hidden_words("results/<name> `results/<name>` a < b <!-- note -->") == ["<name>"]


def test_a_mean_that_nobody_measured_is_found() -> None:
    assert quoted_means("0.95 ± 0.01 and .3 ± .02\n```console\n1 ± 2\n```\n") == {".95 ± .01", ".3 ± .02"}


def test_files_and_script_of_an_example_are_told_apart() -> None:
    text = "# T\n\n## One\n\n```python\n# a.py\nx = 1\n```\n\n```python\nimport a\n```\n\n## Two\n\nNo code.\n"
    assert examples(text) == {"One": ({"a.py": "# a.py\nx = 1\n"}, "import a\n")}


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_parts(page.read_text()))
