"""A case on its way from a source into a cohort, and the two other things a file can be: listed, or set aside."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Case:
    """One image with all that a cohort keeps of it.

    `image` is (C, H, W) in the dtype of the source. `labels` holds NaN where a label is missing. `masks` maps a lesion
    class to (H, W) bool; a class that is absent was looked for and not found; None: nobody annotated this case.
    `crop` is (top, left, height, width): the rectangle of source pixels that the grid shows, so that grid row r has its
    centre at source row `top + (r + 0.5) * height / H`. It may reach outside the source: that part is padding, 0.
    """

    case_id: str
    patient_id: str
    file: str
    sha256: str
    image: np.ndarray
    labels: dict[str, float]
    masks: dict[str, np.ndarray] | None
    spacing_mm: tuple[float, float]
    crop: tuple[int, int, int, int]
    split: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A file that is set aside, with the reason a person needs to repair it."""

    file: str
    reason: str
    sha256: str = ""


@dataclass(frozen=True)
class Listed:
    """A file that a source knows of and has not read; `problem` is set where it is known to be unusable already."""

    file: str
    case_id: str
    patient_id: str
    labels: Mapping[str, float] = field(default_factory=dict)
    split: str | None = None
    problem: str = ""
