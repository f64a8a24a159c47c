"""What drives an environment: the protocol of every controller, and the one that does nothing.

    controller.reset()
    chunk = controller.act(observation)      # (H, A): as many as are wanted are applied, then it is asked again

A controller takes one observation or a batch of them, with any axes in front, so the same object drives a gymnasium
environment in a script and thousands of episodes in `evaluation/closed_loop.py`.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


class Controller(Protocol):
    """From observations to chunks of actions.

    The axes in front of an observation are independent episodes, the same ones in each call from one reset to the next
    (a controller may remember things about each). For an ensemble they are (M, N): members, episodes of each.
    """

    def reset(self) -> None:
        """Forget: the next observations begin new episodes."""
        ...

    def act(self, observation: Floats) -> Floats:
        """Return the next H actions (.., H, A) from observations (.., S), in the environment's units."""
        ...


class ZeroControl:
    """Do nothing: a baseline for every environment. `actions` is the number of entries of an action."""

    def __init__(self, actions: int = 1) -> None:
        self.actions = actions

    def reset(self) -> None:
        """Forget nothing."""

    def act(self, observation: Floats) -> Floats:
        """Return one action of zeros (.., 1, A) for observations (.., S)."""
        return np.zeros((*observation.shape[:-1], 1, self.actions))
