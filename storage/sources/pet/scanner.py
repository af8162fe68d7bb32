"""Three PET scanners: what each makes of a distribution of SUV.

Blur by the resolution, a calibration that is slightly off, noise of counts (variance in proportion to the activity and
to one over the volume of a voxel), the filter of the reconstruction, nothing below 0.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import correlate1d
from scipy.special import ive

from storage.sources.pet.shapes import Values

FWHM = 2 * np.sqrt(2 * np.log(2))  # full width at half maximum of a Gaussian of σ = 1
_RANDOMS = 0.05  # SUV by which random coincidences raise the variance, in the air too


@dataclass(frozen=True)
class Scanner:
    """`resolution_mm` and `filter_mm` are full widths at half maximum, `calibration` the SUV shown over the true one.

    `noise` is the variance of 1 ml at SUV 1, in SUV².
    """

    resolution_mm: float
    filter_mm: float
    noise: float
    calibration: float


SCANNERS = (
    Scanner(resolution_mm=5.0, filter_mm=3.0, noise=0.003, calibration=1.00),
    Scanner(resolution_mm=6.0, filter_mm=4.0, noise=0.006, calibration=0.93),
    Scanner(resolution_mm=7.0, filter_mm=4.0, noise=0.011, calibration=1.08),
)


def scanned(activity: Values, spacing: float, scanner: Scanner, rng: np.random.Generator) -> Values:
    """The image (Z, Y, X) in SUV of `activity` in true SUV on voxels of `spacing` mm."""
    seen = scanner.calibration * blurred(activity, scanner.resolution_mm / spacing)
    deviation = np.sqrt(np.float32(scanner.noise / (spacing**3 / 1000)) * (seen + np.float32(_RANDOMS)))
    noisy = seen + deviation * rng.standard_normal(seen.shape, np.float32)
    return np.maximum(blurred(noisy, scanner.filter_mm / spacing), np.float32(0))


def blurred(image: Values, fwhm: float) -> Values:
    """`image` under a Gaussian of `fwhm` voxels; what is blurred keeps its sum, but for what leaves the grid.

    Lindeberg's discrete Gaussian e^(−t) I_n(t), t = σ²: a sampled one is too narrow below a voxel or so (Lindeberg,
    Scale-space for discrete signals, IEEE PAMI 1990).
    """
    kernel = _kernel((fwhm / FWHM) ** 2)
    for axis in range(image.ndim):
        image = correlate1d(image, kernel, axis, mode="nearest")
    return image


def _kernel(variance: float) -> npt.NDArray[np.float64]:
    steps = int(np.ceil(4 * np.sqrt(variance))) + 1
    weights: npt.NDArray[np.float64] = ive(np.abs(np.arange(-steps, steps + 1)), variance)
    return np.asarray(weights / weights.sum())
