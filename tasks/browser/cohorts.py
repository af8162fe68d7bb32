"""Which cohorts there are to look at, and the state of one that a request is answered from."""

import hashlib
import os
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export import heat_scale
from storage.export.delivery import map_file_names, safe_names
from storage.maps import Maps
from tasks.browser.records import records, trained_cohorts
from tasks.workspace import current_workspace

VARIABLE = "LESIONFLOW_COHORTS"
FRESH_SECONDS = 2.0
TAKEN = ("static",)


@dataclass(frozen=True, eq=False)
class MapSet:
    """A map set of a cohort; `slug` is its name in addresses."""

    cohort: Cohort
    name: str
    slug: str

    @cached_property
    def maps(self) -> Maps:
        """Its maps."""
        return self.cohort.maps(self.name)

    @cached_property
    def table(self) -> pd.DataFrame:
        """What was noted of each case; the index is the case."""
        return self.maps.table

    @cached_property
    def cases(self) -> frozenset[int]:
        """The cases that have a map."""
        return frozenset(map(int, self.maps.indices))

    @cached_property
    def scale(self) -> float:
        """The value that is shown at full heat, the same for all cases."""
        return heat_scale(self.cohort, self.name)


@dataclass(frozen=True, eq=False)
class Shown:
    """A cohort at a snapshot, with the map sets that are shown by slug, and the cases: None for all."""

    slug: str
    cohort: Cohort
    sets: dict[str, MapSet]
    chosen: tuple[int, ...] | None = None

    @property
    def title(self) -> str:
        """The name of its folder."""
        return name_of(self.cohort.path)

    @cached_property
    def cases(self) -> np.ndarray:
        """The cases that are shown, in plain order."""
        return np.arange(len(self.cohort)) if self.chosen is None else np.array(sorted(self.chosen), np.int64)

    @cached_property
    def case_ids(self) -> list[str]:
        """The id of every case of the cohort."""
        return [str(name) for name in self.cohort.table["case_id"]]

    @cached_property
    def snapshots(self) -> frozenset[str]:
        """The snapshots that led here."""
        return frozenset(state.id for state in self.cohort.history())

    @cached_property
    def is_colour(self) -> bool:
        """Whether its three channels are the colours of a photograph."""
        flat = len(self.cohort.dims) == 2
        return flat and self.cohort.dtype == np.uint8 and len(self.cohort.channels) == 3


def known_cohorts() -> dict[str, str]:
    """The path of each cohort by slug: those of LESIONFLOW_COHORTS, then those that the workspace knows and that exist.

    Asked again after two seconds at the earliest.
    """
    moment = int(time.monotonic() / FRESH_SECONDS)
    return _known(current_workspace().root, os.environ.get(VARIABLE, ""), moment)


@lru_cache(maxsize=4)
def _known(root: Path, told: str, _moment: int) -> dict[str, str]:
    named = [path for path in told.split(os.pathsep) if path]
    named += [str(record.answer.get("cohort") or "") for record in records()]
    paths = dict.fromkeys(placed(path, root) for path in [*named, *trained_cohorts()] if path)
    return slugs([path for path in paths if is_cohort(path)])


def placed(path: str, root: Path) -> str:
    """`path` made absolute: from here, or from the folder of the workspace, where the commands were run."""
    if "://" in path:
        return path
    beside = root.parent / path
    return str((beside if beside.exists() and not Path(path).exists() else Path(path)).resolve())


def is_cohort(path: str) -> bool:
    """Whether a cohort can be opened there."""
    try:
        return Cohort.exists(path)
    except (CohortError, OSError):
        return False


def slugs(paths: list[str]) -> dict[str, str]:
    """Path by slug: the folder's name, with eight digits of the path's SHA-256 where two are alike."""
    names = [safe_names([name_of(path)])[0] for path in paths]
    alike = Counter([*names, *TAKEN])
    marked = [
        f"{name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}" if alike[name] > 1 else name
        for name, path in zip(names, paths, strict=True)
    ]
    return dict(zip(marked, paths, strict=True))


def name_of(path: str) -> str:
    """The last part of a path."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def newest(slug: str) -> Shown:
    """A known cohort as it is now; KeyError for another slug, CohortError where it cannot be read."""
    path = known_cohorts()[slug]
    return shown(path, Cohort.open(path).snapshot, slug)


def at_version(slug: str, version: str) -> Shown:
    """The cohort as at the snapshot `version` if that is at hand, else as it is now."""
    path = known_cohorts()[slug]
    return _at_hand[path] if path in _at_hand and _at_hand[path].cohort.snapshot == version else newest(slug)


@lru_cache(maxsize=8)
def shown(
    path: str, snapshot: str, slug: str, maps: tuple[str, ...] | None = None, cases: tuple[int, ...] | None = None
) -> Shown:
    """A cohort at a snapshot, opened once; `maps` are the names of the sets to show, None for all."""
    cohort = Cohort.open(path, snapshot)
    names = [name for name in cohort.map_names() if maps is None or name in maps]
    named = map_file_names(sorted(names, key=_finished_first))
    found = Shown(slug, cohort, {key: MapSet(cohort, name, key) for key, name in named.items()}, cases)
    if maps is None:
        _at_hand[path] = found
    return found


_at_hand: dict[str, Shown] = {}


def _finished_first(name: str) -> tuple[bool, str]:
    """Refined maps before what they were made from."""
    return not name.endswith("/S"), name
