"""Experiment files small enough to train in a test."""

from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """\
# Does the learning rate matter?
# It is a test.
experiment: tiny
data: {source: double_pendulum, simulate: {episodes: 12, steps: 24}}
model: {n_layer: 1, n_head: 2, n_embd: 8, history: 5, block_size: 8, head: {layer_sizes: [8]}}
train:
  steps: 20
  batch_size: 8
  optimizer: {name: adam, lr: {choice: [1e-3, 1e-2]}}
  rollout: {horizon: 5, windows: 16}
search: {sampler: grid, pruner: none, seeds: 2}
ensemble: {finalists: 0}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Write the tiny experiment, each pair of texts replaced, and return its file."""

    def write(*replaced: tuple[str, str]) -> Path:
        text = TINY
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return path

    return write
