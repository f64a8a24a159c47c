"""The protocol of controllers of an environment, and the zero controller.

    controller.reset()
    chunk = controller.act(observation)      # (H, A): the caller applies the first k <= H actions, then calls again

A controller takes one observation or a batch with any leading axes, so the same object controls a gymnasium environment
in a script and thousands of episodes in `closed_loop/episodes.py`.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


class Controller(Protocol):
    """From observations to chunks of actions.

    The leading axes of an observation are independent episodes, the same ones in each call until the next reset, so a
    controller may keep a state for each. For an ensemble they are (M, N): members, episodes of each.
    """

    def reset(self) -> None:
        """Clear all state: the next observations begin new episodes."""
        ...

    def act(self, observation: Floats) -> Floats:
        """Return the next H actions (.., H, A) from observations (.., S), in the environment's units."""
        ...


class ZeroControl:
    """Zero actions: a baseline for every environment. `actions` is the number of entries of an action."""

    def __init__(self, actions: int = 1) -> None:
        self.actions = actions

    def reset(self) -> None:
        """Do nothing: there is no state."""

    def act(self, observation: Floats) -> Floats:
        """Return one action of zeros (.., 1, A) for observations (.., S)."""
        return np.zeros((*observation.shape[:-1], 1, self.actions))
