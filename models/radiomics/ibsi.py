"""IBSI radiomics features of one region of interest by z-rad (`zrad.radiomics`).

z-rad raises where a feature is undefined and takes its whole call along: for regions of a few voxels, flat or empty
ones, and cubes (whose ellipsoid has no closed area). Weak masks make such regions all the time, so its calculators are
called family by family: the columns are always the same, a family that cannot be computed is NaN with its reason, and
the others are kept.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from zrad.exceptions import DataStructureError
from zrad.radiomics.glcm import GLCM
from zrad.radiomics.gldzm import GLDZM
from zrad.radiomics.glrlm import GLRLM
from zrad.radiomics.glszm import GLSZM
from zrad.radiomics.intensity import (
    IntensityHistogramFeatures,
    IntensityStatisticsFeatures,
    IntensityVolumeHistogramFeatures,
    LocalIntensityFeatures,
)
from zrad.radiomics.morphology import MorphologicalFeatures, MorphologyCorrelationFeatures
from zrad.radiomics.ngldm import NGLDM
from zrad.radiomics.ngtdm import NGTDM

from models.errors import ModelError
from models.radiomics.features import FEATURES, Family, Feature, column_name
from models.radiomics.interpolation import Box
from models.radiomics.preparation import Mask, Region, Spacing, bounding_box, fixed_levels, prepared_region
from models.radiomics.settings import IVH_LEVELS, MOST_LEVELS, IbsiConfig

# z-rad's answers where a denominator is 0; only the coarseness of a flat region is a million by definition
_WITHOUT_DENOMINATOR = 1_000_000
_MAY_BE_WITHOUT_DENOMINATOR = ("stat_cov", "stat_qcod", "ih_cov", "ih_qcod")

_Z_RAD_AGGREGATION = {
    "2D_avg": ("2D", "AVER"),
    "2D_comb": ("2D", "SLICE_MERG"),
    "2_5D_avg": ("2.5D", "DIR_MERG"),
    "2_5D_comb": ("2.5D", "MERG"),
    "3D_avg": ("3D", "AVER"),
    "3D_comb": ("3D", "MERG"),
}


def ibsi_features(
    image: npt.ArrayLike, roi: npt.ArrayLike, spacing_mm: Spacing, config: IbsiConfig | None = None
) -> tuple[dict[str, float], str]:
    """Features of `roi` (Z, Y, X) in `image` (Z, Y, X) with voxels of `spacing_mm` (z, y, x), and why some are missing.

    The keys are `columns(config)` whatever the region; what cannot be computed is NaN, and the reason (one line, empty
    if all went well) says which family and why. An image is one slice (Z = 1). Where a spacing is unknown (NaN) lengths
    are in pixels.

    Raises:
        ModelError: shapes differ or are not (Z, Y, X).
    """
    config = config or IbsiConfig()
    volume, mask = np.asarray(image), np.asarray(roi, dtype=bool)
    if volume.ndim != 3 or volume.shape != mask.shape:
        raise ModelError(f"image {volume.shape} and region {mask.shape} must both be (Z, Y, X); a flat image has Z = 1")
    if not mask.any():
        return _as_columns({}, config), "the region is empty"
    box = bounding_box(mask, [0, 0, 0])
    return features_in_box(volume, mask[box], box, spacing_mm, config)


def features_in_box(
    image: npt.NDArray[np.generic], roi: Mask, box: Box, spacing_mm: Spacing, config: IbsiConfig
) -> tuple[dict[str, float], str]:
    """`ibsi_features` of the region that is `roi` within `box` of `image` (Z, Y, X).

    Raises:
        ModelError: the voxels cannot be interpolated or filtered as the settings say.
    """
    if not roi.any():
        return _as_columns({}, config), "the region is empty"
    region = prepared_region(image, roi, box, spacing_mm, config)
    if region is None:
        return _as_columns({}, config), "nothing of the region is left in voxels of resample_mm"
    if np.isnan(region.intensity).all():
        return _as_columns({}, config), "no pixel of the region has a finite intensity within intensity_range"
    values: dict[str, float] = {}
    reasons = []
    for family in dict.fromkeys(config.families):
        computed, reason = _family_values(family, region)
        values |= computed
        reasons += [f"{family}: {reason}"] if reason else []
    return _as_columns(values, config), "; ".join(reasons)


def columns(config: IbsiConfig | None = None) -> tuple[str, ...]:
    """Names of the features of a configuration, in order: always the same, whatever the region."""
    config = config or IbsiConfig()
    return tuple(column_name(feature, config.aggregation) for feature in features_of(config))


def features_of(config: IbsiConfig) -> list[Feature]:
    """The features of a configuration in the order of the columns; `planar` adds nothing beside `morphology`."""
    families = set(config.families) - ({"planar"} if "morphology" in config.families else set())
    return [feature for feature in FEATURES if feature.family in families]


def _as_columns(values: dict[str, float], config: IbsiConfig) -> dict[str, float]:
    wanted = features_of(config)
    return {column_name(feature, config.aggregation): values.get(feature.name, float("nan")) for feature in wanted}


def _family_values(family: Family, region: Region) -> tuple[dict[str, float], str]:
    """Values by name (NaN where not finite) and why some or all are missing."""
    try:
        with np.errstate(all="ignore"):
            computed = _FAMILY[family](region)
    except (DataStructureError, ArithmeticError, ValueError, IndexError, RuntimeError) as error:
        return {}, _one_line(error)
    values = {name: _finite(name, value) for name, value in computed.items()}
    return values, _undefined_here([name for name, value in values.items() if np.isnan(value)])


def _finite(name: str, value: Any) -> float:
    number = float(value)
    undefined = not np.isfinite(number) or (name in _MAY_BE_WITHOUT_DENOMINATOR and number == _WITHOUT_DENOMINATOR)
    return float("nan") if undefined else number


def _undefined_here(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} undefined here" if names else ""


def _one_line(error: Exception) -> str:
    message = (str(error).strip().splitlines() or [type(error).__name__])[0].strip().rstrip(".")
    return "no neighbouring pixels in a direction or slice" if "Denominator is zero" in message else message


class _Morphology(MorphologicalFeatures):
    """z-rad's morphology, where a step that fails gives NaN instead of taking the other features along."""

    def _calc_pca(self, mask_array: Any) -> Any:
        eigenvalues = _or_nan(super()._calc_pca, np.full(3, np.nan))(mask_array)
        # rounding leaves the thickness of a flat region at ±1e-17, whose root would count as a length
        return np.where(eigenvalues > 1e-12 * eigenvalues[0], eigenvalues, eigenvalues * 0)

    def _calc_centre_of_shift(self, mask_array: Any, image_array: Any) -> Any:
        return _or_nan(super()._calc_centre_of_shift)(mask_array, image_array)

    def _calc_elongation(self, pca_eigenvalues: Any) -> Any:
        return _or_nan(super()._calc_elongation)(pca_eigenvalues)

    def _calc_flatness(self, pca_eigenvalues: Any) -> Any:
        return _or_nan(super()._calc_flatness)(pca_eigenvalues)

    def _calc_vol_density_aee(self, *lengths: float) -> Any:
        return _or_nan(super()._calc_vol_density_aee)(*lengths)

    def _calc_area_density_aee(self, *lengths: float) -> Any:
        return _or_nan(super()._calc_area_density_aee)(*lengths)

    def planar(self, region: Region) -> dict[str, float]:
        """What means something within one slice: in-plane axes, the shift of the centre, autocorrelation."""
        mask = region.roi.astype(np.int8)
        eigenvalues = self._calc_pca(mask)
        major, minor, _ = self._calc_major_minor_least_axes_len(eigenvalues)
        correlation = MorphologyCorrelationFeatures(region.spacing_mm).calculate_features(mask, region.intensity)
        return {
            "morph_com": self._calc_centre_of_shift(mask, region.intensity),
            "morph_pca_maj_axis": major,
            "morph_pca_min_axis": minor,
            "morph_pca_elongation": self._calc_elongation(eigenvalues),
            **correlation,
        }


