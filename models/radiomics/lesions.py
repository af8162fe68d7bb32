"""Features of every lesion of a case: which pixels belong together, and one row a lesion, with fixed columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import NonNegativeInt, model_validator
from scipy import ndimage

from models.errors import ModelError
from models.radiomics.burden import MEANINGS, burden_in_box
from models.radiomics.features import FAMILIES, VOLUMETRIC, Aggregation, Family, column_name
from models.radiomics.ibsi import features_in_box, features_of
from models.radiomics.perturbation import StabilityConfig, drawn_perturbations, perturbed_features
from models.radiomics.preparation import Mask, Spacing, units_of
from models.radiomics.settings import IbsiConfig

Image = npt.NDArray[np.generic]
Masks = Mapping[str, npt.ArrayLike] | npt.ArrayLike
Row = dict[str, float | int | str]

WHOLE = "all"
"""Class of the row of the case's whole lesion mask, whose number is 0."""

_FIRST_MEANINGS = {
    "lesion": ("1", "number of the lesion within its case, from 1; 0 is all lesions of the case together"),
    "lesion_class": ("", "class of the lesion; 'all' for all lesions together"),
    "n_pixels": ("1", "pixels of the lesion, of a volume voxels, on the grid of the image"),
}
_PLACE_MEANINGS = {
    "centroid_z": ("pixel", "mean slice of the lesion on the grid of the image, from 0 at the feet"),
    "centroid_y": ("pixel", "mean row of the lesion on the grid of the image, from 0 at the top"),
    "centroid_x": ("pixel", "mean column of the lesion on the grid of the image, from 0 at the left"),
}
_LAST_MEANINGS = {
    "units": ("", "unit of lengths in this row: mm, or pixel where the spacing is unknown"),
    "reason": ("", "why features are missing; empty where none is"),
}
_SIZE_MEANINGS = {
    "area": ("mm²", "pixels times pixel area"),
    "volume": ("mm³", "voxels times voxel volume"),
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


class VolumeRadiomicsConfig(IbsiConfig):
    """Radiomics of lesions in a volume.

    channel: index of the channel that is the intensity.
    min_pixels: lesions of fewer voxels get no row of their own; they still belong to `all`.
    burden: the intensity is SUV: also MTV, TLG and SUVs of `models.radiomics.burden`, of the image as it is.
    """

    channel: NonNegativeInt = 0
    min_pixels: int = 1
    burden: bool = False


LesionConfig = RadiomicsConfig | VolumeRadiomicsConfig


class LesionRoi(NamedTuple):
    """One lesion: `roi` is the mask within `box`, the lesion's bounding box (y, x) or (z, y, x) in the image."""

    lesion: int
    lesion_class: str
    box: tuple[slice, ...]
    roi: Mask


def features_of_case(
    image: npt.ArrayLike, masks: Masks, spacing_mm: tuple[float, ...], config: LesionConfig | None = None
) -> list[Row]:
    """One row for all lesions of a case together, then one a lesion, all with `lesion_columns(config)` as keys.

    Args:
        image: (C, Y, X) or (C, Z, Y, X).
        masks: (L, Y, X) or (L, Z, Y, X) bool, or lesion class → mask.
        spacing_mm: (y, x) or (z, y, x); NaN where unknown, which makes lengths pixels.
        config: defaults to `RadiomicsConfig()`, for a volume to `VolumeRadiomicsConfig()`.

    Raises:
        ModelError: a mask is not on the grid of the image, the channel does not exist, or the settings do not fit.
    """
    array = np.asarray(image)
    config = config or (VolumeRadiomicsConfig() if array.ndim == 4 else RadiomicsConfig())
    intensity = intensity_channel(array, config)
    classes = _by_class(masks, intensity.shape)
    rows: list[Row] = []
    whole = None
    for lesion in lesion_rois(classes, config.min_pixels):
        # a case with one lesion has measured it as the whole
        known = rows[0] if whole is not None and _is_same(lesion, whole) else None
        rows.append(_row(lesion, intensity, spacing_mm, config, known))
        whole = whole or lesion
    return rows


def lesion_rois(masks: Masks, min_pixels: int = 1) -> Iterator[LesionRoi]:
    """The whole lesion mask of a case (lesion 0, class `all`, even if empty), then its lesions class by class.

    A lesion is a connected component of one class (touching corners connect) with at least `min_pixels` pixels. Classes
    given as an array (L, Y, X) or (L, Z, Y, X) are named by their index.
    """
    classes = _by_class(masks)
    number = 0
    if classes:
        yield _whole(np.logical_or.reduce(list(classes.values())))
    for lesion_class, mask in classes.items():
        labels, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            roi = labels[box] == label
            if roi.sum() >= min_pixels:
                number += 1
                yield LesionRoi(number, lesion_class, box, roi)


def as_volume(
    lesion: LesionRoi, intensity: Image, spacing_mm: tuple[float, ...]
) -> tuple[Image, Mask, tuple[slice, ...], Spacing]:
    """Image, mask, box and spacing with three axes: an image is one slice of thickness 1."""
    if intensity.ndim == 3:
        return intensity, lesion.roi, lesion.box, (spacing_mm[0], spacing_mm[1], spacing_mm[2])
    flat = (1.0, spacing_mm[-2], spacing_mm[-1])
    return intensity[None], lesion.roi[None], (slice(0, 1), *lesion.box), flat


def intensity_channel(image: Image, config: LesionConfig) -> Image:
    """The channel (Y, X) or (Z, Y, X) of `image` (C, …) in which intensity is measured.

    Raises:
        ModelError: the image has no such channel, or is a volume and the settings are for images, or the reverse.
    """
    axes = "(channel, z, y, x)" if isinstance(config, VolumeRadiomicsConfig) else "(channel, y, x)"
    if image.ndim != axes.count(",") + 1:
        raise ModelError(f"an image of shape {image.shape} must be {axes}")
    if isinstance(config, VolumeRadiomicsConfig):
        return np.asarray(image[_existing(config.channel, image)])
    if len(image) == 1 and isinstance(config.channel, str):
        return np.asarray(image[0], dtype=np.float64)
    if isinstance(config.channel, str) and len(image) != 3:
        raise ModelError(
            f"channel '{config.channel}' needs red, green and blue; the image has {len(image)} channels: give an index"
        )
    if config.channel == "grey":
        return np.asarray(np.tensordot([0.299, 0.587, 0.114], image.astype(np.float64), axes=1))
    index = 1 if config.channel == "green" else config.channel
    return np.asarray(image[_existing(index, image)], dtype=np.float64)


def _existing(index: int, image: Image) -> int:
    if index >= len(image):
        raise ModelError(f"channel {index} does not exist; the image has channels 0 … {len(image) - 1}")
    return index


def perturbed_lesions(
    image: npt.ArrayLike,
    masks: Masks,
    spacing_mm: tuple[float, ...],
    wanted: Sequence[int],
    config: LesionConfig,
    stability: StabilityConfig,
    seed: int,
) -> list[Row]:
    """IBSI features of the lesions numbered `wanted`, a row a perturbation: `lesion`, `perturbation`, the features.

    Arguments as of `features_of_case`; `seed` is the case's own, for what chance decides beside the drawn chains.

    Raises:
        ModelError: as `features_of_case`.
    """
    intensity = intensity_channel(np.asarray(image), config)
    chains = drawn_perturbations(stability, is_slice=intensity.ndim == 2)
    rows: list[Row] = []
    for lesion in lesion_rois(_by_class(masks, intensity.shape), config.min_pixels):
        if lesion.lesion in wanted:
            part = as_volume(lesion, intensity, spacing_mm)
            for number, chain in enumerate(chains):
                random = np.random.default_rng([stability.seed, seed, lesion.lesion, number])
                features = perturbed_features(*part, config, chain, random)
                rows.append({"lesion": lesion.lesion, "perturbation": number, **features})
    return rows


def lesion_columns(config: LesionConfig | None = None) -> tuple[str, ...]:
    """Columns of the rows of `features_of_case`, in order, whatever the case."""
    config = config or RadiomicsConfig()
    features = (column_name(feature, config.aggregation) for feature in features_of(config))
    return (*_row_meanings(config), *_burden_meanings(config), *features)


def data_dictionary(config: LesionConfig | None = None) -> pd.DataFrame:
    """What each column of the lesion table means: `name`, `family`, `unit`, `ibsi_tag` (or empty), `meaning`."""
    config = config or RadiomicsConfig()
    rows = [(name, "lesion", unit, "", meaning) for name, (unit, meaning) in _row_meanings(config).items()]
    rows += [(name, "burden", unit, "", meaning) for name, (unit, meaning) in _burden_meanings(config).items()]
    for feature in features_of(config):
        tag = column_name(feature, config.aggregation)
        rows.append((tag, feature.family, feature.unit, tag, feature.meaning))
    return pd.DataFrame(rows, columns=["name", "family", "unit", "ibsi_tag", "meaning"])


def _row_meanings(config: LesionConfig) -> dict[str, tuple[str, str]]:
    volumetric = isinstance(config, VolumeRadiomicsConfig)
    size = "volume" if volumetric else "area"
    places = {name: meaning for name, meaning in _PLACE_MEANINGS.items() if volumetric or name != "centroid_z"}
    return {**_FIRST_MEANINGS, size: _SIZE_MEANINGS[size], **places, **_LAST_MEANINGS}


def _burden_meanings(config: LesionConfig) -> dict[str, tuple[str, str]]:
    return MEANINGS if isinstance(config, VolumeRadiomicsConfig) and config.burden else {}


def _row(
    lesion: LesionRoi, intensity: Image, spacing_mm: tuple[float, ...], config: LesionConfig, known: Row | None
) -> Row:
    """The row of a lesion; `known` is that of a region of the same pixels, whose features are the same."""
    features, reason = ({}, "") if known else features_in_box(*as_volume(lesion, intensity, spacing_mm), config)
    row: Row = {"reason": reason, **(known or {}), **features}
    units = units_of(spacing_mm)
    places = np.argwhere(lesion.roi)
    centre = places.mean(axis=0) if len(places) else np.full(lesion.roi.ndim, np.nan)
    row |= {"lesion": lesion.lesion, "lesion_class": lesion.lesion_class, "n_pixels": len(places), "units": units}
    row["volume" if intensity.ndim == 3 else "area"] = len(places) * float(np.prod(spacing_mm) if units == "mm" else 1)
    for axis, position, side in zip("xyz", centre[::-1], lesion.box[::-1], strict=False):
        row[f"centroid_{axis}"] = float(position + side.start)
    if _burden_meanings(config) and not known:
        row |= burden_in_box(intensity, lesion.roi, lesion.box, spacing_mm)._asdict()
    return {name: row[name] for name in lesion_columns(config)}


def _is_same(lesion: LesionRoi, other: LesionRoi) -> bool:
    return lesion.box == other.box and np.array_equal(lesion.roi, other.roi)


def _whole(mask: Mask) -> LesionRoi:
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    box = boxes[0] if boxes else (slice(0, 1),) * mask.ndim
    return LesionRoi(0, WHOLE, box, mask[box])


def _by_class(masks: Masks, shape: tuple[int, ...] | None = None) -> dict[str, Mask]:
    named = masks if isinstance(masks, Mapping) else {str(i): mask for i, mask in enumerate(np.asarray(masks))}
    classes = {str(name): np.asarray(mask, dtype=bool) for name, mask in named.items()}
    for name, mask in classes.items():
        if mask.ndim not in (2, 3) or (shape is not None and mask.shape != shape):
            grid = shape or "(y, x) or (z, y, x)"
            raise ModelError(f"the mask of '{name}' has shape {mask.shape}; the grid of the image is {grid}")
    return classes
