"""How a region becomes features: IBSI's processing chain as settings, and the five configurations of IBSI 1.

Order of the chain (reference manual arXiv:1612.07003, chapter 2): interpolation of image and mask, rounding, filter
(IBSI 2), re-segmentation by range and then by outliers, discretisation, features.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field, PositiveFloat, model_validator

from models.config import Config
from models.errors import ModelError
from models.radiomics.features import FAMILIES, Aggregation, Family
from models.radiomics.filters import AnyFilter
from models.radiomics.interpolation import Interpolator

MOST_LEVELS = 1024
"""Co-occurrence matrices grow with the square of the number of grey levels."""

IVH_LEVELS = 1000
"""IBSI's number of levels of the intensity-volume histogram for intensities without a unit, as filters make them."""


class IbsiConfig(Config):
    """How a region becomes features; IBSI leaves these to the study and asks that they be reported.

    resample_mm: voxel size to interpolate to, about the image's centre: one number for all axes (of a flat image both),
        two (y, x) to leave the slices as they are, or three (z, y, x).
    interpolator, mask_interpolator: nearest, linear or cubic (spline); a voxel belongs to the region where the
        interpolated mask reaches `mask_threshold`.
    round_intensity: interpolated intensities to whole numbers, as IBSI has it for CT.
    filter: a filter of IBSI 2, `filter.kind` one of mean, log, laws, gabor, wavelet.
    intensity_range: pixels of the region outside of it take no part in intensity features (re-segmentation).
    outlier_sigma: nor do those more than so many standard deviations from the mean of what is left. Both look at the
        image before the filter.
    bin_count: grey levels between the smallest and largest value of the region, for histogram and textures.
    bin_width: width of a grey level in intensity units instead; counted from `bin_anchor`, by default the lower end of
        `intensity_range`.
    ivh_step: step of the intensity-volume histogram in intensity units; 1 suits integers.
    ivh_bin_width: discretise for that histogram with this width instead, as IBSI advises for other units than integers.
    ivh_bin_count: or into so many levels; 1,000 after a filter, unless `ivh_bin_width` is given.
    aggregation: 2-D, 2.5-D (slices pooled) or 3-D matrices; features averaged over directions (avg) or of merged
        matrices (comb).
    families: what to compute; the columns follow the order of `features.FEATURES`.
    """

    resample_mm: PositiveFloat | tuple[PositiveFloat, ...] | None = None
    interpolator: Interpolator = "linear"
    mask_interpolator: Interpolator = "linear"
    mask_threshold: float = Field(default=0.5, gt=0, le=1)
    round_intensity: bool = False
    filter: AnyFilter | None = None
    intensity_range: tuple[float, float] | None = None
    outlier_sigma: PositiveFloat | None = None
    bin_count: int = Field(default=32, ge=2, le=MOST_LEVELS)
    bin_width: PositiveFloat | None = None
    bin_anchor: float | None = None
    ivh_step: PositiveFloat = 1.0
    ivh_bin_width: PositiveFloat | None = None
    ivh_bin_count: int | None = Field(default=None, ge=2)
    aggregation: Aggregation = "3D_comb"
    families: tuple[Family, ...] = tuple(family for family in FAMILIES if family != "planar")

    @model_validator(mode="after")
    def _spacing_has_axes(self) -> "IbsiConfig":
        if isinstance(self.resample_mm, tuple) and len(self.resample_mm) not in (2, 3):
            raise ValueError(f"resample_mm must be one, two or three numbers, not {len(self.resample_mm)}")
        return self

    @model_validator(mode="after")
    def _bins_fit_the_range(self) -> "IbsiConfig":
        if self.intensity_range is not None:
            low, high = self.intensity_range
            if not (np.isfinite([low, high]).all() and low < high):
                raise ValueError(f"intensity_range must be two finite ascending numbers, not {low:g} and {high:g}")
        if self.bin_width is not None and self.lowest_level is None:
            raise ValueError("bin_width needs intensity_range: the levels are counted from its lower end")
        if self.bin_width is not None and self.filter is not None and self.bin_anchor is None:
            raise ValueError("bin_width after a filter needs bin_anchor: intensity_range is of the image before it")
        if self.bin_width is not None and self.intensity_range is not None and self.filter is None:
            levels = (self.intensity_range[1] - self.intensity_range[0]) / self.bin_width
            if levels > MOST_LEVELS:
                raise ValueError(
                    f"bin_width makes {levels:.0f} grey levels; use a width that makes at most {MOST_LEVELS}"
                )
        return self

    @model_validator(mode="after")
    def _one_histogram(self) -> "IbsiConfig":
        if self.ivh_bin_width is not None and self.ivh_bin_count is not None:
            raise ValueError("give ivh_bin_width or ivh_bin_count, not both")
        if self.ivh_bin_width is not None and self.lowest_level is None:
            raise ValueError("ivh_bin_width needs bin_anchor or intensity_range: the bins are counted from there")
        return self

    @property
    def lowest_level(self) -> float | None:
        """Where the first grey level of a fixed width begins; None where nothing says so."""
        if self.bin_anchor is not None or self.intensity_range is None:
            return self.bin_anchor
        return self.intensity_range[0]


_CT_2_MM: dict[str, Any] = {"resample_mm": 2.0, "round_intensity": True}
_SOFT_TISSUE, _LUNG = [-500.0, 400.0], [-1000.0, 400.0]

PRESETS: dict[str, dict[str, Any]] = {
    "ibsi-A": {"aggregation": "2D_comb", "intensity_range": _SOFT_TISSUE, "bin_width": 25.0},
    "ibsi-B": {
        **_CT_2_MM,
        "resample_mm": [2.0, 2.0],
        "aggregation": "2D_comb",
        "intensity_range": _SOFT_TISSUE,
        "bin_count": 32,
    },
    "ibsi-C": {**_CT_2_MM, "intensity_range": _LUNG, "bin_width": 25.0, "ivh_bin_width": 2.5},
    "ibsi-D": {**_CT_2_MM, "outlier_sigma": 3.0, "bin_count": 32},
    "ibsi-E": {
        **_CT_2_MM,
        "interpolator": "cubic",
        "intensity_range": _LUNG,
        "outlier_sigma": 3.0,
        "bin_count": 32,
        "ivh_bin_count": IVH_LEVELS,
    },
}
"""The processing configurations of the CT image of IBSI 1 (reference manual, table "configurations"), for volumes."""


def with_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` on top of the preset that they name under `preset`, if any.

    Raises:
        ModelError: there is no such preset.
    """
    own = dict(settings)
    name = own.pop("preset", None)
    if name is None:
        return own
    if name not in PRESETS:
        raise ModelError(f"there is no radiomics preset {name!r}; there is: {', '.join(PRESETS)}")
    return {**PRESETS[name], **own}
