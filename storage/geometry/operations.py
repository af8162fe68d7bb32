"""What may be done to a source's voxels on their way to the grid of a cohort; each operation knows its way back.

Array axes are (y, x) or (z, y, x). An affine is 4 × 4 and maps the index (x, y, z, 1) of a voxel's centre to (right,
anterior, superior) in mm, as NIfTI does; None where nothing is known of the patient, as for a photograph.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from storage.geometry.resampling import TIE, as_dtype, resampled

Interpolator = Literal["nearest", "linear", "cubic", "area"]
T = TypeVar("T")


@dataclass(frozen=True)
class Grid:
    """A lattice of voxels: its shape, the spacing of each axis in mm (NaN: unknown), its place in the patient.

    The grid of a projection has no place (its affine is None): each of its pixels is a ray, not a point. The affine of
    the volume is that of the grid before the projection.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    affine: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        known = tuple(math.nan if math.isnan(mm) else float(mm) for mm in self.spacing_mm)
        object.__setattr__(self, "shape", tuple(map(int, self.shape)))
        object.__setattr__(self, "spacing_mm", known)  # one NaN object: grids of unknown spacing are equal
        if self.affine is not None:
            object.__setattr__(self, "affine", tuple(tuple(map(float, row)) for row in self.affine))

    def __reduce__(self) -> tuple[type["Grid"], tuple[object, ...]]:
        return Grid, (self.shape, self.spacing_mm, self.affine)  # a pickled NaN would not be that object any more


@dataclass(frozen=True)
class Orient:
    """Axes permuted, some reversed: axis i of the result is axis `axes[i]` before, reversed if `flipped[i]`."""

    axes: tuple[int, ...]
    flipped: tuple[bool, ...]

    def grid(self, before: Grid) -> Grid:
        """The grid after it."""
        shape = [before.shape[axis] for axis in self.axes]
        matrix, offset = np.zeros((len(shape), len(shape))), np.zeros(len(shape))
        for new, (old, flipped) in enumerate(zip(self.axes, self.flipped, strict=True)):
            matrix[old, new] = -1 if flipped else 1
            offset[old] = shape[new] - 1 if flipped else 0
        return Grid(tuple(shape), tuple(before.spacing_mm[axis] for axis in self.axes), _moved(before, matrix, offset))

    def image(self, image: np.ndarray) -> np.ndarray:
        """`image` (C, *shape before), permuted and reversed."""
        turned = image.transpose(0, *(axis + 1 for axis in self.axes))
        return turned[(slice(None), *(slice(None, None, -1 if flipped else None) for flipped in self.flipped))]

    def places(self, before: Grid, places: list[np.ndarray]) -> list[np.ndarray]:
        """Positions along each axis, as positions along the axes after it."""
        return [
            before.shape[axis] - 1 - places[axis] if flipped else places[axis]
            for axis, flipped in zip(self.axes, self.flipped, strict=True)
        ]


@dataclass(frozen=True)
class Crop:
    """The box of `shape` voxels that begins at `start`; outside of the image it shows `fill`, a value a channel, or 0.

    A CT is filled with air, not with 0, which is water.
    """

    start: tuple[int, ...]
    shape: tuple[int, ...]
    fill: tuple[float, ...] = ()

    def grid(self, before: Grid) -> Grid:
        """The grid after it."""
        return Grid(self.shape, before.spacing_mm, _moved(before, np.eye(len(self.shape)), np.array(self.start)))

    def image(self, image: np.ndarray) -> np.ndarray:
        """`image` (C, *shape before) in the box."""
        if self.start == (0,) * len(self.start) and self.shape == image.shape[1:]:
            return image
        shown = np.zeros((len(image), *self.shape), image.dtype)
        for channel, value in zip(shown, self.fill, strict=False):
            channel[...] = value
        source, target = [slice(None)], [slice(None)]
        for start, size, length in zip(self.start, self.shape, image.shape[1:], strict=True):
            first, end = min(max(0, start), length), max(0, min(length, start + size))
            source.append(slice(first, max(first, end)))
            target.append(slice(first - start, max(first, end) - start) if end > first else slice(0, 0))
        shown[tuple(target)] = image[tuple(source)]
        return shown

    def places(self, before: Grid, places: list[np.ndarray]) -> list[np.ndarray]:
        """Positions along each axis, as positions in the box; NaN outside of it."""
        moved = [place - start for place, start in zip(places, self.start, strict=True)]
        return [_inside(place, size) for place, size in zip(moved, self.shape, strict=True)]


