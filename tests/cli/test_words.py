"""What the command line says of itself, and how it is told a file: help, completion, arguments and options."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ensemble.cli import cli

Run = Callable[..., subprocess.CompletedProcess[str]]
ENSEMBLE = "data: {source: double_pendulum}\n"


def called(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, terminal_width=80, prog_name="ensemble")


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_every_help_fits_eighty_columns(name: str) -> None:
    result = called(*filter(None, (name, "--help")))
    assert result.exit_code == 0
    assert [line for line in result.output.splitlines() if len(line) > 80] == []


def test_no_summary_of_a_command_is_cut() -> None:
    text = called("--help").output
    assert "..." not in text.partition("Commands:")[2]
    for name, command in cli.commands.items():
        first = " ".join((command.help or "").split("\n\n")[0].split())
        assert first[:30] in " ".join(text.split()), name


@pytest.mark.parametrize("arguments", [("space.yaml",), ("--space", "space.yaml"), ("space", "--space", "space")])
def test_tune_takes_its_file_as_argument_or_option(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "space.yaml").write_text(ENSEMBLE)
    refused = run("tune", *arguments, "--set", "train.stps=3")
    assert refused.returncode == 2
    assert "train.stps: unknown key" in refused.stderr


def test_train_and_plan_take_their_file_both_ways_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(ENSEMBLE)
    for words in (("train", "mine.yaml"), ("train", "--config", "mine"), ("plan", "--config", "mine.yaml")):
        assert "train.stps: unknown key" in run(*words, "--set", "train.stps=3").stderr


def test_two_files_and_no_file_are_refused_in_words(run: Run) -> None:
    two, none = run("train", "a.yaml", "--config", "b.yaml"), run("tune")
    assert (two.returncode, none.returncode) == (2, 2)
    assert "two experiment files, a.yaml and --config b.yaml; give one" in two.stderr
    assert "no experiment file; as in `ensemble tune quickstart`" in none.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("ensemble tune --space q", "plain,quickstart.yaml"),
        ("ensemble train mi", "plain,mine.yaml"),
        ("ensemble plan far/", "file,far/"),
        ("ensemble expl", "plain,explain"),
        ("ensemble report re", "dir,re"),
    ],
)
def test_the_shell_completes_commands_and_files(run: Run, tmp_path: Path, words: str, offered: str) -> None:
    (tmp_path / "mine.yaml").write_text(ENSEMBLE)
    given = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_ENSEMBLE_COMPLETE": "bash_complete"}
    assert run(**given).stdout.splitlines() == [offered]


def test_the_package_lists_what_it_hands_out_without_loading_it() -> None:
    code = "import ensemble, sys; print(*dir(ensemble)); assert 'torch' not in sys.modules"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"load", "load_policy", "Ensemble", "PolicyEnsemble", "__version__"} <= set(listed)


def test_commands_come_in_the_order_in_which_one_needs_them() -> None:
    assert list(cli.commands)[:6] == ["simulate", "inspect", "convert", "plan", "train", "tune"]
    assert cli.list_commands(click.Context(cli)) == list(cli.commands)
