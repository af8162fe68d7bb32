"""What all simulators share: an address such as `sim:fundus?cases=200&size=128&seed=0`, random numbers by place, and
cases that are listed by number without drawing any."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from storage.case import Case, Listed
from storage.errors import SourceError
from storage.geometry import Geometry, plain


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
        raise SourceError(f"{address}: no such simulator; it should read {allowed.address}?cases=200&seed=0.")
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


def digest(*parts: object) -> str:
    """SHA-256 of all that decides a picture."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def number_of(key: Listed) -> int:
    """The place in its cohort of the case that `key` stands for."""
    return int(key.file.rpartition("#")[2])


class SimulatedCohort(ABC):
    """`cases` images; `detail` says how finely, as the address does (`size=128`), `given` what it says besides."""

    dims: tuple[str, ...]
    channels: tuple[str, ...]

    def __init__(self, simulator: str, cases: int, detail: str, seed: int, given: str = ""):
        self.cases = cases
        self.seed = seed
        self.address = f"{simulator}?cases={cases}&{detail}&seed={seed}{given}"
        self._file = f"{simulator}?{detail}&seed={seed}{given}"

    @property
    @abstractmethod
    def grid(self) -> tuple[int, ...]:
        """The shape that all cases share."""

    def listing(self) -> Sequence[Listed]:
        """One entry a case, in order, without drawing anything."""
        return self._listed

    @cached_property
    def _listed(self) -> tuple[Listed, ...]:
        return tuple(Listed(f"{self._file}#{number}", *self._ids(number)) for number in range(self.cases))

    @abstractmethod
    def _ids(self, number: int) -> tuple[str, str]:
        """Case and patient id."""

    @abstractmethod
    def sha256(self, key: Listed) -> str:
        """Digest of all that decides the picture."""

    def _imaged(
        self,
        key: Listed,
        image: np.ndarray,
        labels: dict[str, float],
        masks: dict[str, np.ndarray],
        geometry: Geometry,
        acquisition: Mapping[str, str | float] | None = None,
    ) -> Case:
        return Case(
            case_id=key.case_id,
            patient_id=key.patient_id,
            file=key.file,
            sha256=self.sha256(key),
            image=image,
            labels=labels,
            masks=masks,
            geometry=geometry,
            acquisition=acquisition or {},
        )


class SimulatedPhotographs(SimulatedCohort):
    """`cases` colour photographs of `size` × `size` pixels; `given` is what the address says besides, as `&name=…`."""

    dims = ("y", "x")
    channels = ("red", "green", "blue")

    def __init__(self, simulator: str, cases: int, size: int, seed: int, given: str = ""):
        super().__init__(simulator, cases, f"size={size}", seed, given)
        self.size = size

    @property
    def grid(self) -> tuple[int, int]:
        """A square."""
        return self.size, self.size

    def _case(
        self, key: Listed, image: np.ndarray, labels: dict[str, float], masks: dict[str, np.ndarray], spacing_mm: float
    ) -> Case:
        return self._imaged(key, image, labels, masks, plain(self.grid, (spacing_mm, spacing_mm)))


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
