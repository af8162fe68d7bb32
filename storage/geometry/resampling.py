"""Arrays on grids of another spacing, one axis at a time: every interpolator here is a product of 1-D ones.

A grid voxel is a weighted sum of input voxels along each axis, and the weights of an axis are one sparse matrix.
Where a voxel lies closer to the edge than the weights reach, the input goes on with its outermost value; voxels whose
centre lies outside of the input (more than half a voxel beyond the outermost centre) show 0.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy import sparse

Weighting = Literal["nearest", "linear", "cubic", "area", "coverage"]
TIE = 1e-9  # voxels: a centre this close to the face between two voxels lies in the upper one, whatever the rounding


def resampled(array: np.ndarray, shape: Sequence[int], scale: Sequence[float], weighting: Weighting) -> np.ndarray:
    """`array` (*input shape) on a grid of `shape` about the same centre, voxels `scale` input voxels wide.

    float32, or float64 where the input is that wide; the very array where nothing changes. The axis that shrinks most
    comes first, which leaves the least for the others.
    """
    axes = [
        axis
        for axis, (new, old, step) in enumerate(zip(shape, array.shape, scale, strict=True))
        if (new, step) != (old, 1.0)
    ]
    result = array
    for axis in sorted(axes, key=lambda axis: shape[axis] / array.shape[axis]):
        result = _along(result, axis, weights(shape[axis], array.shape[axis], scale[axis], weighting))
    return result


def positions(size: int, length: int, scale: float) -> np.ndarray:
    """Where the `size` voxels of an axis have their centres, in voxels of the input of `length`, float64."""
    return np.asarray((np.arange(size) - (size - 1) / 2) * scale + (length - 1) / 2)


def as_dtype(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """`values` in `dtype`; for integers rounded, and clipped to what they hold."""
    if values.dtype == dtype:
        return values
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.clip(np.rint(values), limits.min, limits.max).astype(dtype))
    return values.astype(dtype)


def weights(size: int, length: int, scale: float, weighting: Weighting) -> sparse.csr_array:
    """(size, length): the share of each input voxel in each grid voxel; rows sum to 1, or to 0 outside of the input.

    nearest   the voxel that holds the centre
    linear    a triangle two voxels wide, of the input's voxels or of the grid's, whichever are larger, so that details
              that the grid cannot show are averaged and do not alias
    cubic     Keys (1981), a = −1/2, widened in the same way; it may overshoot
    area      the mean over the grid voxel where that is larger than the input's, linear where it is not
    coverage  the mean over what of the grid voxel lies in the input: of a mask, the share of the voxel that it covers
    """
    centres = positions(size, length, scale)
    if weighting == "area":
        weighting = "coverage" if scale > 1 else "linear"
    if weighting == "nearest":
        taps = np.floor(centres + 0.5 + TIE).astype(np.int64)[:, None]
        shares = np.ones(taps.shape)
    elif weighting == "coverage":
        taps, shares = _overlaps(centres, length, scale)
    else:
        taps, shares = _kernel(centres, max(1.0, scale), weighting)
    shares *= ((centres > -0.5 - TIE) & (centres < length - 0.5 + TIE))[:, None]
    rows = np.repeat(np.arange(size), taps.shape[1])
    columns = np.clip(taps, 0, length - 1).ravel()
    return sparse.coo_array((shares.ravel(), (rows, columns)), shape=(size, length)).tocsr()


def _overlaps(centres: np.ndarray, length: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Which input voxels each grid voxel overlaps, and by which share of what it overlaps."""
    low, high = centres - scale / 2, centres + scale / 2
    taps = np.floor(low + 0.5).astype(np.int64)[:, None] + np.arange(int(np.ceil(scale)) + 1)
    shares = np.minimum(high[:, None], taps + 0.5) - np.maximum(low[:, None], taps - 0.5)
    shares = np.clip(shares, 0, None) * ((taps >= 0) & (taps < length))
    return taps, shares / np.maximum(shares.sum(axis=1, keepdims=True), TIE)


def _kernel(centres: np.ndarray, stretch: float, weighting: Weighting) -> tuple[np.ndarray, np.ndarray]:
    """The input voxels that the interpolating kernel reaches, and their shares.

    A widened kernel that is sampled at whole voxels is off its centre by some hundredths of one, which would bend
    a ramp; a multiple of the triangle's own slope puts it right.
    """
    reach = stretch * (1 if weighting == "linear" else 2)
    taps = np.ceil(centres - reach).astype(np.int64)[:, None] + np.arange(int(np.floor(2 * reach)) + 1)
    offset = (taps - centres[:, None]) / stretch
    triangle = _sum_to_one(np.clip(1 - np.abs(offset), 0, None))
    shares = triangle if weighting == "linear" else _sum_to_one(_keys(np.abs(offset)))
    slope = triangle * (offset - (triangle * offset).sum(axis=1, keepdims=True))
    error, lever = ((values * offset).sum(axis=1, keepdims=True) for values in (shares, slope))
    return taps, shares - slope * np.divide(error, lever, out=np.zeros_like(error), where=lever > 1e-3)


def _sum_to_one(shares: np.ndarray) -> np.ndarray:
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _keys(distance: np.ndarray) -> np.ndarray:
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _along(array: np.ndarray, axis: int, weights: sparse.csr_array) -> np.ndarray:
    """`array` with `weights` (size, length) applied to `axis`; the sparse product wants that axis first."""
    wide = array.dtype == np.float64 or (array.dtype.kind in "iu" and array.dtype.itemsize > 2)
    weights = weights.astype(np.float64 if wide else np.float32)
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    if not after:
        rows = array.reshape(-1, array.shape[axis])
        return np.ascontiguousarray((weights @ rows.T.astype(weights.dtype)).T).reshape(*before, -1)
    slabs = array.reshape(-1, array.shape[axis], int(np.prod(after)))
    result = np.empty((len(slabs), weights.shape[0], slabs.shape[2]), weights.dtype)
    for slab, into in zip(slabs, result, strict=True):
        into[:] = weights @ slab.astype(weights.dtype)
    return result.reshape(*before, weights.shape[0], *after)
