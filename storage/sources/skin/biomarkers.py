"""Artificial biomarkers: one to three thumbnails pasted onto a patch of skin, their edges smoothed.

After Zhang et al. (2019), Biomarker localization by combining CNN classifier and generative adversarial network,
section 3: number, size (4, 8 or 16 pixels of 128) and place are random, the pasted area is the truth. What it leaves
open is stated here: sizes come in shares of 0.38, 0.38 and 0.24, so that over the abnormal patches one pixel is pasted
to 88 that are not (expected; over all patches one to 177); a thumbnail is drawn again while it hardly differs from the
skin that it covers; smoothing is a Gaussian of 1.5 pixels of 128 within 3 pixels of the edge, inside and outside.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from storage.sources.skin.thumbnails import Thumbnails

FULL_SIZE = 128  # pixels of a patch on which the sides, the margin and the blur are as named here
SIDES, SIDE_SHARES = (4, 8, 16), (0.38, 0.38, 0.24)
MOST = 3
MARGIN, BLUR = 3.0, 1.5
LEAST_CONTRAST = 16.0  # grey levels by which the thumbnail and the skin beneath differ on average
DRAWS = 8  # of a thumbnail, before the one of largest contrast is taken


@dataclass(frozen=True)
class Area:
    """A square of the patch, in pixels."""

    top: int
    left: int
    side: int

    @property
    def box(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return self.grown(0)

    def grown(self, by: int) -> tuple[slice, slice]:
        """Rows and columns `by` pixels further out on every side, or further in."""
        rows, columns = (slice(max(0, start - by), max(0, start + self.side + by)) for start in (self.top, self.left))
        return rows, columns


def margin_of(size: int) -> int:
    """How many pixels from the edge of an area are smoothed in a patch of `size` pixels."""
    return max(1, round(MARGIN * size / FULL_SIZE))


def draw_areas(rng: np.random.Generator, size: int) -> list[Area]:
    """One to three squares inside of the patch whose smoothed edges do not touch each other."""
    gap = 2 * margin_of(size)
    areas: list[Area] = []
    for side in rng.choice(SIDES, size=int(rng.integers(1, MOST + 1)), p=SIDE_SHARES):
        pixels = max(1, round(int(side) * size / FULL_SIZE))
        while True:
            top, left = (int(corner) for corner in rng.integers(size - pixels + 1, size=2))
            area = Area(top, left, pixels)
            if all(_is_apart(area, other, gap) for other in areas):
                areas.append(area)
                break
    return areas


def pasted(skin: np.ndarray, thumbnails: Thumbnails, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`skin` (size, size, 3) uint8 with its biomarkers, and their mask (size, size) bool."""
    size = len(skin)
    image, mask = skin.copy(), np.zeros((size, size), bool)
    for area in draw_areas(rng, size):
        image[area.box] = _visible_thumbnail(skin[area.box], thumbnails, rng)
        smooth_edge(image, area)
        mask[area.box] = True
    return image, mask


def smooth_edge(image: np.ndarray, area: Area) -> None:
    """Blur, in place, what lies within the margin of the area's edge; all else stays bit for bit."""
    size, margin = len(image), margin_of(len(image))
    sigma = BLUR * size / FULL_SIZE
    width = 2 * math.ceil(2 * sigma) + 1
    around = image[area.grown(margin + width // 2)]
    blurred = np.empty_like(image)
    blurred[area.grown(margin + width // 2)] = cv2.GaussianBlur(
        around, (width, width), sigma, borderType=cv2.BORDER_REPLICATE
    )
    core = image[area.grown(-margin)].copy()
    image[area.grown(margin)] = blurred[area.grown(margin)]
    image[area.grown(-margin)] = core


def _visible_thumbnail(skin: np.ndarray, thumbnails: Thumbnails, rng: np.random.Generator) -> np.ndarray:
    best, largest = skin, -1.0
    for _ in range(DRAWS):
        drawn = thumbnails.draw(rng, len(skin))
        contrast = float(np.abs(drawn.astype(np.float32) - skin).mean())
        if contrast > largest:
            best, largest = drawn, contrast
        if contrast >= LEAST_CONTRAST:
            break
    return best


def _is_apart(one: Area, other: Area, gap: int) -> bool:
    return (
        abs(2 * (one.top - other.top) + one.side - other.side) >= one.side + other.side + 2 * gap
        or abs(2 * (one.left - other.left) + one.side - other.side) >= one.side + other.side + 2 * gap
    )
