"""README.md tells the truth: its list of files is the package, its commands exist with these options.

Run as a script, it writes the list of files anew, from the first line of each module's docstring.
"""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BESIDE = {
    "search_spaces/": "experiment files",
    "cluster/": "how to run on more than this machine",
    "benchmarks/": "ratios against what one would use instead",
    "tests/": "mirrors ensemble/",
}


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def file_list(root: Path) -> str:
    """Write one line for each module of the package that says something, and for each folder beside it."""
    modules = {str(path.relative_to(root)): first_line(path) for path in sorted((root / "ensemble").rglob("*.py"))}
    lines = {**modules, **{folder: text for folder, text in BESIDE.items() if (root / folder).is_dir()}}
    return "".join(f"{path:<40} {text}\n" for path, text in lines.items() if text)


def first_line(module: Path) -> str:
    return (ast.get_docstring(ast.parse(module.read_text())) or "").split("\n")[0].rstrip(".")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command line in the ```bash blocks, without comments, each part of a pipe or list by itself."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;"):
                    if words:
                        yield words
                    words = []
                else:
                    words.append(word)


def ensemble_arguments(words: list[str]) -> list[str] | None:
    """What follows `ensemble` or `python -m ensemble` where one runs it, itself or behind `ray job submit --`."""
    settings = sum(1 for _ in takewhile(lambda word: re.match(r"\w+=", word), words))  # NAME=value before a program
    words = words[settings:]
    if words[:1] == ["ray"] and "--" in words:
        words = words[words.index("--") + 1 :]
    if [Path(word).name for word in words[:3]] == ["python", "-m", "ensemble"]:
        return words[3:]
    return words[1:] if words and Path(words[0]).name == "ensemble" else None


def wrong_names(main: click.Command, arguments: list[str]) -> list[str]:
    """Commands and options among the arguments that the command line doesn't know."""
    command, rest = main, list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            return [rest[0]]
        command, rest = found, rest[1:]
    context = click.Context(command, help_option_names=["--help", "-h"])  # as the program sets them
    known = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.split("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
    return [name for name in given if name not in known]


def make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def unknown_make_targets(words: list[str], targets: set[str]) -> list[str]:
    folder = {place + 1 for place, word in enumerate(words) if word == "-C"}
    goals = [word for place, word in enumerate(words) if place and place not in folder]
    return [word for word in goals if "=" not in word and not word.startswith("-") and word not in targets]


def test_the_list_of_files_is_the_package() -> None:
    (listed,) = blocks(README.read_text(), "text")
    assert paths(listed) == paths(file_list(ROOT)), "run: python tests/test_readme.py"


def paths(listed: str) -> list[str]:
    return [line.split()[0] for line in listed.splitlines()]


def test_every_command_exists_with_these_options() -> None:
    lines = [ensemble_arguments(words) for words in commands(README.read_text())]
    program = importlib.import_module("ensemble.cli").cli
    wrong = {shlex.join(line): wrong_names(program, line) for line in lines if line is not None}
    assert wrong
    assert not {line: names for line, names in wrong.items() if names}


def test_every_make_target_exists() -> None:
    targets = make_targets((ROOT / "Makefile").read_text())
    lines = [words for words in commands(README.read_text()) if words[0] == "make"]
    assert lines
    assert not [name for words in lines for name in unknown_make_targets(words, targets)]


def test_a_file_that_is_missing_from_the_list_is_found(tmp_path: Path) -> None:
    (tmp_path / "ensemble").mkdir()
    (tmp_path / "ensemble" / "a.py").write_text('"""First line.\n\nMore."""')
    before = file_list(tmp_path)
    assert re.fullmatch(r"ensemble/a\.py +First line\n", before)
    (tmp_path / "ensemble" / "b.py").write_text('"""Another."""')
    assert file_list(tmp_path) != before


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


if __name__ == "__main__":
    README.write_text(
        re.sub(
            r"^```text\n.*?^```$",
            lambda _: f"```text\n{file_list(ROOT)}```",
            README.read_text(),
            count=1,
            flags=re.MULTILINE | re.DOTALL,
        )
    )
