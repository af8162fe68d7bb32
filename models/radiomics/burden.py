"""Tumour burden in PET: how much tumour there is, and how active.

    MTV = number of voxels × their volume        TLG = mean SUV × MTV                                  (1)

SUVpeak is the largest mean SUV in a ball of 1 cm³ about a voxel of the tumour (Wahl, Jacene, Kasamon and Lodge, J Nucl
Med 2009; IBSI `loc_peak_glob`): its radius is (3/4π)^⅓ cm ≈ 6.2 mm. A voxel belongs to the ball if its centre does;
what lies outside of the image takes no part.

in   suv  (z, y, x) SUV, g/ml        mask  (z, y, x) bool        spacing  mm along z, y, x
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.errors import ModelError

PEAK_RADIUS = 10 * (3 / (4 * np.pi)) ** (1 / 3)  # mm, of 1 cm³
ML = 1000.0  # mm³


MEANINGS = {
    "mtv": ("ml", "metabolic tumour volume"),
    "tlg": ("SUV·ml", "total lesion glycolysis: mean SUV times volume"),
    "suv_max": ("SUV", "largest SUV"),
    "suv_peak": ("SUV", "largest mean SUV in a ball of 1 cm³ about a voxel of the tumour"),
    "suv_mean": ("SUV", "mean SUV"),
}


class TumourBurden(NamedTuple):
    """`mtv` in ml, `tlg` in SUV · ml; of an empty mask both are 0, and the SUVs NaN."""

    mtv: float
    tlg: float
    suv_max: float
    suv_peak: float
    suv_mean: float


def tumour_burden(suv: npt.ArrayLike, mask: npt.ArrayLike, spacing: Sequence[float]) -> TumourBurden:
    """Equations (1) and the SUVs of what the mask holds: a whole patient's tumour, or one of several.

    Raises:
        ModelError: the shapes differ, or the spacing is unknown.
    """
    values, tumour, sides = np.asarray(suv, np.float64), np.asarray(mask, bool), np.asarray(spacing, np.float64)
    if values.shape != tumour.shape or values.ndim != len(sides):
        raise ModelError(f"SUV of {values.shape}, a mask of {tumour.shape} and {len(sides)} spacings do not fit")
    if not np.isfinite(sides).all() or (sides <= 0).any():
        raise ModelError(f"a spacing of {sides.tolist()} mm gives no volume")
    if not tumour.any():
        return TumourBurden(0.0, 0.0, np.nan, np.nan, np.nan)
    volume, mean = tumour.sum() * sides.prod() / ML, values[tumour].mean()
    peak = peaks(values, sides)[tumour].max()
    return TumourBurden(*map(float, (volume, mean * volume, values[tumour].max(), peak, mean)))


def burden_in_box(
    suv: npt.NDArray[np.generic], roi: npt.NDArray[np.bool_], box: Sequence[slice], spacing: Sequence[float]
) -> TumourBurden:
    """`tumour_burden` of the tumour that is `roi` within `box` of a volume; as far about it as SUVpeak reaches is read.

    Raises:
        ModelError: the spacing is unknown.
    """
    margin = [int(PEAK_RADIUS // side) if side > 0 else 0 for side in spacing]
    starts = [max(0, part.start - far) for part, far in zip(box, margin, strict=True)]
    around = tuple(slice(start, part.stop + far) for start, part, far in zip(starts, box, margin, strict=True))
    near = suv[around]
    mask = np.zeros(near.shape, bool)
    mask[tuple(slice(part.start - start, part.stop - start) for part, start in zip(box, starts, strict=True))] = roi
    return tumour_burden(near, mask, spacing)


def peaks(values: npt.NDArray[np.float64], spacing: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean in the ball about each voxel."""
    reach = [int(PEAK_RADIUS // side) for side in spacing]
    offsets = np.meshgrid(*(np.arange(-far, far + 1) for far in reach), indexing="ij")
    distance = np.sqrt(sum(np.square(offset * side) for offset, side in zip(offsets, spacing, strict=True)))
    ball = (distance <= PEAK_RADIUS).astype(np.float64)
    total, voxels = (ndimage.correlate(of, ball, mode="constant") for of in (values, np.ones_like(values)))
    return np.asarray(total / voxels)
