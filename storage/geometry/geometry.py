"""Where a cohort's grid lies: the operations that led from a source's own voxels to it, recorded, and their inverses.

Array axes are (y, x) or (z, y, x). An affine is 4 × 4 and maps the index (x, y, z, 1) of a voxel's centre to (right,
anterior, superior) in mm, as NIfTI does; None where nothing is known of the patient, as for a photograph, and for a
projection. All operations act on each axis for itself, so that the way back is one list of indices an axis.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from storage.geometry.operations import Crop, Grid, Operation, Orient, Project, Resample
from storage.geometry.resampling import TIE, resampled

OPERATIONS: dict[str, type[Operation]] = {"orient": Orient, "crop": Crop, "resample": Resample, "project": Project}
HALF = 0.5 - 1e-5  # of a voxel covered; float32 shares that add up to a half may miss it by 1e-7
SAME = 1e-4  # shares of a voxel that differ by less are equal


@dataclass(frozen=True)
class Geometry:
    """A source's own grid and what was done, in order, to reach the grid of the cohort."""

    source: Grid
    operations: tuple[Operation, ...] = ()

    @property
    def grid(self) -> Grid:
        """The grid that the operations lead to."""
        return self._grids()[-1]

    def apply(self, image: np.ndarray) -> np.ndarray:
        """`image` (C, *source shape) on the grid, same dtype. ValueError for another shape."""
        _check("image", image.shape[1:], self.source)
        for operation in self.operations:
            image = operation.image(image)
        return np.ascontiguousarray(image)

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """`mask` (*source shape) bool on the grid; no connected component of it that the grid shows is lost.

        A grid voxel belongs to the mask if the mask covers at least half of it, whatever the interpolator of the image.
        A component (neighbours share a corner) that would vanish keeps the voxels that the mask covers best, among
        those that hold the centre of one of its own. ValueError for another shape.
        """
        _check("mask", mask.shape, self.source)
        coverage = np.asarray(mask, bool)
        for operation in self.operations:
            if isinstance(operation, Crop):
                operation = replace(operation, fill=())
            if not isinstance(operation, Resample):
                coverage = operation.image(coverage[None])[0]
            elif (operation.shape, set(operation.scale)) != (coverage.shape, {1.0}):
                coverage = _covered(coverage, operation)
        if coverage.dtype == bool:
            return np.ascontiguousarray(coverage)
        return _with_vanished(coverage, np.asarray(mask, bool), self._indices())

    def mask_to_source(self, mask: np.ndarray) -> np.ndarray:
        """`mask` on the grid, bool on the source's voxels: those whose centre lies in a voxel of the mask.

        What lies outside of the grid is False; a projection's pixel is spread along its ray. ValueError for another
        shape.
        """
        return self._to_source(np.asarray(mask, bool))

    def map_to_source(self, saliency: np.ndarray) -> np.ndarray:
        """`saliency` on the grid as float32 on the source's voxels, the value of the voxel that holds their centre.

        0 outside of the grid; a projection's pixel is spread along its ray. ValueError for another shape.
        """
        return self._to_source(np.asarray(saliency, np.float32))

    def to_json(self) -> str:
        """As text that `from_json` reads back to an equal geometry: floats in full, unknown spacing as null."""
        source = asdict(self.source)
        source["spacing_mm"] = [None if math.isnan(mm) else mm for mm in self.source.spacing_mm]
        names = {kind: name for name, kind in OPERATIONS.items()}
        operations = [{"operation": names[type(one)], **asdict(one)} for one in self.operations]
        return json.dumps({"source": source, "operations": operations}, default=np.generic.item, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Geometry":
        """The geometry that `to_json` wrote."""
        read = json.loads(text, object_hook=_with_tuples)
        spacing = tuple(math.nan if mm is None else mm for mm in read["source"].pop("spacing_mm"))
        source = Grid(spacing_mm=spacing, **read["source"])
        return cls(source, tuple(OPERATIONS[one.pop("operation")](**one) for one in read["operations"]))

    def _grids(self) -> list[Grid]:
        """The source's grid and the one after each operation."""
        grids = [self.source]
        for operation in self.operations:
            grids.append(operation.grid(grids[-1]))
        return grids

    def _indices(self) -> list[tuple[int | None, np.ndarray]]:
        """For each axis of the source, which axis of the grid it became (None: projected) and each voxel's index there.

        −1 for voxels that lie outside of the grid.
        """
        axes = list(range(len(self.source.shape)))
        places = [np.arange(size, dtype=np.float64) for size in self.source.shape]
        found: dict[int, tuple[int | None, np.ndarray]] = {}
        for operation, before in zip(self.operations, self._grids(), strict=False):
            if isinstance(operation, Project):
                found[axes.pop(operation.axis)] = None, _index(places[operation.axis])
            elif isinstance(operation, Orient):
                axes = [axes[axis] for axis in operation.axes]
            places = operation.places(before, places)
        found.update({axis: (new, _index(places[new])) for new, axis in enumerate(axes)})
        return [found[axis] for axis in range(len(self.source.shape))]

    def _to_source(self, values: np.ndarray) -> np.ndarray:
        _check("mask or map", values.shape, self.grid)
        indices = self._indices()
        kept = [(new, index) for new, index in indices if new is not None]
        picked = values.transpose([new for new, _ in kept])[np.ix_(*(index for _, index in kept))]
        rays = [axis for axis, (new, _) in enumerate(indices) if new is None]
        result = np.array(np.broadcast_to(np.expand_dims(picked, rays), self.source.shape))
        for axis, (_, index) in enumerate(indices):
            np.moveaxis(result, axis, 0)[index < 0] = 0
        return result


def plain(shape: Sequence[int], spacing_mm: Sequence[float]) -> Geometry:
    """A grid that is the source's own."""
    return Geometry(Grid(tuple(map(int, shape)), tuple(map(float, spacing_mm))))


def _check(what: str, shape: Sequence[int], grid: Grid) -> None:
    if tuple(shape) != grid.shape:
        sizes = " × ".join(map(str, shape)), " × ".join(map(str, grid.shape))
        raise ValueError(f"the {what} has {sizes[0]} voxels, its grid {sizes[1]}")


def _with_tuples(read: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only, and geometries are compared and hashed."""
    return {key: _tuple(value) if isinstance(value, list) else value for key, value in read.items()}


def _tuple(values: list[Any]) -> tuple[Any, ...]:
    return tuple(_tuple(value) if isinstance(value, list) else value for value in values)


def _index(place: np.ndarray) -> np.ndarray:
    """Of the voxel that holds each position, −1 where there is none."""
    return np.where(np.isnan(place), -1, np.floor(np.nan_to_num(place) + 0.5 + TIE)).astype(np.int64)


def _covered(coverage: np.ndarray, operation: Resample) -> np.ndarray:
    """The share of each grid voxel that the mask covers, float32."""
    return resampled(coverage, operation.shape, operation.scale, "coverage").astype(np.float32, copy=False)


def _with_vanished(coverage: np.ndarray, mask: np.ndarray, indices: list[tuple[int | None, np.ndarray]]) -> np.ndarray:
    """`coverage` of at least a half and, for each component of `mask` that is not there, the voxels covered best."""
    grid = np.ascontiguousarray(coverage >= HALF)
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return grid
    components, count = ndimage.label(mask[box[0]], np.ones((3,) * mask.ndim))
    places = np.nonzero(components)
    number = components[places]
    cell, shown = np.zeros(len(number), np.int64), np.ones(len(number), bool)
    steps = np.cumprod((1, *grid.shape[:0:-1]))[::-1]
    for (new, index), part, place in zip(indices, box[0], places, strict=True):
        along = index[part][place]
        shown &= along >= 0
        cell += 0 if new is None else along * steps[new]
    number, cell = number[shown], cell[shown]
    covered = coverage.ravel()[cell]
    best = np.zeros(count + 1, np.float32)
    np.maximum.at(best, number, covered)
    survives = np.zeros(count + 1, bool)
    survives[number[grid.ravel()[cell]]] = True
    grid.ravel()[cell[~survives[number] & (covered >= best[number] - SAME)]] = True
    return grid
