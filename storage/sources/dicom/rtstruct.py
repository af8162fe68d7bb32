"""Contours of an RTSTRUCT as masks on the grid of a series: a voxel belongs to what its centre lies in."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from pydicom import Dataset

from storage.sources.dicom.files import UnusableError, coordinates, items, number, text
from storage.sources.dicom.stack import Stack

CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
HALF = 0.5  # of the distance of two slices: how far a contour may lie from the slice it was drawn on
SAME_PLANE_MM = 0.01
SPARSE = 1.5  # contours that far apart, in slices, were drawn on another series


def contour_masks(structures: Dataset, stack: Stack, lesions: Collection[str]) -> dict[str, np.ndarray]:
    """Masks (z, y, x) of the regions named `lesions`; one without a closed contour is absent.

    Points and open lines are left out: they enclose nothing. Contours of one plane are combined by exclusive or, so
    that an inner contour is a hole. UnusableError for a contour that lies on no slice.
    """
    masks: dict[str, np.ndarray] = {}
    for name, region in _regions(structures, lesions):
        contours = [
            _indices(contour, stack, name) for contour in items(region, "ContourSequence") if _is_closed(contour)
        ]
        if contours:
            mask = _filled(_planes(contours), stack, name)
            masks[name] = masks[name] | mask if name in masks else mask
    return masks


def region_names(structures: Dataset) -> dict[int, str]:
    """The name of each region by its number; unnamed ones are named by it."""
    found = [
        (number(item, "ROINumber"), text(item, "ROIName")) for item in items(structures, "StructureSetROISequence")
    ]
    return {int(roi): name or f"region {roi:.0f}" for roi, name in found if roi is not None}


def inside(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Which pixel centres (y, x) an odd number of `polygons` (n, 2), corners (x, y) in pixels, go around.

    A row's crossings with all edges are counted at the next pixel to the right; the parity of their running sum tells
    inside from outside.
    """
    crossings = np.zeros((shape[0], shape[1] + 1), np.int32)
    for polygon in polygons:
        x0, y0 = polygon.T
        x1, y1 = np.roll(polygon, -1, axis=0).T
        low, high = np.minimum(y0, y1), np.maximum(y0, y1)
        first, last = (np.clip(np.ceil(edge), 0, shape[0]).astype(int) for edge in (low, high))
        edge = np.repeat(np.arange(len(x0)), np.maximum(last - first, 0))
        row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[edge]
        at = x0[edge] + (row - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
        np.add.at(crossings, (row, np.clip(np.ceil(at), 0, shape[1]).astype(int)), 1)
    return np.asarray(np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1)


def _regions(structures: Dataset, lesions: Collection[str]) -> Iterator[tuple[str, Dataset]]:
    names = region_names(structures)
    for region in items(structures, "ROIContourSequence"):
        name = names.get(int(number(region, "ReferencedROINumber") or -1))
        if name in lesions and name is not None:
            yield name, region


def _is_closed(contour: Dataset) -> bool:
    return text(contour, "ContourGeometricType") in CLOSED


def _indices(contour: Dataset, stack: Stack, name: str) -> np.ndarray:
    """Corners (n, 3): x, y in voxels, height in mm along the normal."""
    flat = coordinates(contour, "ContourData")
    if len(flat) < 3 or len(flat) % 3:
        raise UnusableError(f"a contour of '{name}' has {len(flat)} coordinates: damaged")
    corners = flat.reshape(-1, 3)
    heights = corners @ stack.normal
    if np.ptp(heights) > HALF * stack.step_mm:
        raise UnusableError(
            f"a contour of '{name}' spans {np.ptp(heights):.1f} mm across slices: drawn in another plane"
        )
    inverse = np.linalg.inv(stack.affine)
    places = corners @ inverse[:3, :3].T + inverse[:3, 3]
    return np.column_stack([places[:, :2], np.full(len(corners), np.median(heights))])


def _planes(contours: Sequence[np.ndarray]) -> dict[float, list[np.ndarray]]:
    """The polygons (x, y) at each height in mm, from the lowest up."""
    planes: dict[float, list[np.ndarray]] = defaultdict(list)
    height = -np.inf
    for contour in sorted(contours, key=lambda contour: float(contour[0, 2])):
        height = height if contour[0, 2] - height < SAME_PLANE_MM else float(contour[0, 2])
        planes[height].append(contour[:, :2])
    return planes


def _filled(planes: dict[float, list[np.ndarray]], stack: Stack, name: str) -> np.ndarray:
    """Each slice filled from the contour plane nearest to it."""
    heights = np.array(list(planes))
    distance = np.abs(stack.heights_mm[:, None] - heights)  # (slices, planes)
    reach = HALF * stack.step_mm + SAME_PLANE_MM
    for plane in np.flatnonzero(distance.min(axis=0) > reach)[:1]:
        raise UnusableError(
            f"a contour of '{name}' at {heights[plane]:.2f} mm lies on no slice: the nearest is "
            f"{distance[:, plane].min():.2f} mm off"
        )
    if len(heights) > 1 and np.median(np.diff(heights)) > SPARSE * stack.step_mm:
        raise UnusableError(
            f"contours of '{name}' are {np.median(np.diff(heights)):.2f} mm apart, the slices {stack.step_mm:.2f} mm: "
            "drawn on another series"
        )
    mask = np.zeros(stack.shape, bool)
    for index in np.flatnonzero(distance.min(axis=1) <= reach):
        mask[index] = inside(planes[heights[distance[index].argmin()]], stack.shape[1:])
    return mask
