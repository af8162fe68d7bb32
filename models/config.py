"""Configuration is data: what a system can be told, with the paper's values as defaults."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every configuration: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
