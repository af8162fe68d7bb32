"""Features of every lesion of a case: which pixels belong together, and one row a lesion, with fixed columns."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import NonNegativeInt, model_validator
from scipy import ndimage

from models.errors import ModelError
from models.radiomics.features import FAMILIES, VOLUMETRIC, Aggregation, Family, column_name
from models.radiomics.ibsi import IbsiConfig, features_of, ibsi_features, units_of

Mask = npt.NDArray[np.bool_]
Masks = Mapping[str, npt.ArrayLike] | npt.ArrayLike
Row = dict[str, float | int | str]

WHOLE = "all"
"""Class of the row of the case's whole lesion mask, whose number is 0."""

_ROW_MEANINGS = {
    "lesion": ("1", "number of the lesion within its case, from 1; 0 is all lesions of the case together"),
    "lesion_class": ("", "class of the lesion; 'all' for all lesions together"),
    "n_pixels": ("1", "pixels of the lesion"),
    "area": ("mm²", "pixels times pixel area"),
    "centroid_y": ("pixel", "mean row of the lesion on the grid of the image, from 0 at the top"),
    "centroid_x": ("pixel", "mean column of the lesion on the grid of the image, from 0 at the left"),
    "units": ("", "unit of lengths in this row: mm, or pixel where the spacing is unknown"),
    "reason": ("", "why features are missing; empty where none is"),
}


class RadiomicsConfig(IbsiConfig):
    """Radiomics of lesions in an image: one slice, so planar shape and 2-D textures.

    channel: the intensity; `green` (of three channels; it has the most contrast in fundus photographs), `grey` (ITU-R
        601 luma of three channels), or the index of a channel. An image of one channel is its own intensity.
    min_pixels: smaller lesions get no row of their own; they still belong to `all`.

    Intensity peaks are left out: IBSI's radius of 6.2 mm exceeds most lesions and, in photographs, the image.
    """

    aggregation: Aggregation = "2D_comb"
    families: tuple[Family, ...] = tuple(family for family in FAMILIES if family not in VOLUMETRIC)
    channel: Literal["green", "grey"] | NonNegativeInt = "green"
    min_pixels: int = 1

    @model_validator(mode="after")
    def _families_suit_a_slice(self) -> "RadiomicsConfig":
        if volumetric := set(VOLUMETRIC).intersection(self.families):
            raise ValueError(f"{', '.join(sorted(volumetric))} needs a volume; for lesions of an image use 'planar'")
        return self


class LesionRoi(NamedTuple):
    """One lesion: `roi` is the mask within `box`, the lesion's bounding box in the image."""

    lesion: int
    lesion_class: str
    box: tuple[slice, slice]
    roi: Mask


def features_of_case(
    image: npt.ArrayLike, masks: Masks, spacing_mm: tuple[float, float], config: RadiomicsConfig | None = None
) -> list[Row]:
    """One row for all lesions of a case together, then one a lesion, all with `lesion_columns(config)` as keys.

    Args:
        image: (C, Y, X).
        masks: (L, Y, X) bool, or lesion class → (Y, X) bool.
        spacing_mm: (y, x); NaN where unknown, which makes lengths pixels.
        config: defaults to `RadiomicsConfig()`.

    Raises:
        ModelError: a mask is not on the grid of the image, or the channel does not exist.
    """
    config = config or RadiomicsConfig()
    intensity = intensity_channel(np.asarray(image), config)
    classes = _by_class(masks, intensity.shape)
    return [_row(lesion, intensity, spacing_mm, config) for lesion in lesion_rois(classes, config.min_pixels)]


def lesion_rois(masks: Masks, min_pixels: int = 1) -> Iterator[LesionRoi]:
    """The whole lesion mask of a case (lesion 0, class `all`, even if empty), then its lesions class by class.

    A lesion is a connected component of one class (touching corners connect) with at least `min_pixels` pixels. Classes
    given as an array (L, Y, X) are named by their index.
    """
    classes = _by_class(masks)
    number = 0
    if classes:
        yield _whole(np.logical_or.reduce(list(classes.values())))
    for lesion_class, mask in classes.items():
        labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            roi = labels[box] == label
            if roi.sum() >= min_pixels:
                number += 1
                yield LesionRoi(number, lesion_class, box, roi)


