"""Every path that a message proposes can be set: a hint is executed as it stands."""

import json
import re
from pathlib import Path

import pytest

from ensemble.config import Experiment, load
from ensemble.config.base import Section
from ensemble.config.fields import has_default, keys_of
from ensemble.config.hints import _ELSEWHERE
from ensemble.errors import UsageError

NAMES = sorted({key.path.rpartition(".")[2] for key in keys_of(Experiment)} | set(_ELSEWHERE))
PLACES = ("", "data.", "model.", "train.", "train.optimizer.", "train.schedule.", "search.", "ensemble.", "resources.")
FILES = {
    "defaults": "data: {source: double_pendulum}\n",
    "a policy, sgd": "data: {source: inverted_pendulum}\nmodel: {family: pi0_fast}\ntrain: {optimizer: {name: sgd}}\n",
    "searched": "data: {source: double_pendulum}\ntrain: {optimizer: {lr: {choice: [1e-3, 1e-2]}}}\n",
}
DEFAULTS = {key.path: key.default if has_default(key) else None for key in keys_of(Experiment)}


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "file.yaml"
    path.write_text(FILES[request.param])
    return path


def refusal(file: Path, override: str) -> str:
    """Return why an override is refused; empty where it is not."""
    try:
        load(file, [override])
    except UsageError as error:
        return str(error)
    return ""


def proposals(message: str) -> list[str]:
    """Return the paths, and the whole members, that a message proposes."""
    if whole := re.search(r"for that, set (\S+=.*)$", message):
        return [whole[1]]
    relative = re.search(r"(?:^|: )([\w.]+): unknown key '(\w*)'", message)
    near = re.search(r"did you mean '([\w.]+)'", message)
    assert relative, message
    inside = [f"{relative[1].rpartition('.')[0]}.{near[1]}".lstrip(".")] if near else []
    named = re.search(r"; there is (.+)$", message) or re.search(r"(?:or|mean) ([a-z][\w.]+)\?$", message)
    return [*inside, *(named[1].split(" and ") if named else [])]


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_every_proposed_path_is_a_key_that_can_be_set(file: Path, every: int) -> None:
    seen = set()
    for number, place in enumerate(PLACES):
        for name in NAMES[number % every :: every]:
            message = refusal(file, f"{place}{name}=null")
            if f"unknown key '{name}'" in message:
                seen |= set(proposals(message))
    assert {"train.optimizer.lr", "train.steps", "train.optimizer={name: sgd, momentum: ..}"} & seen
    for proposal in sorted(seen):
        path, _, whole = proposal.partition("=")
        value = whole.replace("..", json.dumps(value_of(proposal))) if whole else json.dumps(value_of(path))
        refused = refusal(file, f"{path}={value}")
        assert "unknown key" not in refused, (proposal, refused)
        assert "has no key" not in refused, (proposal, refused)


def value_of(proposal: str) -> object:
    """Return a value for the last name of a proposal: its default, if it has one."""
    name = re.findall(r"\w+", proposal.replace("..", ""))[-1]
    default = next(value for path, value in DEFAULTS.items() if path.rpartition(".")[2] == name)
    return default.model_dump(mode="json") if isinstance(default, Section) else default