def _or_nan(step: Callable[..., Any], instead: Any = np.nan) -> Callable[..., Any]:
    def attempt(*arguments: Any) -> Any:
        try:
            return step(*arguments)
        except (DataStructureError, ArithmeticError, ValueError):
            return instead

    return attempt


class _FirstOrder:
    """What z-rad's first-order calculators make of too few values, undone: values are flat and free of NaN."""

    @staticmethod
    def _robust_mean_abs_deviation(values: Any) -> Any:
        low, high = np.percentile(values, [10, 90])
        kept = values[(values >= low) & (values <= high)]
        # of two values none lies between the percentiles; z-rad warns
        return np.abs(kept - kept.mean()).mean() if kept.size else np.nan


class _Statistics(_FirstOrder, IntensityStatisticsFeatures):
    """z-rad's intensity statistics."""


class _Histogram(_FirstOrder, IntensityHistogramFeatures):
    """z-rad's histogram, where one level has no gradient instead of no features."""

    @staticmethod
    def _histogram_gradient(levels: Any) -> Any:
        nothing = np.full(1, np.nan)
        return _or_nan(IntensityHistogramFeatures._histogram_gradient, (nothing, nothing))(levels)


class _CoOccurrence(GLCM):
    """z-rad's co-occurrence features, where a flat region has no correlation instead of no features."""

    @classmethod
    def _calc_correlation(cls, matrix: Any) -> Any:
        return _or_nan(super()._calc_correlation)(matrix)

    @staticmethod
    def _calc_information_correlation_1(matrix: Any) -> Any:
        return _or_nan(GLCM._calc_information_correlation_1)(matrix)


