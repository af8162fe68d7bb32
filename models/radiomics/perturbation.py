"""A lesion as another scan and another reader might have had it: features that survive this are stable.

Perturbation chains after Zwanenburg et al., Scientific Reports 2019;9:614: noise on the image, rotation and
translation of image and mask, a contour that grows or shrinks, a contour that follows the image instead of the
reader's hand. What is applied is drawn first (`drawn_perturbations`), the same for all lesions, and can be replayed;
only noise and the contour's chance are a lesion's own.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from scipy import ndimage
from skimage.segmentation import slic

from models.config import Config
from models.metrics.reliability import Kind
from models.radiomics.ibsi import features_in_box
from models.radiomics.interpolation import Box
from models.radiomics.preparation import Mask, Spacing, bounding_box, reach_mm, units_of
from models.radiomics.settings import IbsiConfig

Volume = npt.NDArray[np.float64]
Image = npt.NDArray[np.generic]

_SURELY_OUT, _SURELY_IN = 0.2, 0.9  # shares of a supervoxel between which chance decides (Zwanenburg 2019)
_FEWEST_SUPERVOXELS, _MOST_SUPERVOXELS = 4, 32  # in a lesion
_LEAST_SIDE = 3  # of a supervoxel, in voxels
_COMPACTNESS = 0.3  # follows an edge and not noise: with 0.1 a ball in plain noise keeps a Dice of 0.55, with 0.3 0.75
_ORDER = {"nearest": 0, "linear": 1, "cubic": 3}


class StabilityConfig(Config):
    """How lesions are perturbed, and on how many the correlations rest.

    perturbations: chains a lesion.
    rotation_degrees, shift_pixels, growth_mm: the ends of what is drawn evenly: in-plane rotation, translation along
        each axis (of an image in its plane), displacement of the contour in mm (in pixels where there is no spacing).
    noise: standard deviation of the noise added, in units of the noise that is found in the image.
    contour: redraw the contour along supervoxels.
    icc: ICC(1,1) takes every lesion's perturbations for its own, ICC(3,1) asks for consistency alone.
    lesions: at most so many, drawn evenly.
    """

    perturbations: int = Field(default=8, ge=2)
    rotation_degrees: NonNegativeFloat = 6.0
    shift_pixels: NonNegativeFloat = 0.5
    growth_mm: NonNegativeFloat = 1.0
    noise: NonNegativeFloat = 1.0
    contour: bool = True
    icc: Kind = "1,1"
    lesions: PositiveInt = 100
    seed: NonNegativeInt = 0


class Perturbation(NamedTuple):
    """One chain: degrees, voxels (z, y, x), mm outwards, and the share of the image's own noise."""

    rotation_degrees: float
    shift: tuple[float, float, float]
    growth_mm: float
    noise: float
    contour: bool


def drawn_perturbations(config: StabilityConfig, *, is_slice: bool) -> list[Perturbation]:
    """The chains of a configuration; equal settings draw equal chains."""
    random = np.random.default_rng(config.seed)
    chains = []
    for _ in range(config.perturbations):
        angle = random.uniform(-config.rotation_degrees, config.rotation_degrees)
        z, y, x = random.uniform(-config.shift_pixels, config.shift_pixels, 3)
        growth = random.uniform(-config.growth_mm, config.growth_mm)
        shift = (0.0 if is_slice else float(z), float(y), float(x))
        chains.append(Perturbation(float(angle), shift, float(growth), config.noise, config.contour))
    return chains


def perturbed_features(
    image: Image,
    roi: Mask,
    box: Box,
    spacing_mm: Spacing,
    config: IbsiConfig,
    chain: Perturbation,
    random: np.random.Generator,
) -> dict[str, float]:
    """Features of the region that is `roi` within `box` of `image` (Z, Y, X) after a chain; NaN where undefined."""
    spacing = spacing_mm if units_of(spacing_mm) == "mm" else (1.0, 1.0, 1.0)
    part = _surrounded(image, roi, box, spacing, config, chain)
    image_moved, inside = perturbed(part, spacing, chain, random, _ORDER[config.interpolator])
    tight = bounding_box(inside, [0, 0, 0])
    features, _ = features_in_box(image_moved, inside[tight], tight, spacing_mm, config)
    return features


def perturbed(
    part: tuple[Volume, Mask], spacing_mm: Spacing, chain: Perturbation, random: np.random.Generator, order: int = 1
) -> tuple[Volume, Mask]:
    """Image and mask (Z, Y, X) after a chain, on the same grid; a mask that would vanish keeps its innermost voxels."""
    image, inside = part
    noisy = image + random.normal(0, chain.noise * noise_level(image), image.shape) if chain.noise else image
    moved = _moved(noisy, spacing_mm, inside, chain, order)
    outwards = _moved(distance_to_surface(inside, spacing_mm), spacing_mm, inside, chain, 1)
    grown = _at_least_the_core(outwards, chain.growth_mm)
    return moved, randomised_contour(moved, grown, spacing_mm, random) if chain.contour else grown


