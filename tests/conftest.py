"""What several test folders share: small data sets in memory, experiment files that train in a test, one local Ray."""

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from ensemble.data.trajectories import Segments, Trajectories
from ensemble.schema import Feature

hypothesis.settings.register_profile("ours", deadline=None)  # no time is asserted in a test
hypothesis.settings.load_profile("ours")

MakeData = Callable[..., Trajectories]

FEATURES = (
    Feature("states", 4, "state", ("q0", "q1", "qd0", "qd1"), (True, True, False, False)),
    Feature("joint_acts", 2, "control", ("joint_acts[0]", "joint_acts[1]"), (False, False)),
)


@pytest.fixture
def make_data() -> MakeData:
    """Build a data set of random episodes of the given numbers of points, features `states` (4), `joint_acts` (2)."""

    def make(points: list[int], seed: int = 0, given: list[str | None] | None = None) -> Trajectories:
        random = np.random.default_rng(seed)
        lengths = np.array(points, dtype=np.int64)
        rows = random.normal(0, 3, (lengths.sum(), 6)).astype(np.float32)
        ends = np.cumsum(lengths)
        rows[ends - 1, 4:] = 0
        rows.setflags(write=False)
        hashes = random.integers(0, 2**64, len(points), dtype=np.uint64)
        return Trajectories(
            rows,
            FEATURES,
            Segments(ends - lengths, lengths, hashes),
            tuple(f"demo_{i}" for i in range(len(points))),
            tuple(given or [None] * len(points)),
            "fingerprint",
            0.1,
        )

    return make


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray of two CPUs for the whole session; a test that asks for it needs the marker `ray`."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=500_000_000)
    yield
    ray.shutdown()


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
