"""Which systems there are: every module of a family's folder is imported, and registers itself by decorator.

Modules of one's own, outside this project, are named in the variable LESIONFLOW_SYSTEMS, by comma.
"""

import importlib
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_type_hints

import models
from models.config import Config, validated
from models.errors import ModelError
from models.system import System

OWN_SYSTEMS = "LESIONFLOW_SYSTEMS"
FAMILIES = (
    "localization",
    "segmentation",
    "detection",
    "classification",
    "synthesis",
    "reconstruction",
    "registration",
    "representation",
    "normative",
)


@dataclass(frozen=True)
class RegisteredSystem:
    """A system by name: its family decides its metrics, `paper` is the reference shown to users."""

    name: str
    family: str
    paper: str
    system: type[System]
    config: type[Config]


_registered: dict[str, RegisteredSystem] = {}
S = TypeVar("S", bound=type[System])


def system(name: str, *, family: str, paper: str) -> Callable[[S], S]:
    """Register a System class; the type of its configuration is the annotation of its `config`."""
    if family not in FAMILIES:
        raise ModelError(f"system '{name}' names the family '{family}'; families are: {', '.join(FAMILIES)}")

    def register(cls: S) -> S:
        known = _registered.get(name)
        if known is not None and known.system.__module__ != cls.__module__:
            raise ModelError(f"two systems are called '{name}': {known.system.__module__} and {cls.__module__}")
        cls.name = name
        _registered[name] = RegisteredSystem(name, family, paper, cls, get_type_hints(cls)["config"])
        return cls

    return register


def systems() -> dict[str, RegisteredSystem]:
    """Every system by name, sorted."""
    _import_families()
    return dict(sorted(_registered.items()))


def registered(name: str) -> RegisteredSystem:
    """The system called `name`; ModelError names the known ones."""
    known = systems()
    if name not in known:
        raise ModelError(f"no system is called '{name}'; there are: {', '.join(known)}")
    return known[name]


def build(name: str, config: dict[str, Any]) -> System:
    """A fresh system; what `config` leaves out is the paper's. ModelError names the wrong field."""
    entry = registered(name)
    return entry.system(validated(entry.config, config, where=name))


def restore(checkpoint: dict[str, Any]) -> System:
    """The trained system of a loaded Lightning checkpoint."""
    try:
        described = checkpoint["hyper_parameters"]
        trained = build(described["system"], described["config"])
        trained.load_state_dict(checkpoint["state_dict"])
    except KeyError as error:
        raise ModelError(
            f"the checkpoint has no {error}: it was not written by training a registered system"
        ) from error
    return trained


@cache
def _import_families() -> None:
    for family in pkgutil.iter_modules(models.__path__, "models."):
        if family.name.removeprefix("models.") in FAMILIES:
            package = importlib.import_module(family.name)
            for module in pkgutil.iter_modules(package.__path__, f"{family.name}."):
                importlib.import_module(module.name)
    for own in filter(None, os.environ.get(OWN_SYSTEMS, "").split(",")):
        try:
            importlib.import_module(own.strip())
        except ModuleNotFoundError as error:
            raise ModelError(f"{OWN_SYSTEMS} names {own.strip()!r}: {error}") from error
