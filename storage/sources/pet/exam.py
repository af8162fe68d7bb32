"""A whole examination: a patient with one tumour, drawn once as parameters and imaged on a grid of any spacing."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from storage.sources.pet.anatomy import (
    FIELD_HIGH,
    FIELD_LOW,
    Patient,
    body_depth,
    draw_patient,
    lung_depth,
    spine_depth,
)
from storage.sources.pet.outcome import Outcome, draw_outcome
from storage.sources.pet.scanner import SCANNERS, scanned
from storage.sources.pet.shapes import Axes, Ellipsoid, Mask, Place, Positions, Values, axes_of, filled, smooth_noise
from storage.sources.pet.sites import allowed_of, draw_site, path_of
from storage.sources.pet.tumour import Tumour, draw_nature, rendered
from storage.sources.simulated import stream

_NATURE, _PATIENT, _SITE, _OUTCOME, _SCANNER, _TEXTURE, _NOISE = range(7)  # streams of random numbers
_WALL = 0.66  # inner over outer radius of the left ventricle
_MULTIPLE = 8  # of which the grid has its sizes: kind to networks that halve three times


@dataclass(frozen=True, eq=False)
class Exam:
    """All that decides an image but the grid."""

    seed: int
    number: int
    patient: Patient
    tumour: Tumour
    is_oesophageal: bool
    outcome: Outcome
    scanner: int


def draw_exam(seed: int, number: int) -> Exam:
    """The examination of patient `number` of the cohort `seed`."""
    nature = draw_nature(stream(seed, number, _NATURE))
    patient = draw_patient(stream(seed, number, _PATIENT))
    rng = stream(seed, number, _SITE)
    is_oesophageal = bool(rng.random() < 0.5)
    patient, tumour = draw_site(rng, patient, nature, is_oesophageal)
    return Exam(
        seed=seed,
        number=number,
        patient=patient,
        tumour=tumour,
        is_oesophageal=is_oesophageal,
        outcome=draw_outcome(stream(seed, number, _OUTCOME), nature),
        scanner=int(stream(seed, number, _SCANNER).integers(len(SCANNERS))),
    )


def imaged(exam: Exam, spacing: int) -> tuple[Values, Mask]:
    """The image (Z, Y, X) in SUV as its scanner shows it, and the tumour's true extent: voxels it fills by a half."""
    activity, mask = activity_of(exam, spacing)
    noise = stream(exam.seed, exam.number, _NOISE, spacing)
    return scanned(activity, spacing, SCANNERS[exam.scanner], noise), mask


def activity_of(exam: Exam, spacing: int) -> tuple[Values, Mask]:
    """The true SUV of each voxel before any scanner sees it, and the tumour's extent."""
    axes = axes_of_grid(spacing)
    activity = _background(exam, axes, spacing)
    habitus, patient = exam.patient.habitus, exam.patient
    allowed, path = allowed_of(patient, exam.is_oesophageal), path_of(patient) if exam.is_oesophageal else None
    box, share, suv = rendered(exam.tumour, axes, spacing, lambda fine: allowed(habitus.standard(fine)), path)
    activity[box] = activity[box] * (1 - share) + suv
    mask = np.zeros(axes.shape, np.bool_)
    mask[box] = share >= min(0.5, float(share.max()))
    return activity, mask


def grid_shape(spacing: int) -> tuple[int, int, int]:
    """(z, y, x) of the grid that holds the field of view, each a multiple of eight."""
    sizes = (math.ceil((high - low) / spacing / _MULTIPLE) for low, high in zip(FIELD_LOW, FIELD_HIGH, strict=True))
    z, y, x = (_MULTIPLE * size for size in sizes)
    return z, y, x


def grid_origin(spacing: int) -> Place:
    """(z, y, x) in mm of the first voxel's centre."""
    z, y, x = (float(axis.flat[0]) for axis in axes_of_grid(spacing).along())
    return z, y, x


@lru_cache(maxsize=8)
def axes_of_grid(spacing: int) -> Axes:
    """The centres of its voxels, about the middle of the field of view."""
    middles = ((high + low) / 2 for low, high in zip(FIELD_LOW, FIELD_HIGH, strict=True))
    z, y, x = (
        middle + (np.arange(size) - (size - 1) / 2) * spacing
        for middle, size in zip(middles, grid_shape(spacing), strict=True)
    )
    return axes_of(z, y, x)


def _background(exam: Exam, grid: Axes, spacing: int) -> Values:
    """All but the tumour."""
    patient, rng = exam.patient, stream(exam.seed, exam.number, _TEXTURE)
    axes = patient.habitus.standard(grid)
    coarse, fine = (smooth_noise(rng, grid, FIELD_LOW, FIELD_HIGH, cell) for cell in (16.0, 9.0))
    depth = body_depth(patient, axes)
    tissue = _soft_tissue(patient, depth, axes, spacing)
    activity = tissue.copy()
    for side in (0, 1):
        _lay(activity, filled(lung_depth(patient, side, axes), spacing), patient.uptake["lung"])
    _add_spine(activity, patient, axes, spacing)
    for name, (shape, suv) in patient.organs.items():
        _add(activity, shape, suv, axes, spacing)
        if name == "stomach":
            _add_bowel(activity, patient, axes, spacing, coarse, fine)
    _add_oesophagus(activity, patient, axes, spacing)
    _add_ventricle(activity, patient, axes, spacing, coarse)
    _add_brain(activity, patient, axes, spacing, fine)
    activity = tissue + (activity - tissue) * filled(depth - 8, spacing)  # no organ comes through the skin
    return np.asarray(activity * (1 + np.float32(0.09) * coarse + np.float32(0.07) * fine).clip(0.4, 1.6))