def intensity_channel(image: npt.NDArray[np.generic], config: RadiomicsConfig) -> npt.NDArray[np.float64]:
    """The channel (Y, X) of `image` (C, Y, X) in which intensity is measured.

    Raises:
        ModelError: the image has no such channel.
    """
    if image.ndim != 3:
        raise ModelError(f"an image of shape {image.shape} must be (channel, y, x)")
    if len(image) == 1 and isinstance(config.channel, str):
        return np.asarray(image[0], dtype=np.float64)
    if isinstance(config.channel, str) and len(image) != 3:
        raise ModelError(
            f"channel '{config.channel}' needs red, green and blue; the image has {len(image)} channels: give an index"
        )
    if config.channel == "grey":
        return np.asarray(np.tensordot([0.299, 0.587, 0.114], image.astype(np.float64), axes=1))
    index = 1 if config.channel == "green" else config.channel
    if index >= len(image):
        raise ModelError(f"channel {index} does not exist; the image has channels 0 … {len(image) - 1}")
    return np.asarray(image[index], dtype=np.float64)


def lesion_columns(config: RadiomicsConfig | None = None) -> tuple[str, ...]:
    """Columns of the rows of `features_of_case`, in order, whatever the case."""
    config = config or RadiomicsConfig()
    return (*_ROW_MEANINGS, *(column_name(feature, config.aggregation) for feature in features_of(config)))


def data_dictionary(config: RadiomicsConfig | None = None) -> pd.DataFrame:
    """What each column of the lesion table means: `name`, `family`, `unit`, `ibsi_tag` (or empty), `meaning`."""
    config = config or RadiomicsConfig()
    rows = [(name, "lesion", unit, "", meaning) for name, (unit, meaning) in _ROW_MEANINGS.items()]
    for feature in features_of(config):
        tag = column_name(feature, config.aggregation)
        rows.append((tag, feature.family, feature.unit, tag, feature.meaning))
    return pd.DataFrame(rows, columns=["name", "family", "unit", "ibsi_tag", "meaning"])


def _row(
    lesion: LesionRoi, intensity: npt.NDArray[np.float64], spacing_mm: tuple[float, float], config: RadiomicsConfig
) -> Row:
    units = units_of(spacing_mm)
    pixel_area = spacing_mm[0] * spacing_mm[1] if units == "mm" else 1.0
    ys, xs = np.nonzero(lesion.roi)
    features, reason = ibsi_features(intensity[lesion.box][None], lesion.roi[None], (1.0, *spacing_mm), config)
    return {
        "lesion": lesion.lesion,
        "lesion_class": lesion.lesion_class,
        "n_pixels": ys.size,
        "area": ys.size * pixel_area,
        "centroid_y": float(ys.mean() + lesion.box[0].start) if ys.size else float("nan"),
        "centroid_x": float(xs.mean() + lesion.box[1].start) if xs.size else float("nan"),
        "units": units,
        "reason": reason,
        **features,
    }


def _whole(mask: Mask) -> LesionRoi:
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    box = boxes[0] if boxes else (slice(0, 1), slice(0, 1))
    return LesionRoi(0, WHOLE, box, mask[box])


def _by_class(masks: Masks, shape: tuple[int, ...] | None = None) -> dict[str, Mask]:
    named = masks if isinstance(masks, Mapping) else {str(i): mask for i, mask in enumerate(np.asarray(masks))}
    classes = {str(name): np.asarray(mask, dtype=bool) for name, mask in named.items()}
    for name, mask in classes.items():
        if mask.ndim != 2 or (shape is not None and mask.shape != shape):
            raise ModelError(
                f"the mask of '{name}' has shape {mask.shape}; the grid of the image is {shape or '(y, x)'}"
            )
    return classes
