"""A case on its way from a source into a cohort, and the two other things a file can be: listed, or set aside."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from storage.geometry import Geometry


@dataclass(frozen=True, eq=False)
class Case:
    """One image or volume with all that a cohort keeps of it.

    `image` is (C, y, x) or (C, z, y, x) in the dtype of the source. `labels` holds NaN where a label is missing.
    `masks` maps a lesion class to bool of the image's grid; a class that is absent was looked for and not found; None:
    nobody annotated this case. `geometry` leads from the grid back to the source's own voxels and to the patient.
    `sha256` is the identity of the source's bytes, `stamp` a quick sign that they changed (sizes and times of the
    files, masks included). `acquisition` is what the physics of the image needs, and nothing that names a person.
    """

    case_id: str
    patient_id: str
    file: str
    sha256: str
    image: np.ndarray
    labels: dict[str, float]
    masks: dict[str, np.ndarray] | None
    geometry: Geometry
    split: str | None = None
    stamp: str = ""
    acquisition: Mapping[str, str | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A file that is set aside, with the reason a person needs to repair it."""

    file: str
    reason: str
    sha256: str = ""


@dataclass(frozen=True)
class Listed:
    """A file that a source knows of and has not read; `problem` is set where it is known to be unusable already.

    `stamp` changes whenever the files of the case do; '' where that cannot be told without reading them.
    """

    file: str
    case_id: str
    patient_id: str
    labels: Mapping[str, float] = field(default_factory=dict)
    split: str | None = None
    problem: str = ""
    stamp: str = ""
