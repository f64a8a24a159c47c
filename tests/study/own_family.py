"""The config of a model family that the package does not know: files name it `own_family:TanhConfig`."""

from typing import ClassVar

from pydantic import Field

from ensemble.config.family import DynamicsConfig


class TanhConfig(DynamicsConfig):
    """One hidden layer from a point to the change of its state."""

    network: ClassVar[str] = "own_network:TanhNetwork"

    width: int = Field(8, ge=1, description="hidden units")
    gains: tuple[float, float] = Field((1.0, 1.0), description="of the hidden layer and of the output")
