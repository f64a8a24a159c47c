"""Distributed training of robot-learning ensembles."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble.closed_loop.load_policy import PolicyEnsemble, load_policy
    from ensemble.training.load import Ensemble, load

__all__ = ["Ensemble", "PolicyEnsemble", "__version__", "load", "load_policy"]
__version__ = "0.1.0"

# Lazy, so that `import ensemble` for the version or for `--help` does not import torch.
_LAZY = {
    "Ensemble": "ensemble.training.load",
    "load": "ensemble.training.load",
    "PolicyEnsemble": "ensemble.closed_loop.load_policy",
    "load_policy": "ensemble.closed_loop.load_policy",
}


def __dir__() -> list[str]:
    """List what can be imported from here, loaded or not."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import the loaders of members on first access."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ensemble' has no attribute {name!r}")
