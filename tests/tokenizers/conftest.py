import pytest
from action_chunks import oscillations

from ensemble.tokenizers.tokenizer import ActionTokenizer


@pytest.fixture(scope="session", params=["tiny", "fast"])
def fitted(request) -> ActionTokenizer:
    """A tokenizer of each kind, fitted to 500 chunks (20, 2)."""
    return ActionTokenizer.fit(oscillations(500, 20, 2), request.param)