class _VolumeHistogram(IntensityVolumeHistogramFeatures):
    """z-rad's, where an intensity so rare may lie above the range: in ten pixels or fewer the largest alone is 10 %."""

    def _calc_intensity_at_volume_fraction(self, intensities: Any, fractional_volumes: Any, x: float) -> Any:
        rare = intensities[fractional_volumes <= x / 100]
        return rare.min() if rare.size else intensities[-1] + self.discr


def _morphology(region: Region) -> dict[str, float]:
    if region.is_slice:
        raise DataStructureError("a flat image has no volume; the planar family describes it")
    calculator = _Morphology(region.spacing_mm)
    return dict(calculator.calculate_features(region.roi.astype(np.int8), region.intensity))


def _local_intensity(region: Region) -> dict[str, float]:
    return dict(
        LocalIntensityFeatures(region.spacing_mm).calculate_features(region.surrounding, region.intensity_within)
    )


def _ivh(region: Region) -> dict[str, float]:
    values, low, high, step = _ivh_axis(region.values, region.config)
    return dict(_VolumeHistogram(low, high, step).calculate_features(values))


def _ivh_axis(values: Any, config: IbsiConfig) -> tuple[Any, float, float, float]:
    """Intensities as the histogram counts them, its ends and its step (reference manual, section 3.5).

    Bins of a fixed width go by their centres, a fixed number of bins by their levels, anything else as it is.
    """
    # after a filter the range, which is of the image before it, says nothing about the values
    ends = None if config.filter else config.intensity_range
    width, count = config.ivh_bin_width, config.ivh_bin_count
    if width is not None and config.lowest_level is not None:
        anchor = config.lowest_level
        centres = anchor + (np.floor((values - anchor) / width) + 0.5) * width
        return centres, anchor + width / 2, ends[1] - width / 2 if ends else centres.max(), width
    if count is None and config.filter is not None:
        count = IVH_LEVELS
    if count is not None:
        levels = fixed_levels(values, count)
        return levels, levels.min(), levels.max(), 1.0
    low, high = ends or (values.min(), values.max())
    return values, low, high, config.ivh_step


def _histogram(region: Region) -> dict[str, float]:
    levels = _levels_of(region)
    return dict(_Histogram().calculate_features(levels[~np.isnan(levels)]))


def _levels_of(region: Region) -> Any:
    if np.isnan(region.levels).all():
        raise DataStructureError(f"intensities below the first grey level, or more than {MOST_LEVELS} levels above it")
    return region.levels


def _texture(matrix: Callable[..., Any], *, directional: bool) -> Callable[[Region], dict[str, float]]:
    """z-rad's texture calculators take arrays in x, y, z order."""

    def compute(region: Region) -> dict[str, float]:
        aggregation = region.config.aggregation
        # over one slice 2-D and 2.5-D are the same numbers, and pooling is 3 ms faster than averaging a single value
        dimension, method = _Z_RAD_AGGREGATION[aggregation.replace("2D", "2_5D") if region.is_slice else aggregation]
        calculator = matrix(dimension, method) if directional else matrix(dimension)
        levels = _levels_of(region).T
        arrays = [levels, region.roi.T.astype(np.int8)] if matrix is GLDZM else [levels]
        return dict(calculator.calculate_features(*arrays))

    return compute


_FAMILY: dict[Family, Callable[[Region], dict[str, float]]] = {
    "morphology": _morphology,
    "planar": lambda region: _Morphology(region.spacing_mm).planar(region),
    "local_intensity": _local_intensity,
    "intensity_statistics": lambda region: dict(_Statistics().calculate_features(region.values)),
    "intensity_histogram": _histogram,
    "ivh": _ivh,
    "glcm": _texture(_CoOccurrence, directional=True),
    "glrlm": _texture(GLRLM, directional=True),
    "glszm": _texture(GLSZM, directional=False),
    "gldzm": _texture(GLDZM, directional=False),
    "ngtdm": _texture(NGTDM, directional=False),
    "ngldm": _texture(NGLDM, directional=False),
}
