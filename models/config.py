"""Configuration is data: what a system can be told, with the paper's values as defaults."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import ModelError


class Config(BaseModel):
    """Base of every configuration: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Config)


def validated(kind: type[C], config: dict[str, Any], *, where: str) -> C:
    """`config` as a `kind`; every wrong field in the one line of a ModelError."""
    try:
        return kind.model_validate(config)
    except ValidationError as error:
        raise ModelError(f"{where}: {'; '.join(_complaints(error))}") from error


def with_section(config: C, section: str, settings: Mapping[str, Any], *, where: str) -> C:
    """`config` with `settings` on top of its section of that name; ModelError where they do not fit."""
    whole = config.model_dump()
    return validated(type(config), {**whole, section: {**whole[section], **settings}}, where=where)


def _complaints(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        field = ".".join(str(part) for part in fault["loc"])
        match fault["type"]:
            case "extra_forbidden":
                yield f"{field} is not a setting"
            case "value_error":
                yield f"{field}: {fault['ctx']['error']}" if field else str(fault["ctx"]["error"])
            case _:
                yield f"{field}: {fault['msg']}, not {fault['input']!r}"
