"""The description of a member's weights, model.json: what was changed in it is told, not met in a traceback."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ensemble.errors import StorageError
from ensemble.training.weights import read_config, read_features, read_normalization

FEATURE = {"name": "state", "width": 1, "role": "state", "labels": ["x"], "angles": [False]}


@pytest.mark.parametrize(
    ("read", "part"),
    [
        (read_features, {"features": [{name: FEATURE[name] for name in FEATURE if name != "width"}]}),
        (read_features, {"features": ["state"]}),
        (read_normalization, {"normalization": {"tarfet_mean": [0.0]}}),
        (read_normalization, {"normalization": {"mean": ["a"]}}),
        (read_config, {"model": {"family": "gpt_eynamics"}}),
        (read_config, {"model": {"family": "gpt_dynamics", "block_rize": 4}}),
    ],
)
def test_a_changed_model_file_is_damaged_and_named(
    read: Callable[[Mapping[str, Any]], object], part: Mapping[str, Any]
) -> None:
    with pytest.raises(StorageError, match=r"model.json of 0123456789ab-s1: damaged: "):
        read({"config_hash": "0123456789ab", "seed": 1, **part})