def _soft_tissue(patient: Patient, depth: Values, axes: Axes, spacing: float) -> Values:
    """Skin, fat and muscle."""
    fat, muscle = np.float32(patient.uptake["fat"]), np.float32(patient.uptake["muscle"])
    lean = np.interp(axes.z.ravel(), (520, 600), (0.8, 0.25)).astype(np.float32)[:, None, None]
    below_fat = filled(depth - lean * np.float32(patient.habitus.fat_mm), spacing)
    below_skin = filled(depth - 3, spacing)
    tissue = muscle * below_fat + fat * (below_skin - below_fat).clip(0) + 0.8 * muscle * (1 - below_skin)
    return np.asarray(tissue * filled(depth, spacing))


def _lay(image: Positions, share: Values, suv: Positions | float) -> None:
    """`suv` over what `image` shows, in place, by the share of each voxel."""
    image += share * (np.asarray(suv, np.float32) - image)


def _add(image: Values, shape: Ellipsoid, suv: float, axes: Axes, spacing: float) -> None:
    box = shape.box(axes, spacing)
    _lay(image[box], filled(shape.depth(axes.cut(box)), spacing), suv)


def _add_spine(image: Values, patient: Patient, axes: Axes, spacing: float) -> None:
    """Vertebral bodies with cooler discs between them."""
    box = axes.around((25, 0, -32), (665, 120, 32))
    cut = axes.cut(box)
    discs = 1 + np.float32(0.15) * np.cos(cut.z * np.float32(2 * np.pi / 30))
    _lay(image[box], filled(spine_depth(cut), spacing), np.float32(patient.uptake["marrow"]) * discs)


def _add_bowel(image: Values, patient: Patient, axes: Axes, spacing: float, noise: Values, patches: Values) -> None:
    """Loops that wind along the level sets of the noise, some of them hotter."""
    for part in patient.bowel:
        box = part.box(axes, spacing)
        loops = np.exp(-((noise[box] / np.float32(0.4)) ** 2))
        suv = np.float32(patient.uptake["bowel"]) * (np.float32(0.6) + loops * np.exp(patches[box] / 2))
        _lay(image[box], filled(part.depth(axes.cut(box)), spacing), suv.clip(0.4, 6.0))


def _add_oesophagus(image: Values, patient: Patient, axes: Axes, spacing: float) -> None:
    """A tube from the neck to the stomach that takes up a little more than blood."""
    box = axes.around((318, -40, -45), (600, 70, 60))
    cut = axes.cut(box)
    y, x = patient.oesophagus(cut.z)
    _lay(image[box], filled(8 - np.hypot(cut.y - y, cut.x - x), spacing), patient.uptake["oesophagus"])


def _add_ventricle(image: Values, patient: Patient, axes: Axes, spacing: float, noise: Values) -> None:
    """The wall of the left ventricle: a shell that is open towards the atrium, uneven in uptake."""
    shape = patient.ventricle
    box = shape.box(axes, spacing)
    cut = axes.cut(box)
    along = shape.along(cut)
    rho = np.sqrt(along[0] ** 2 + along[1] ** 2 + along[2] ** 2)
    thickness = np.float32((1 - _WALL) * shape.radii[1])
    depth = np.minimum((1 - rho) / np.float32(1 - _WALL), (rho - _WALL) / np.float32(1 - _WALL)) * thickness
    depth = np.minimum(depth, (along[0] + np.float32(0.55)) * np.float32(shape.radii[0]))
    suv = np.float32(patient.ventricle_uptake) * (1 + np.float32(0.12) * noise[box]).clip(0.6, 1.4)
    _lay(image[box], filled(depth, spacing), suv)


def _add_brain(image: Values, patient: Patient, axes: Axes, spacing: float, noise: Values) -> None:
    """Folded cortex around white matter, the basal ganglia and two ventricles."""
    shape, cortex = patient.brain, patient.uptake["brain"]
    box = shape.box(axes, spacing)
    cut = axes.cut(box)
    depth = shape.depth(cut)
    grey = np.clip((17 - depth + 5 * noise[box]) / 8, 0, 1)
    suv = np.float32(cortex) * (np.float32(0.42) + np.float32(0.58) * grey)
    centre = shape.centre
    for side in (-1.0, 1.0):
        ganglia = Ellipsoid((centre[0] - 8, centre[1] - 8, centre[2] + side * 20), (14, 22, 8))
        _lay(suv, filled(ganglia.depth(cut), spacing), 0.95 * cortex)
        horn = Ellipsoid((centre[0] + 8, centre[1], centre[2] + side * 9), (9, 28, 5))
        _lay(suv, filled(horn.depth(cut), spacing), 0.15 * cortex)
    cleft = np.clip(1 - np.abs(cut.x - np.float32(centre[2])) / 5, 0, 1) * (depth < 30)
    suv *= 1 - np.float32(0.35) * cleft
    _lay(image[box], filled(depth, spacing), suv)