@dataclass(frozen=True)
class Resample:
    """A grid of `shape` about the same centre, whose voxels are `scale` input voxels wide along each axis.

    Voxel i of n lies at input position (i − (n − 1) / 2) · scale + (m − 1) / 2, where m is the input's length.
    Interpolators are those of `storage.geometry.resampling.weights`: linear and cubic average what a coarser grid
    cannot show.
    """

    shape: tuple[int, ...]
    scale: tuple[float, ...]
    interpolator: Interpolator

    def grid(self, before: Grid) -> Grid:
        """The grid after it."""
        shape, scale = np.array(self.shape), np.array(self.scale)
        offset = (np.array(before.shape) - 1) / 2 - (shape - 1) / 2 * scale
        spacing = tuple(mm * step for mm, step in zip(before.spacing_mm, self.scale, strict=True))
        return Grid(self.shape, spacing, _moved(before, np.diag(scale), offset))

    def image(self, image: np.ndarray) -> np.ndarray:
        """`image` (C, *shape before), interpolated; same dtype."""
        result = np.empty((len(image), *self.shape), image.dtype)
        for channel, into in zip(image, result, strict=True):
            into[:] = as_dtype(resampled(channel, self.shape, self.scale, self.interpolator), image.dtype)
        return result

    def places(self, before: Grid, places: list[np.ndarray]) -> list[np.ndarray]:
        """Positions along each axis, in voxels of the new grid; NaN outside of it."""
        axes = zip(places, before.shape, self.shape, self.scale, strict=True)
        return [_inside((place - (old - 1) / 2) / step + (new - 1) / 2, new) for place, old, new, step in axes]


@dataclass(frozen=True)
class Project:
    """The maximum along `axis`, which has `depth` voxels and is gone afterwards."""

    axis: int
    depth: int

    def grid(self, before: Grid) -> Grid:
        """The grid after it, without a place in the patient."""
        return Grid(_without(before.shape, self.axis), _without(before.spacing_mm, self.axis))

    def image(self, image: np.ndarray) -> np.ndarray:
        """`image` (C, *shape before) projected."""
        return np.asarray(image.max(axis=self.axis + 1))

    def places(self, before: Grid, places: list[np.ndarray]) -> list[np.ndarray]:
        """Positions along the axes that are left."""
        return list(_without(places, self.axis))


Operation = Orient | Crop | Resample | Project


def _without(values: Sequence[T], axis: int) -> tuple[T, ...]:
    return (*values[:axis], *values[axis + 1 :])


def _inside(place: np.ndarray, size: int) -> np.ndarray:
    """`place`, NaN where it lies in none of `size` voxels."""
    return np.where((place >= -0.5 - TIE) & (place < size - 0.5 - TIE), place, np.nan)


def _moved(before: Grid, matrix: np.ndarray, offset: np.ndarray) -> tuple[tuple[float, ...], ...] | None:
    """The affine of a grid whose voxel v is voxel `matrix` · v + `offset` of `before`, in the order of array axes."""
    if before.affine is None:
        return None
    axes = len(offset)
    step = np.eye(4)
    step[:axes, :axes] = matrix[::-1, ::-1]  # an affine counts x first
    step[:axes, 3] = offset[::-1]
    return tuple(map(tuple, (np.array(before.affine) @ step).tolist()))
