"""Slices in the order of the patient: sorted along their normal, with gaps, doubles and strangers found.

Instance numbers are not trusted: a scanner may count from the feet, a copy may renumber.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from storage.sources.dicom.files import UnusableError
from storage.sources.dicom.frames import Frame

UNEVEN = 0.1  # of the usual distance; a whole-body PET of a GE Discovery ST varies by 2.4 % between bed positions
SAME_PLACE_MM = 1e-3
SAME_DIRECTION = 1e-3
SIDEWAYS = 0.25  # of a voxel, between a slice and the straight line through first and last


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames that make a volume: `order` names them from first to last plane, `heights_mm` (z,) lie along `normal`.

    `affine` (4, 4) maps the index (x, y, z, 1) of a voxel to LPS mm, with planes evenly between first and last.
    """

    order: tuple[int, ...]
    heights_mm: np.ndarray
    normal: np.ndarray
    affine: np.ndarray
    shape: tuple[int, int, int]

    @property
    def step_mm(self) -> float:
        """Mean distance of two planes along the normal."""
        return float(self.affine[:3, 2] @ self.normal)

    @property
    def affine_ras(self) -> np.ndarray:
        """The affine to right, anterior, superior."""
        return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.affine)


def stacked(frames: Sequence[Frame], same: Callable[[int, int], bool]) -> Stack:
    """The volume that `frames` make; `same(i, j)` tells whether two hold the same values.

    UnusableError where sizes, orientations, spacings or units differ, where two frames of one place differ, where a
    slice is missing, or where slices are shifted sideways.
    """
    _check_alike(frames)
    normal = frames[0].normal
    heights = np.array([frame.position @ normal for frame in frames])
    order = _without_doubles(np.argsort(heights, kind="stable").tolist(), heights, frames, same)
    _check_even(heights[order], [frames[index].name for index in order])
    affine = _affine([frames[index] for index in order])
    return Stack(tuple(order), heights[order], normal, affine, (len(order), *frames[0].shape))


def _check_alike(frames: Sequence[Frame]) -> None:
    first = frames[0]
    for frame in frames[1:]:
        pair = f"{first.name} and {frame.name}"
        if frame.shape != first.shape:
            raise UnusableError(f"mixed sizes: {pair} are {_size(first)} and {_size(frame)} pixels")
        if np.abs(frame.directions - first.directions).max() > SAME_DIRECTION:
            raise UnusableError(f"mixed orientations: {pair} lie at different angles")
        if not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=1e-3):
            raise UnusableError(f"mixed pixel spacings: {first.spacing_mm} and {frame.spacing_mm} mm in {pair}")
        if frame.unit != first.unit:
            raise UnusableError(f"mixed units: '{first.unit}' and '{frame.unit}' in {pair}")


def _size(frame: Frame) -> str:
    return f"{frame.shape[1]}×{frame.shape[0]}"


def _without_doubles(
    order: Sequence[int], heights: np.ndarray, frames: Sequence[Frame], same: Callable[[int, int], bool]
) -> list[int]:
    kept = [order[0]]
    for index in order[1:]:
        last = kept[-1]
        if heights[index] - heights[last] > SAME_PLACE_MM:
            kept.append(index)
        elif np.abs(frames[index].position - frames[last].position).max() > SAME_PLACE_MM or not same(index, last):
            raise UnusableError(
                f"two different slices at {heights[last]:.2f} mm ({frames[last].name} and {frames[index].name}): "
                "several time points, echoes or reconstructions in one series? Keep one of them"
            )
    return kept


def _check_even(heights: np.ndarray, names: Sequence[str]) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps)) if len(steps) else 0.0
    for index in np.flatnonzero(np.abs(steps - usual) > UNEVEN * usual)[:1]:
        what = "a slice is missing" if steps[index] > usual else "slices are too close"
        raise UnusableError(
            f"{what}: {names[index]} at {heights[index]:.2f} mm and {names[index + 1]} at {heights[index + 1]:.2f} mm "
            f"are {steps[index]:.2f} mm apart, the others {usual:.2f} mm"
        )


def _affine(frames: Sequence[Frame]) -> np.ndarray:
    """Columns: a step in x, y and z in LPS mm, and the first voxel; a tilted gantry shears it."""
    first, last = frames[0], frames[-1]
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing_mm[1]
    affine[:3, 1] = first.directions[1] * first.spacing_mm[0]
    affine[:3, 2] = (last.position - first.position) / (len(frames) - 1) if len(frames) > 1 else _thickness(first)
    affine[:3, 3] = first.position
    _check_straight(frames, affine)
    return affine


def _thickness(frame: Frame) -> np.ndarray:
    if not frame.thickness_mm or frame.thickness_mm <= 0:
        raise UnusableError("one slice alone, and Slice Thickness (0018,0050) is missing")
    return frame.normal * frame.thickness_mm


def _check_straight(frames: Sequence[Frame], affine: np.ndarray) -> None:
    inverse = np.linalg.inv(affine)
    places = np.array([[*frame.position, 1.0] for frame in frames]) @ inverse.T
    sideways = np.abs(places[:, :2]).max(axis=1)
    worst = int(sideways.argmax())
    if sideways[worst] > SIDEWAYS:
        raise UnusableError(f"{frames[worst].name} is shifted sideways by {sideways[worst]:.1f} pixels")
