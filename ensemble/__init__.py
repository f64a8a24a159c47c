"""Distributed training of robot-learning ensembles."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble.training.load import Ensemble, load

__all__ = ["Ensemble", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `load` and `Ensemble` when they are asked for: torch is heavy."""
    if name in ("Ensemble", "load"):
        from ensemble.training import load as module

        return getattr(module, name)
    raise AttributeError(f"module 'ensemble' has no attribute {name!r}")
