"""Volumes of any axis order and spacing on the grid of a cohort: what the sources of volumes have in common.

in   (C, z, y, x) in the file's own axis order, with its affine
out  (C, z, y, x) with x to the patient's left, y to the back and z to the head, as an axial DICOM series lies; at the
     spacing and in the shape that were asked for, or projected along one axis to (C, y, x)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Literal, get_args

import numpy as np

from storage.errors import SourceError
from storage.geometry import Crop, Geometry, Grid, Interpolator, Operation, Orient, Project, Resample

Plane = Literal["axial", "coronal", "sagittal"]
ALONG: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}
CANONICAL = (1, -1, -1)  # (z, y, x) in units of (superior, anterior, right)
SAME_SPACING = 1e-4  # relative: float32 headers say 3.2699999 for 3.27, and nothing is to be interpolated for that
WHOLE = 1e-3  # voxels: a grid that misses the edge of the source by less gets no further voxel for it


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels as a file holds them.

    `image` is (C, z, y, x) in the file's own axis order and in the dtype that is to be stored (SUV float32, CT int16).
    `affine` (4, 4) float64 maps (x, y, z, 1) of that very array to (right, anterior, superior) in mm. `masks` are bool
    (z, y, x) on the same grid.
    """

    image: np.ndarray
    affine: np.ndarray
    masks: dict[str, np.ndarray] | None = None


@dataclass(frozen=True)
class Regrid:
    """What a person asked for: `spacing_mm` (z, y, x) None keeps each volume's own, `shape` (z, y, x) None too.

    With `shape` volumes are cut or padded about their centre, so that all of them fit in one array. With
    `project` the maximum along one axis is kept: axial looks along z, coronal along y, sagittal along x.
    SourceError for what no grid can have.
    """

    spacing_mm: tuple[float, float, float] | None = None
    interpolator: Interpolator = "linear"
    shape: tuple[int, int, int] | None = None
    project: Plane | None = None

    def __post_init__(self) -> None:
        if self.spacing_mm is not None:
            object.__setattr__(self, "spacing_mm", _three("spacing", self.spacing_mm, "4 4 4", float))
        if self.shape is not None:
            object.__setattr__(self, "shape", _three("shape", self.shape, "64 128 128", int))
        _check_choice("interpolator", self.interpolator, get_args(Interpolator))
        if self.project is not None:
            _check_choice("projection", self.project, get_args(Plane))

    def grid(self) -> tuple[int, ...] | None:
        """The grid that all volumes share; None where each has its own."""
        if self.shape is None or self.project is None:
            return self.shape
        return tuple(size for axis, size in enumerate(self.shape) if axis != ALONG[self.project])

    def dims(self) -> tuple[str, ...]:
        """Names of the axes of the grid."""
        return ("z", "y", "x") if self.project is None else ("y", "x")


def regridded(volume: Volume, regrid: Regrid) -> tuple[np.ndarray, dict[str, np.ndarray] | None, Geometry]:
    """Image (C, *grid) and masks of `volume` on the grid, and the geometry that leads there and back.

    Turned to the canonical axis order, resampled, cropped, projected; steps that change nothing are left out. An
    oblique volume keeps its obliqueness in the affine and is not resampled for it. SourceError for an unusable affine.
    """
    affine = np.asarray(volume.affine, np.float64)
    shape = volume.image.shape[1:]
    geometry = Geometry(Grid(shape, _spacing(affine), tuple(map(tuple, affine.tolist()))))
    crop = partial(_crop, volume.image)
    for step in (_orientation, _resampling, crop, _projection):
        operation = step(geometry.grid, regrid)
        if operation is not None:
            geometry = Geometry(geometry.source, (*geometry.operations, operation))
    image = geometry.apply(volume.image)
    if volume.masks is None:
        return image, None, geometry
    return image, {lesion: geometry.apply_mask(mask) for lesion, mask in volume.masks.items()}, geometry


def _spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """(z, y, x) in mm; SourceError where the three axes do not span the patient."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise SourceError("the position of the voxels in the patient (affine) holds values that are no numbers")
    columns = affine[:3, :3]
    x, y, z = (float(length) for length in np.linalg.norm(columns, axis=0))
    if min(x, y, z) <= 0 or abs(np.linalg.det(columns / (x, y, z))) < 1e-3:
        raise SourceError(f"voxels of {x:g} × {y:g} × {z:g} mm whose axes span no volume (affine)")
    return z, y, x


def _orientation(grid: Grid, regrid: Regrid) -> Operation | None:
    """To z up, y back, x left, as near as the axes allow."""
    directions = np.array(grid.affine)[:3, :3][::-1, ::-1] / grid.spacing_mm  # of (S, A, R), one column an array axis
    axes = max(permutations(range(3)), key=lambda order: sum(abs(directions[row, order[row]]) for row in range(3)))
    flipped = tuple(bool(directions[row, axes[row]] * CANONICAL[row] < 0) for row in range(3))
    return None if axes == (0, 1, 2) and not any(flipped) else Orient(axes, flipped)


def _resampling(grid: Grid, regrid: Regrid) -> Operation | None:
    """To the spacing asked for; as many voxels as it takes for every source voxel to have its centre in one."""
    if regrid.spacing_mm is None:
        return None
    ratios = [new / old for new, old in zip(regrid.spacing_mm, grid.spacing_mm, strict=True)]
    scale = tuple(1.0 if abs(ratio - 1) < SAME_SPACING else ratio for ratio in ratios)
    if scale == (1.0, 1.0, 1.0):
        return None
    shape = tuple(max(1, math.ceil(size / step - WHOLE)) for size, step in zip(grid.shape, scale, strict=True))
    return Resample(shape, scale, regrid.interpolator)


def _crop(image: np.ndarray, grid: Grid, regrid: Regrid) -> Operation | None:
    """About the centre; what is added is the smallest value of each channel: air in a CT, nothing in a PET."""
    if regrid.shape is None or regrid.shape == grid.shape:
        return None
    start = tuple((old - new) // 2 for old, new in zip(grid.shape, regrid.shape, strict=True))
    fill = tuple(float(channel.min()) for channel in image) if min(start) < 0 else ()
    return Crop(start, regrid.shape, fill)


def _projection(grid: Grid, regrid: Regrid) -> Operation | None:
    if regrid.project is None:
        return None
    axis = ALONG[regrid.project]
    return Project(axis, grid.shape[axis])


def _three(what: str, values: Sequence[float], usual: str, kind: type[int] | type[float]) -> tuple[float, ...]:
    """Three positive numbers z, y, x of `kind`."""
    given = " ".join(map(str, values)) if isinstance(values, Sequence) else str(values)
    name = "numbers" if kind is float else "whole numbers"
    wrong = SourceError(f"{what} {given} is not three positive {name} z y x; {usual} is usual")
    try:
        numbers = tuple(kind(value) for value in values)
        fits = len(numbers) == 3 and all(0 < number < math.inf for number in numbers) and numbers == tuple(values)
    except (TypeError, ValueError):
        raise wrong from None
    if not fits:
        raise wrong
    return numbers


def _check_choice(what: str, given: str, choices: Sequence[str]) -> None:
    if given not in choices:
        raise SourceError(f"there is no {what} {given!r}; there is: {', '.join(choices)}")
