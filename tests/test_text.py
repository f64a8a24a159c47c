"""Common formatting: counts with their nouns, and commands for a shell."""

import shlex

from ensemble.text import command, plural


def test_one_of_a_thing_is_singular() -> None:
    assert [plural(count, "finalist") for count in (0, 1, 2)] == ["0 finalists", "1 finalist", "2 finalists"]
    assert plural(1000, "point", ",") == "1,000 points"
    assert plural(1.0, "combination", ",.0f") == "1 combination"


def test_a_command_is_taken_apart_into_the_words_it_was_made_of() -> None:
    words = ["ensemble", "resume", "/my runs/it's $HOME", "#12", "--set", "data.path=a b"]
    assert shlex.split(command(*words)) == words
    assert command("ensemble", "report", "results/a") == "ensemble report results/a"
