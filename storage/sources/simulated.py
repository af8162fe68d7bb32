"""What all simulators share: an address such as `sim:fundus?cases=200&size=128&seed=0`, and random numbers by place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from storage.errors import SourceError


@dataclass(frozen=True)
class Parameters:
    """What one simulator's address may say: whole numbers within limits, and folders; `known` lists them in words."""

    address: str
    known: str
    limits: Mapping[str, tuple[int, int]]
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """What an address says."""

    numbers: dict[str, int] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)


def parse(address: str, allowed: Parameters) -> Given:
    """The numbers and folders of `address`; a `&` inside a folder's name is written %26.

    Raises:
        SourceError: another simulator, a name that is unknown or given twice, a bad number, a folder that is not there.
    """
    simulator, _, query = address.partition("?")
    if simulator != allowed.address:
        raise SourceError(f"{address}: no such simulator; it should read {allowed.address}?cases=200&size=128&seed=0.")
    given = Given()
    for name, _, text in (option.partition("=") for option in query.split("&") if option):
        if name in given.numbers or name in given.folders:
            raise SourceError(f"{address}: parameter '{name}' is given twice; it takes {allowed.known}.")
        if name in allowed.limits:
            given.numbers[name] = _whole_number(address, name, unquote(text), allowed)
        elif name in allowed.folders:
            given.folders[name] = _folder(address, name, unquote(text))
        else:
            raise SourceError(f"{address}: parameter '{name}' is unknown; it takes {allowed.known}.")
    return given


def stream(seed: int, *place: int) -> np.random.Generator:
    """The random numbers that belong to one place of a cohort and to no other."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


def _whole_number(address: str, name: str, text: str, allowed: Parameters) -> int:
    low, high = allowed.limits[name]
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise SourceError(
            f"{address}: {name}='{text}' is not a whole number from {low} to {high}; it takes {allowed.known}."
        )
    return int(text)


def _folder(address: str, name: str, text: str) -> Path:
    folder = Path(text).expanduser()
    if not text or not folder.is_dir():
        raise SourceError(f"{address}: {name}='{text}' is not a folder.")
    return folder.resolve()