def noise_level(image: Volume) -> float:
    """Standard deviation of the noise in `image` (Z, Y, X), from the median of its finest diagonal details.

    Donoho and Johnstone 1994: σ = median |d| / 0.6745, here with d of the Haar wavelet in each slice.
    """
    if min(image.shape[1:]) < 2:
        return 0.0
    details = (image[:, :-1, :-1] - image[:, 1:, :-1] - image[:, :-1, 1:] + image[:, 1:, 1:]) / 2
    return float(np.median(np.abs(details)) / 0.6745)


def distance_to_surface(inside: Mask, spacing_mm: Spacing) -> Volume:
    """Signed distance in mm of each voxel's centre from the region's surface: negative inside.

    The surface runs midway between a voxel of the region and the nearest one that is not.
    """
    outer, inner = _to_the_other(~inside, spacing_mm), _to_the_other(inside, spacing_mm)
    return np.where(inside, -inner, outer)


def randomised_contour(image: Volume, inside: Mask, spacing_mm: Spacing, random: np.random.Generator) -> Mask:
    """The region made of supervoxels: each belongs to it by chance, as often as it lies in `inside`.

    Supervoxels that lie in it by less than a fifth never belong to it, those by nine tenths and more always. A region
    too small for a few of them stays as it is.
    """
    size = max(_LEAST_SIDE ** (2 if len(inside) == 1 else 3), inside.sum() / _MOST_SUPERVOXELS)
    if inside.sum() < _FEWEST_SUPERVOXELS * size:
        return inside
    near = image[ndimage.binary_dilation(inside, iterations=2)]
    segments = slic(
        np.clip((image - near.min()) / (np.ptp(near) or 1.0), 0, 1),
        n_segments=int(np.ceil(inside.size / size)),
        compactness=_COMPACTNESS,
        spacing=spacing_mm,
        channel_axis=None,
        start_label=0,
    )
    share = np.bincount(segments.ravel(), inside.ravel()) / np.maximum(np.bincount(segments.ravel()), 1)
    chosen = (share >= _SURELY_IN) | ((share >= _SURELY_OUT) & (random.random(share.size) < share))
    redrawn = np.asarray(chosen[segments], dtype=bool)
    return redrawn if redrawn.any() else inside


def _surrounded(
    image: Image, roi: Mask, box: Box, spacing: Spacing, config: IbsiConfig, chain: Perturbation
) -> tuple[Volume, Mask]:
    """The region with as much around it as its features and the chain reach."""
    seen = reach_mm(spacing, config, is_slice=image.shape[0] == 1)
    half_diagonal = np.hypot(*(step * size / 2 for step, size in zip(spacing[1:], roi.shape[1:], strict=True)))
    swing = half_diagonal * np.sin(np.deg2rad(abs(chain.rotation_degrees)))
    wide = []
    for axis, (part, size) in enumerate(zip(box, image.shape, strict=True)):
        moved = abs(chain.shift[axis]) + ((swing if axis else 0.0) + max(chain.growth_mm, 0.0)) / spacing[axis]
        extra = int(np.ceil(moved + seen[axis] / spacing[axis])) + 2
        wide.append(slice(max(part.start - extra, 0), min(part.stop + extra, size)))
    around = [(part.start - outer.start, outer.stop - part.stop) for part, outer in zip(box, wide, strict=True)]
    return image[tuple(wide)].astype(np.float64), np.pad(roi, around)


def _moved(volume: Volume, spacing: Spacing, inside: Mask, chain: Perturbation, order: int) -> Volume:
    """`volume` turned in the plane about the centre of `inside` and shifted; beyond the edge its last values stay."""
    angle = np.deg2rad(chain.rotation_degrees)
    ratio = spacing[2] / spacing[1]
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), ratio * np.sin(angle)], [-np.sin(angle) / ratio, np.cos(angle)]]
    centre = np.argwhere(inside).mean(axis=0)
    offset = centre - turn @ (centre + chain.shift)
    if order == 3:
        return np.asarray(ndimage.affine_transform(volume, turn, offset, order=3, mode="mirror"))
    return np.asarray(ndimage.affine_transform(volume, turn, offset, order=order, mode="nearest"))


def _at_least_the_core(outwards: Volume, growth_mm: float) -> Mask:
    return np.asarray(outwards <= max(growth_mm, float(outwards.min())))


def _to_the_other(start: Mask, spacing: Spacing) -> Volume:
    """Distance from each voxel of `start` to the surface towards the nearest voxel that is not of it."""
    if start.all():
        return np.full(start.shape, np.dot(start.shape, spacing))
    _, nearest = ndimage.distance_transform_edt(start, sampling=spacing, return_indices=True)
    steps = np.abs(nearest - np.indices(start.shape))
    length = np.sqrt(sum((steps[axis] * spacing[axis]) ** 2 for axis in range(3)))
    # half the last step lies beyond the surface; along (1, 1, 1) layers of voxels are a third of that way apart
    return np.asarray(length * (1 - 0.5 / np.maximum(steps.sum(axis=0), 1)))
