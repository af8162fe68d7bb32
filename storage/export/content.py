"""What of a case is exported, the same for all formats, and how the formats get at it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from storage.cohort import Cohort
from storage.maps import Maps

GridChoice = Literal["cohort", "source"]
SAMPLED_MAPS, SAMPLED_VOXELS, FULL_HEAT = 64, 100_000, 0.999


@dataclass(frozen=True)
class Content:
    """`lesions` and `maps` by their file names; `scales`: the value of each map set that is shown at full heat.

    `grid` and `series` (the DICOM files of a case) count for the formats that know of them.
    """

    lesions: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, str] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    grid: GridChoice = "cohort"
    series: Mapping[int, tuple[Path, ...]] = field(default_factory=dict)


def masks_of(cohort: Cohort, case: int, content: Content) -> Iterator[tuple[str, np.ndarray]]:
    """(file name, mask) of each lesion class; none of a case that nobody annotated: it is unknown, not healthy."""
    if not content.lesions or not bool(cohort.table["has_masks"].iloc[case]):
        return
    masks = cohort.masks(case)
    for name, lesion in content.lesions.items():
        yield name, masks[cohort.lesions.index(lesion)]


def maps_of(cohort: Cohort, case: int, content: Content) -> Iterator[tuple[str, np.ndarray]]:
    """(file name, raw saliency) of each map set that has this case."""
    for name, maps in content.maps.items():
        opened, cases = _opened(cohort, maps)
        if case in cases:
            yield name, opened.saliency(case)


@lru_cache(maxsize=16)
def _opened(cohort: Cohort, name: str) -> tuple[Maps, frozenset[int]]:
    maps = cohort.maps(name)
    return maps, frozenset(map(int, maps.indices))


def heat_scale(cohort: Cohort, name: str) -> float:
    """The 99.9 % quantile of a map set over up to 64 of its cases, whatever part of it is shown; 1 where it is 0.

    One scale for all cases: with one of its own each healthy image would glow as brightly as a diseased one.
    """
    maps = cohort.maps(name)
    chosen = np.unique(np.linspace(0, len(maps) - 1, min(SAMPLED_MAPS, len(maps))).round().astype(int))
    sample = [_spread(maps.saliency(int(maps.indices[row]))) for row in chosen]
    scale = float(np.quantile(np.concatenate(sample), FULL_HEAT)) if sample else 0.0
    return scale if scale > 0 else 1.0


def _spread(values: np.ndarray) -> np.ndarray:
    """Some of the values, evenly spread."""
    return values.ravel()[:: max(1, values.size // SAMPLED_VOXELS)]
