"""A grid of another spacing about the same centre, as IBSI demands, and the part of it that a region needs.

Reference manual arXiv:1612.07003, section 2.4: n_b = ⌈n_a s_a / s_b⌉ voxels of spacing s_b, whose grid has its centre
where the grid of n_a voxels of s_a has it. Only the neighbourhood of a region is interpolated, at the very positions
that the whole image would be.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Volume = npt.NDArray[np.float64]
Box = tuple[slice, ...]
Interpolator = Literal["nearest", "linear", "cubic"]

_ORDER: dict[str, int] = {"nearest": 0, "linear": 1, "cubic": 3}
# a cubic spline's coefficient falls by 0.27 a voxel: 16 voxels away it moves the tenth digit
_SUPPORT: dict[str, int] = {"nearest": 1, "linear": 2, "cubic": 18}
# sizes and positions are quotients: 40 × 3.0 mm must not become a 61st voxel of 2 mm, nor an overlap of ½ be missed
_ROUNDING = 1e-6


class Axis(NamedTuple):
    """One axis of the new grid on the old one: its voxel i lies at `first` + `step` · i old voxels, i < `size`."""

    size: int
    first: float
    step: float


def resampled_axis(size: int, spacing_mm: float, wanted_mm: float) -> Axis:
    """The axis of `wanted_mm` about the centre of one of `size` voxels of `spacing_mm`."""
    step = wanted_mm / spacing_mm
    new_size = max(1, int(np.ceil(size / step - _ROUNDING)))
    return Axis(new_size, (size - 1 - step * (new_size - 1)) / 2, step)


def covering(axes: list[Axis], box: Box, margin: list[int]) -> Box:
    """The new voxels within one old voxel of `box`, and `margin` new ones more where the grid has them."""
    covered = []
    for axis, old, extra in zip(axes, box, margin, strict=True):
        low = int(np.ceil((old.start - 1 - axis.first) / axis.step - _ROUNDING)) - extra
        high = int(np.floor((old.stop - axis.first) / axis.step + _ROUNDING)) + 1 + extra
        low = min(max(low, 0), axis.size - 1)
        covered.append(slice(low, max(low + 1, min(high, axis.size))))
    return tuple(covered)


def resampled(volume: npt.NDArray[np.generic], axes: list[Axis], box: Box, interpolator: Interpolator) -> Volume:
    """The voxels `box` of the new grid, interpolated in `volume` (Z, Y, X); beyond its last centres values stay."""
    needed = _needed(volume.shape, axes, box, interpolator)
    return np.asarray(
        ndimage.affine_transform(
            volume[needed].astype(np.float64),
            np.array([axis.step for axis in axes]),
            offset=[
                axis.first + axis.step * new.start - old.start for axis, new, old in zip(axes, box, needed, strict=True)
            ],
            output_shape=tuple(new.stop - new.start for new in box),
            order=_ORDER[interpolator],
            mode="mirror" if interpolator == "cubic" else "nearest",
        )
    )


def resampled_mask(
    roi: npt.NDArray[np.bool_],
    roi_box: Box,
    shape: tuple[int, ...],
    axes: list[Axis],
    box: Box,
    interpolator: Interpolator,
    threshold: float,
) -> npt.NDArray[np.bool_]:
    """The voxels `box` of the new grid of which at least the share `threshold` belongs to `roi`.

    `roi` is what lies within `roi_box` of a mask of `shape` that is empty elsewhere.
    """
    wide = tuple(
        slice(min(part.start, old.start), max(part.stop, old.stop))
        for part, old in zip(roi_box, _needed(shape, axes, box, interpolator), strict=True)
    )
    around = [(part.start - outer.start, outer.stop - part.stop) for part, outer in zip(roi_box, wide, strict=True)]
    moved = [axis._replace(first=axis.first - outer.start) for axis, outer in zip(axes, wide, strict=True)]
    share = resampled(np.pad(roi, around), moved, box, interpolator)
    return np.asarray(share >= threshold - _ROUNDING)


def _needed(shape: tuple[int, ...], axes: list[Axis], box: Box, interpolator: Interpolator) -> Box:
    """The old voxels that the new voxels `box` depend on."""
    support, parts = _SUPPORT[interpolator], []
    for size, axis, new in zip(shape, axes, box, strict=True):
        low = int(np.floor(axis.first + axis.step * new.start)) - support
        high = int(np.ceil(axis.first + axis.step * (new.stop - 1))) + support + 1
        parts.append(slice(min(max(low, 0), size - 1), max(1, min(high, size))))
    return tuple(parts)


def rounded(volume: Volume) -> Volume:
    """To whole numbers; halves, which interpolation leaves a rounding error off, to the even one."""
    return np.asarray(np.rint(np.round(volume, 6)))
