"""IBSI's processing chain up to the features: a region cut out, interpolated, filtered, re-segmented, discretised.

Nothing outside of a region matters to its features but what interpolation, filter and intensity peaks reach; so each
region is prepared from its own neighbourhood, which costs the same in a small image and in a large one.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from models.errors import ModelError
from models.radiomics.filters import filter_reach, filtered
from models.radiomics.interpolation import Axis, Box, covering, resampled, resampled_axis, resampled_mask, rounded
from models.radiomics.settings import MOST_LEVELS, IbsiConfig

Volume = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]
Units = Literal["mm", "pixel"]

PEAK_RADIUS_MM = 6.2
"""Radius of the ball of 1 cm³ in which IBSI averages for its intensity peaks."""


class Region(NamedTuple):
    """One region cropped to its bounding box: `roi` is what morphology sees, `intensity` is NaN where it takes no part.

    `surrounding` is the image with the margin that intensity peaks look at, `intensity_within` the intensity on it.
    """

    roi: Mask
    intensity: Volume
    levels: Volume
    surrounding: Volume
    intensity_within: Volume
    spacing_mm: Spacing
    is_slice: bool
    config: IbsiConfig

    @property
    def values(self) -> Volume:
        """Intensities of the region, flat: what needs no geometry runs far faster without the surrounding NaN."""
        return self.intensity[~np.isnan(self.intensity)]


class _Neighbourhood(NamedTuple):
    """A region on the grid of the features with as much around it as they need: image as measured and as filtered."""

    image: Volume
    response: Volume
    roi: Mask
    spacing_mm: Spacing


def units_of(spacing_mm: tuple[float, ...]) -> Units:
    """In which unit lengths come out: mm, or pixels where any spacing is unknown (NaN or not positive)."""
    return "mm" if all(np.isfinite(step) and step > 0 for step in spacing_mm) else "pixel"


def prepared_region(
    image: npt.NDArray[np.generic], roi: Mask, box: Box, spacing_mm: Spacing, config: IbsiConfig
) -> Region | None:
    """The region that is `roi` within `box` of `image` (Z, Y, X); None where nothing of it is left on the new grid.

    Raises:
        ModelError: the voxels cannot be interpolated or filtered as the settings say.
    """
    near = _neighbourhood(image, roi, box, spacing_mm, config)
    if not near.roi.any():
        return None
    within = np.where(near.roi, near.response, np.nan)
    within[~_takes_part(near, config)] = np.nan
    tight = bounding_box(near.roi, [0, 0, 0])
    wide = bounding_box(near.roi, _peak_reach(near.spacing_mm, config))
    return Region(
        roi=near.roi[tight],
        intensity=within[tight],
        levels=_grey_levels(within[tight], config),
        surrounding=near.response[wide],
        intensity_within=within[wide],
        spacing_mm=near.spacing_mm,
        is_slice=image.shape[0] == 1,
        config=config,
    )


def bounding_box(mask: Mask, margin: list[int]) -> Box:
    """The box of the True voxels, wider by `margin` where the grid goes on."""
    box = []
    for axis, extra in enumerate(margin):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(max(int(occupied[0]) - extra, 0), int(occupied[-1]) + extra + 1))
    return tuple(box)


def reach_mm(spacing_mm: Spacing, config: IbsiConfig, *, is_slice: bool) -> list[float]:
    """How far (z, y, x) around a region its features look, in mm or pixels."""
    spacing = feature_spacing(spacing_mm, config, is_slice=is_slice)
    return [steps * step for steps, step in zip(_reach(spacing, config), spacing, strict=True)]


def feature_spacing(spacing_mm: Spacing, config: IbsiConfig, *, is_slice: bool) -> Spacing:
    """Spacing of the grid on which features are computed, ones where unknown; a slice keeps its thickness.

    Raises:
        ModelError: the image is to be resampled and its spacing is unknown.
    """
    known = units_of(spacing_mm) == "mm"
    wanted = config.resample_mm
    if wanted is None:
        return spacing_mm if known else (1.0, 1.0, 1.0)
    if not known:
        raise ModelError("the image has no spacing in mm, so it cannot be resampled (resample_mm)")
    steps = wanted if isinstance(wanted, tuple) else (wanted, wanted, wanted)
    keeps_slices = is_slice or len(steps) == 2
    return (spacing_mm[0] if keeps_slices else steps[0], steps[-2], steps[-1])


def _neighbourhood(
    image: npt.NDArray[np.generic], roi: Mask, box: Box, spacing_mm: Spacing, config: IbsiConfig
) -> _Neighbourhood:
    spacing = feature_spacing(spacing_mm, config, is_slice=image.shape[0] == 1)
    reach = _reach(spacing, config)
    if config.resample_mm is None:
        measured, inside = _cut(image, roi, box, reach)
    else:
        measured, inside = _interpolated(image, roi, box, _axes(image.shape, spacing_mm, spacing), reach, config)
    response = measured if config.filter is None else filtered(measured, spacing, config.filter)
    return _Neighbourhood(measured, response, inside, spacing)


def _axes(shape: tuple[int, ...], spacing_mm: Spacing, wanted_mm: Spacing) -> list[Axis]:
    return [resampled_axis(*axis) for axis in zip(shape, spacing_mm, wanted_mm, strict=True)]


def _interpolated(
    image: npt.NDArray[np.generic], roi: Mask, box: Box, axes: list[Axis], reach: list[int], config: IbsiConfig
) -> tuple[Volume, Mask]:
    part = covering(axes, box, reach)
    measured = resampled(image, axes, part, config.interpolator)
    if config.round_intensity:
        measured = rounded(measured)
    mask = (roi, box, image.shape, axes, part, config.mask_interpolator, config.mask_threshold)
    return measured, resampled_mask(*mask)


def _cut(image: npt.NDArray[np.generic], roi: Mask, box: Box, reach: list[int]) -> tuple[Volume, Mask]:
    wide = tuple(
        slice(max(part.start - extra, 0), min(part.stop + extra, size))
        for part, extra, size in zip(box, reach, image.shape, strict=True)
    )
    around = [(part.start - outer.start, outer.stop - part.stop) for part, outer in zip(box, wide, strict=True)]
    return image[wide].astype(np.float64), np.pad(roi, around)


def _reach(spacing: Spacing, config: IbsiConfig) -> list[int]:
    filtering = filter_reach(config.filter, spacing) if config.filter else (0, 0, 0)
    return [peaks + more for peaks, more in zip(_peak_reach(spacing, config), filtering, strict=True)]


def _peak_reach(spacing: Spacing, config: IbsiConfig) -> list[int]:
    wanted = "local_intensity" in config.families
    return [int(np.ceil(PEAK_RADIUS_MM / step)) if wanted else 0 for step in spacing]


def _takes_part(near: _Neighbourhood, config: IbsiConfig) -> Mask:
    """Re-segmentation: by range, then by outliers of what the range has left."""
    low, high = config.intensity_range or (-np.inf, np.inf)
    kept = near.roi & np.isfinite(near.image) & (near.image >= low) & (near.image <= high)
    if config.outlier_sigma is not None and kept.any():
        mean, deviation = near.image[kept].mean(), near.image[kept].std()
        kept &= np.abs(near.image - mean) <= config.outlier_sigma * deviation
    return np.asarray(kept & np.isfinite(near.response))


def _grey_levels(intensity: Volume, config: IbsiConfig) -> Volume:
    """Levels from 1 by IBSI's fixed bin size, counted from the anchor, or fixed bin number (a flat region: all 1).

    NaN throughout where a fixed size makes levels below 1 or too many.
    """
    if np.isnan(intensity).all():
        return intensity
    if config.bin_width is not None and config.lowest_level is not None:
        levels = np.floor((intensity - config.lowest_level) / config.bin_width) + 1
        fit = np.nanmin(levels) >= 1 and np.nanmax(levels) <= MOST_LEVELS + 1
        return levels if fit else np.full_like(levels, np.nan)
    return fixed_levels(intensity, config.bin_count)


def fixed_levels(intensity: Volume, count: int) -> Volume:
    """Levels 1 … `count` between the smallest and the largest intensity; NaN stays, and a flat region is all 1."""
    low, high = np.nanmin(intensity), np.nanmax(intensity)
    scaled = np.floor(count * (intensity - low) / ((high - low) or 1.0)) + 1
    return np.asarray(np.minimum(scaled, count))
