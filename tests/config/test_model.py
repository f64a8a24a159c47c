"""The model section is one of several families, distinguished by `family`."""

import pytest
from pydantic import TypeAdapter, ValidationError

from ensemble.config.model import GPTDynamicsConfig, ModelConfig, input_features
from ensemble.config.policy import Pi0Config, Pi0FastConfig
from ensemble.errors import UsageError
from ensemble.schema import Feature

MODEL = TypeAdapter(ModelConfig)
STATE = Feature("q", 2, "state", ("q0", "q1"), (False, False))
FORCE = Feature("u", 1, "control", ("u",), (False,))


def test_a_section_without_family_is_a_gpt_dynamics_model() -> None:
    assert MODEL.validate_python({"history": 5}) == GPTDynamicsConfig(history=5)
    assert MODEL.validate_json("{}") == GPTDynamicsConfig()
    assert MODEL.validate_python({"family": "pi0", "chunk": 8}) == Pi0Config(chunk=8)
    assert isinstance(MODEL.validate_python({"family": "pi0_fast"}), Pi0FastConfig)


def test_every_family_says_its_task_and_the_transitions_of_a_window() -> None:
    said = {(c.family, c.task, c.window) for c in (GPTDynamicsConfig(history=7), Pi0Config(), Pi0FastConfig(chunk=9))}
    assert said == {("gpt_dynamics", "dynamics", 7), ("pi0", "policy", 50), ("pi0_fast", "policy", 9)}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"family": "pi0", "n_embd": 10}, "n_embd 10 is not divisible by n_head 4"),
        ({"family": "pi0", "n_embd": 3, "n_head": 1, "time_embedding": "sinusoidal"}, "needs an even n_embd"),
        ({"family": "pi0", "history": 3}, "history"),
        ({"family": "pi0_fast", "tokenizer": {"max_length": 2}}, "max_length"),
        ({"family": "pi1"}, "pi1"),
    ],
)
def test_what_does_not_fit_is_refused(section: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MODEL.validate_python(section)


def test_a_policy_reads_every_state_and_answers_with_every_control() -> None:
    assert input_features(Pi0Config(), (FORCE, STATE)) == {"observation": ("q",), "action": ("u",)}
    with pytest.raises(UsageError, match=r"family pi0_fast: none of the features is a control"):
        input_features(Pi0FastConfig(), (STATE,))
