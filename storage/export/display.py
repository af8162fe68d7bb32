"""How a case looks on a screen: grey-value windows, views of a volume, outlines, heat.

All without matplotlib: a picture of a case is some arrays (y, x, 3) uint8 put side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

WINDOWS = {"PET": (0.0, 10.0), "PT": (0.0, 10.0), "CT": (-160.0, 240.0)}  # SUV; Hounsfield units of soft tissue
PERCENTILES = (0.5, 99.5)
NO_SUV = 100.0  # PET whose 99.5 % quantile lies above that is in Bq/mL or counts
LESION_COLOURS = ((0, 194, 255), (255, 225, 77), (255, 90, 209), (107, 255, 107), (255, 140, 26), (176, 140, 255))
HEAT_OPACITY = 0.8


@dataclass(frozen=True)
class View:
    """A plane of a case: a slice of a volume, or the maximum along an axis; `axis` None: the case is a picture."""

    title: str
    axis: int | None = None
    place: int | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """The plane of `values` (y, x) or (z, y, x); the patient's head is up."""
        if self.axis is None:
            return values
        plane = values.max(axis=self.axis) if self.place is None else np.take(values, self.place, self.axis)
        return np.asarray(plane if self.axis == 0 else plane[::-1])

    def spacing(self, spacing_mm: Sequence[float]) -> tuple[float, float]:
        """(down, across) in mm of the plane's pixels; square ones where it is unknown."""
        rest = [mm for axis, mm in enumerate(spacing_mm) if axis != self.axis]
        down, across = rest if all(mm > 0 for mm in rest) else (1.0, 1.0)
        return down, across


def window(channel: str, image: np.ndarray) -> tuple[float, float]:
    """The values shown black and white.

    0–255 for 8-bit pictures, 0–10 SUV for PET, −160–240 HU for CT, else, and for PET that is not in SUV, the 0.5 % and
    99.5 % quantiles of the case.
    """
    if image.dtype == np.uint8:
        return 0.0, 255.0
    low, high = np.percentile(image[np.isfinite(image)] if image.dtype.kind == "f" else image, PERCENTILES)
    if channel.upper() in WINDOWS and not (is_projected(channel) and high > NO_SUV):
        return WINDOWS[channel.upper()]
    return float(low), float(high if high > low else low + 1)


def is_projected(channel: str) -> bool:
    """Whether a volume of this channel is looked at as maximum-intensity projections."""
    return channel.upper() in ("PET", "PT")


def views(channel: str, dims: Sequence[str], evidence: np.ndarray) -> list[View]:
    """The planes worth showing: PET from three sides, another volume in the axial slice with most `evidence`."""
    if len(dims) == 2:
        return [View("")]
    if is_projected(channel):
        return [View(name, axis) for axis, name in enumerate(("axial", "coronal", "sagittal"))]
    weight = evidence.reshape(len(evidence), -1).sum(axis=1, dtype=np.float64)
    place = int(weight.argmax()) if weight.any() else len(evidence) // 2
    return [View(f"slice {place + 1} of {len(evidence)}", 0, place)]


def grey(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    """`plane` (y, x) between black at `low` and white at `high`, (y, x, 3) uint8."""
    shade = np.clip((np.nan_to_num(plane.astype(np.float32)) - low) / (high - low), 0, 1) * 255
    return np.repeat(shade.round().astype(np.uint8)[..., None], 3, axis=-1)


def resized(plane: np.ndarray, size: tuple[int, int], smooth: bool = True) -> np.ndarray:
    """`plane` (y, x) float32 or (y, x, 3) uint8 in `size` (height, width); means where it shrinks."""
    shrinks = size[0] < plane.shape[0] or size[1] < plane.shape[1]
    filter_ = Image.Resampling.BOX if shrinks or not smooth else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(plane).resize(size[::-1], filter_))


def shown_mask(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`plane` bool in `size`: a pixel is marked if any of what it shows is, so that small lesions stay."""
    return resized(plane.astype(np.float32), size, smooth=False) > 1e-4


def outlined(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """`picture` with a line around `mask`, outside of it, so that what it marks can be seen."""
    line = ndimage.binary_dilation(mask, np.ones((3, 3), bool)) & ~mask
    return np.where(line[..., None], np.array(colour, np.uint8), picture)


def heat_colours(strength: np.ndarray) -> np.ndarray:
    """Black, red, yellow, white for `strength` from 0 to 1; (…, 3) uint8."""
    rising = np.stack([3 * strength, 3 * strength - 1, 3 * strength - 2], axis=-1)
    return np.asarray((np.clip(rising, 0, 1) * 255).round(), np.uint8)


def heated(picture: np.ndarray, saliency: np.ndarray, scale: float) -> np.ndarray:
    """`picture` in grey with `saliency` (y, x) over it; 0 and below is clear, `scale` full heat."""
    strength = np.clip(np.nan_to_num(saliency) / scale, 0, 1)
    opacity = (HEAT_OPACITY * np.clip(2 * strength, 0, 1))[..., None]
    base = picture.mean(axis=-1, keepdims=True)
    return np.asarray(((1 - opacity) * base + opacity * heat_colours(strength)).round(), np.uint8)
