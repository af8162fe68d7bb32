"""sim:pet — a cohort of simulated whole-body FDG-PET in SUV, each with one tumour, its exact mask and what came of it.

    sim:pet?cases=200&spacing=6&seed=0

Half of the patients have lung cancer, half cancer of the oesophagus (label `oesophagus`), told apart by the tumour's
site and shape alone. `spacing` is that of the isotropic grid in mm. What a case shows is in `storage.sources.pet`. A
patient depends on the seed and the number: a longer cohort begins with the shorter one, and labels are the same at
every spacing.
"""

import numpy as np

from storage.case import Case, Listed
from storage.geometry import Geometry, Grid
from storage.sources.pet import SCANNERS, Exam, draw_exam, grid_origin, grid_shape, imaged, log_hazard, response_logit
from storage.sources.simulated import Parameters, SimulatedCohort, digest, number_of, parse

ADDRESS = "sim:pet"
_RELEASE = 1  # counts changes of the simulator that change its images, so that a cohort takes them for new files
_ALLOWED = Parameters(
    ADDRESS,
    "cases=200, spacing=6 (mm, 2 to 8), seed=0",
    {"cases": (1, 1_000_000), "spacing": (2, 8), "seed": (0, 2**63 - 1)},
)


class SimulatedPet(SimulatedCohort):
    """Source of `cases` volumes on one grid of `spacing` mm, a patient each."""

    name = "pet"
    dims = ("z", "y", "x")
    channels = ("PET",)
    lesions: tuple[str, ...] = ("tumour",)
    labels: tuple[str, ...] = (
        "oesophagus",
        "response",
        "survival_days",
        "death",
        "survival_3y",
        "scanner",
    )

    def __init__(self, cases: int = 200, spacing: int = 6, seed: int = 0):
        super().__init__(ADDRESS, cases, f"spacing={spacing}", seed)
        self.spacing = spacing

    @classmethod
    def from_address(cls, address: str) -> "SimulatedPet":
        """Open e.g. `sim:pet?cases=200&spacing=6&seed=0`; SourceError names what is wrong and what is known."""
        return cls(**parse(address, _ALLOWED).numbers)

    @property
    def grid(self) -> tuple[int, int, int]:
        """(z, y, x): 160 × 56 × 72 at 6 mm."""
        return grid_shape(self.spacing)

    def _ids(self, number: int) -> tuple[str, str]:
        name = f"pet{self.seed}-p{number:05d}"
        return name, name

    def sha256(self, key: Listed) -> str:
        """Digest of all that decides the image: release, spacing, seed and the patient's number."""
        return digest(ADDRESS, _RELEASE, self.spacing, self.seed, number_of(key))

    def read(self, key: Listed) -> Case:
        """Draw and scan one patient."""
        exam = draw_exam(self.seed, number_of(key))
        image, mask = imaged(exam, self.spacing)
        return self._imaged(key, image[None], _labels(exam), {"tumour": mask}, _geometry(self.spacing), _planted(exam))


def _labels(exam: Exam) -> dict[str, float]:
    outcome = exam.outcome
    return {
        "oesophagus": float(exam.is_oesophageal),
        "response": float(outcome.response),
        "survival_days": outcome.survival_days,
        "death": float(outcome.death),
        "survival_3y": float(outcome.survival_3y),
        "scanner": float(exam.scanner),
    }


def _planted(exam: Exam) -> dict[str, str | float]:
    """What the image cannot tell for certain: the outcome's true model, the tumour as drawn, the scanner."""
    nature, scanner = exam.tumour.nature, SCANNERS[exam.scanner]
    return {
        "planted_response_logit": response_logit(nature),
        "planted_log_hazard": log_hazard(nature),
        "planted_volume_ml": nature.volume_ml,
        "planted_suv_max": nature.suv_max,
        "planted_cov": nature.cov,
        "planted_necrotic_share": nature.necrotic,
        "planted_hidden": float(exam.tumour.is_hidden),
        "scanner_resolution_mm": scanner.resolution_mm,
        "scanner_calibration": scanner.calibration,
    }


def _geometry(spacing: int) -> Geometry:
    """x to the patient's left, y to the back, z to the head, as all volumes lie."""
    z, y, x = grid_origin(spacing)
    affine = np.diag((-spacing, -spacing, spacing, 1.0))
    affine[:3, 3] = -x, -y, z
    return Geometry(Grid(grid_shape(spacing), (spacing,) * 3, tuple(map(tuple, affine.tolist()))))
