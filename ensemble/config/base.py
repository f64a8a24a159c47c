"""The base of every section of an experiment file: frozen, no unknown keys, no silent conversion of kinds."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of an experiment file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)
