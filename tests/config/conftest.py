"""Experiment files written for one test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.config import ExperimentFile, load
from ensemble.errors import UsageError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file named test.yaml."""

    def _write(text: str) -> Path:
        path = tmp_path / "test.yaml"
        path.write_bytes(text.encode())
        return path

    return _write


@pytest.fixture
def loaded(write: Write) -> Callable[..., ExperimentFile]:
    """Load a file of the given text, with a data section if it has none."""

    def _loaded(text: str, *overrides: str) -> ExperimentFile:
        return load(write(text if "data:" in text else "data: {source: double_pendulum}\n" + text), overrides)

    return _loaded


@pytest.fixture
def refused(write: Write) -> Callable[..., list[str]]:
    """Return the lines of the error that a file of the given text gives, without its folder."""

    def _refused(text: str, *overrides: str) -> list[str]:
        path = write(text)
        with pytest.raises(UsageError) as caught:
            load(path, overrides)
        return str(caught.value).replace(str(path), "test.yaml").split("\n")

    return _refused
