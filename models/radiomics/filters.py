"""Filters before the features: what IBSI 2 standardised and z-rad has (`zrad.filtering`), as settings.

Whybra et al., Radiology 2024;310:e231319; reference manual arXiv:2006.05470. A filter sees a region and as much of the
image around it as its kernel reaches, so that the values within the region are those of the whole image filtered.
z-rad's filters without a finite reach (Simoncelli's wavelet, Riesz transforms) are therefore not offered.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from models.config import Config
from models.errors import ModelError

Volume = npt.NDArray[np.float64]
Spacing = tuple[float, float, float]
Reach = tuple[int, int, int]

_KERNEL_LENGTH = {"haar": 2, "db2": 4, "db3": 6, "coif1": 6}
_GABOR_DEVIATIONS = 7  # z-rad's default width of the kernel in standard deviations


class _Filter(Config):
    """boundary: beyond the image lies its mirror image, its last value, or 0. dimension: slice by slice or not."""

    boundary: Literal["reflect", "nearest", "constant"] = "reflect"
    dimension: Literal["2D", "3D"] = "3D"


class MeanFilter(_Filter):
    """Mean over a square or cube with a side of `support` voxels (IBSI 2, configuration 2)."""

    kind: Literal["mean"]
    support: PositiveInt = 5

    @model_validator(mode="after")
    def _has_a_centre(self) -> "MeanFilter":
        if self.support % 2 == 0:
            raise ValueError(f"support must be odd, not {self.support}")
        return self


class LogFilter(_Filter):
    """Laplacian of a Gaussian of `sigma_mm`, cut off after `cutoff` standard deviations (configuration 3)."""

    kind: Literal["log"]
    sigma_mm: PositiveFloat = 1.5
    cutoff: PositiveFloat = 4.0


class LawsFilter(_Filter):
    """Laws' kernels, one an axis in x, y, z order, such as L5E5E5 (configuration 4).

    rotation_invariant: the largest response over permutations and flips of the axes.
    energy_radius: mean absolute response over a cube of this radius in voxels; None for the response itself.
    """

    kind: Literal["laws"]
    kernels: str = Field(default="L5E5E5", pattern="^([LES]3|[LESWR]5){2,3}$")
    rotation_invariant: bool = True
    energy_radius: PositiveInt | None = 7

    @model_validator(mode="after")
    def _one_kernel_an_axis(self) -> "LawsFilter":
        if len(self.kernels) // 2 != int(self.dimension[0]):
            raise ValueError(f"kernels {self.kernels} are {len(self.kernels) // 2}, for {self.dimension}")
        return self


class GaborFilter(_Filter):
    """Modulus of a Gabor filter of each slice (configuration 5).

    angle_degrees: the orientation; with `rotation_invariant` the step between orientations whose mean is taken.
    orthogonal_planes: the mean over slices along all three axes.
    """

    kind: Literal["gabor"]
    sigma_mm: PositiveFloat = 5.0
    wavelength_mm: PositiveFloat = 2.0
    gamma: PositiveFloat = 1.5
    angle_degrees: PositiveFloat = 22.5
    rotation_invariant: bool = True
    orthogonal_planes: bool = False
    dimension: Literal["2D"] = "2D"

    @model_validator(mode="after")
    def _planes_are_averaged(self) -> "GaborFilter":
        if self.orthogonal_planes and not self.rotation_invariant:
            raise ValueError("orthogonal_planes needs rotation_invariant: z-rad averages over both or neither")
        return self


class WaveletFilter(_Filter):
    """Separable undecimated wavelet: low (L) or high (H) pass an axis in x, y, z order (configurations 6 and 7)."""

    kind: Literal["wavelet"]
    wavelet: Literal["haar", "db2", "db3", "coif1"] = "db3"
    passes: str = Field(default="LLH", pattern="^[LH]{2,3}$")
    level: Literal[1, 2] = 1
    rotation_invariant: bool = True

    @model_validator(mode="after")
    def _what_z_rad_can(self) -> "WaveletFilter":
        if len(self.passes) != int(self.dimension[0]):
            raise ValueError(f"passes {self.passes} are {len(self.passes)}, for {self.dimension}")
        if self.level == 2 and not self.rotation_invariant:
            raise ValueError("level 2 needs rotation_invariant: z-rad averages over rotations there")
        return self


AnyFilter = Annotated[MeanFilter | LogFilter | LawsFilter | GaborFilter | WaveletFilter, Field(discriminator="kind")]


def filter_reach(settings: AnyFilter, spacing_mm: Spacing) -> Reach:
    """How many voxels (z, y, x) beyond a region its filtered values depend on, or a few more."""
    step = spacing_mm[2]
    match settings:
        case MeanFilter():
            radius = settings.support // 2
        case LogFilter():
            radius = int(settings.cutoff * settings.sigma_mm / step + 0.5) + 1
        case LawsFilter():
            radius = 2 + (settings.energy_radius or 0)
        case GaborFilter():
            radius = int(np.ceil(_GABOR_DEVIATIONS * settings.sigma_mm / step)) // 2 + 1
        case WaveletFilter():
            radius = _KERNEL_LENGTH[settings.wavelet] * (1 if settings.level == 1 else 3)
    volumetric = settings.dimension == "3D" or (isinstance(settings, GaborFilter) and settings.orthogonal_planes)
    return (radius if volumetric else 0, radius, radius)


def filtered(volume: Volume, spacing_mm: Spacing, settings: AnyFilter) -> Volume:
    """The response map of `volume` (Z, Y, X), the same shape.

    Raises:
        ModelError: the filter counts in one voxel size and the voxels are not of one, or a flat image meets a filter
            of volumes.
    """
    _check_voxels(volume, spacing_mm, settings)
    # imports DICOM readers, which few runs need
    from zrad.image import Image

    image = Image(volume, (0.0, 0.0, 0.0), np.array(spacing_mm[::-1]), np.eye(3).ravel(), volume.shape[::-1])
    response = _z_rad_filter(settings, spacing_mm).apply(image)
    return np.asarray(response.array, dtype=np.float64)


def _check_voxels(volume: Volume, spacing_mm: Spacing, settings: AnyFilter) -> None:
    volumetric = filter_reach(settings, spacing_mm)[0] > 0 or settings.dimension == "3D"
    if volumetric and len(volume) == 1:
        raise ModelError(f"filter {settings.kind} of a flat image must be two-dimensional: filter.dimension=2D")
    steps = spacing_mm if volumetric else spacing_mm[1:]
    if max(steps) > 1.001 * min(steps):
        shown = " × ".join(f"{step:g}" for step in steps)
        raise ModelError(f"filter {settings.kind} needs voxels of one size, not {shown}: resample them (resample_mm)")


def _z_rad_filter(settings: AnyFilter, spacing_mm: Spacing) -> Any:
    return _Z_RAD[settings.kind](settings, spacing_mm[2])


def _mean(settings: MeanFilter, _: float) -> Any:
    from zrad.filtering import Mean

    return Mean(settings.boundary, settings.support, settings.dimension)


def _log(settings: LogFilter, _: float) -> Any:
    from zrad.filtering import LoG

    return LoG(settings.boundary, settings.sigma_mm, settings.cutoff, settings.dimension)


def _laws(settings: LawsFilter, _: float) -> Any:
    from zrad.filtering import Laws

    # z-rad's other pooling, the average, is NaN everywhere
    pooling = "max" if settings.rotation_invariant else None
    has_energy, radius = settings.energy_radius is not None, settings.energy_radius or 0
    arguments = (settings.kernels, settings.boundary, radius, has_energy, settings.dimension)
    return Laws(*arguments, settings.rotation_invariant, pooling)


def _gabor(settings: GaborFilter, step_mm: float) -> Any:
    from zrad.filtering import Gabor

    scales = (settings.sigma_mm, settings.wavelength_mm, settings.gamma)
    angle = float(np.deg2rad(settings.angle_degrees))
    return Gabor(settings.boundary, step_mm, *scales, angle, settings.rotation_invariant, settings.orthogonal_planes)


def _wavelet(settings: WaveletFilter, _: float) -> Any:
    from zrad.filtering import Wavelets2D, Wavelets3D

    kind = Wavelets2D if settings.dimension == "2D" else Wavelets3D
    return kind(settings.wavelet, settings.boundary, settings.passes, settings.level, settings.rotation_invariant)


_Z_RAD: dict[str, Callable[[Any, float], Any]] = {
    "mean": _mean,
    "log": _log,
    "laws": _laws,
    "gabor": _gabor,
    "wavelet": _wavelet,
}
