"""Patches of healthy skin out of dermoscopy photographs, each of which shows a lesion somewhere, mostly in its middle.

A patch is a square, a quarter of the photograph's shorter side wide. Where it shows no lesion is decided on the
photograph at 256 pixels, in cells of 4 × 4 that are averaged, blurred over three cells and taken to CIE L*a*b*. A patch
of 16 × 16 cells is accepted where

    its lightness spans less than 17 and either colour axis less than 9: no border of a lesion, vignette or sticker;
    its mean lies at most 12 and its darkest cell at most 20 below the 90th percentile of the photograph: not within a
        lesion that fills it, not behind the rim of the lens;
    its lightness is 35 to 97, its mean a* above -8 and b* above -12: exposed, and the colour of skin;
    less than 3 % of its pixels are thin dark lines (black top-hat of 9 × 9 above 18 grey levels): few hairs, hardly
        any ruler.

Of 414 dermoscopy photographs from ISIC 2017, squeezed to 256 × 256, 326 have such a place, and 15 % of all places are
accepted. Of one patch from each, about 1 in 100 shows freckles or spots that might be taken for a lesion.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from storage.errors import SourceError
from storage.sources.simulated import stream
from storage.sources.skin.decoded import colour_photograph, decoded, photograph_files

LOOKED_AT = 256  # pixels of the shorter side when places are judged
CELL = 4  # pixels
PARTS = 4  # of the shorter side, one of which is a patch
CELLS = LOOKED_AT // PARTS // CELL  # along the side of a patch
LIGHTNESS_SPAN, COLOUR_SPAN = 17.0, 9.0
MEAN_BELOW, DARKEST_BELOW = 12.0, 20.0  # the 90th percentile of the photograph's lightness
LIGHTNESS = (35.0, 97.0)
LEAST_RED, LEAST_YELLOW = -8.0, -12.0
LINE_WIDTH, LINE_DEPTH, LINE_SHARE = 9, 18, 0.03
_ORDER, _PLACE = range(2)  # streams of random numbers


@dataclass(frozen=True, eq=False)
class Photograph:
    """A file with at least one place for a patch: upper left corners (N, 2) in pixels where its shorter side is 256."""

    name: str
    sha256: str
    corners: np.ndarray


class PhotographedSkin:
    """Patches of `size` × `size` pixels from the photographs in `folder`; a patient is a photograph.

    Pixels are the photograph's own or averages of them; where a quarter of it has fewer than `size`, it is enlarged
    (cubic). A patch is turned and mirrored at random.
    """

    def __init__(self, folder: Path, size: int, seed: int):
        self.folder = folder
        self.size = size
        self.seed = seed

    @cached_property
    def photographs(self) -> tuple[Photograph, ...]:
        """Those with a place, in an order drawn by the seed; an even number of them, so that halves are halves."""
        found = [self._judged(file) for file in photograph_files(self.folder)]
        usable = [photograph for photograph in found if len(photograph.corners)]
        if len(usable) < 2:
            raise SourceError(
                f"{len(usable)} of the {len(found)} photographs in {self.folder} have a place without a lesion; "
                "at least 2 are needed"
            )
        order = stream(self.seed, _ORDER).permutation(len(usable))
        return tuple(usable[index] for index in order[: len(usable) // 2 * 2])

    def patch(self, patient: int, visit: int) -> np.ndarray:
        """(size, size, 3) uint8: one of the patient's places, drawn anew for each visit."""
        photograph = self.photographs[patient]
        rng = stream(self.seed, _PLACE, patient, visit)
        pixels = colour_photograph(self.folder / photograph.name, max(LOOKED_AT, PARTS * self.size))
        shorter = min(pixels.shape[:2])
        top, left = np.round(rng.choice(photograph.corners) * shorter / LOOKED_AT).astype(int)
        side = shorter // PARTS
        square = pixels[top : top + side, left : left + side]
        how = cv2.INTER_AREA if side >= self.size else cv2.INTER_CUBIC
        square = cv2.resize(square, (self.size, self.size), interpolation=how)
        square = np.rot90(square, int(rng.integers(4)))
        return np.ascontiguousarray(square[:, ::-1] if rng.random() < 0.5 else square)

    def _judged(self, file: str) -> Photograph:
        encoded = (self.folder / file).read_bytes()
        corners = places(decoded(encoded, LOOKED_AT, self.folder / file))
        return Photograph(file, hashlib.sha256(encoded).hexdigest(), corners)


def places(pixels: np.ndarray) -> np.ndarray:
    """Corners (N, 2) of the accepted patches of a photograph (H, W, 3) uint8, where its shorter side is 256 pixels."""
    scale = LOOKED_AT / min(pixels.shape[:2])
    cells = [max(PARTS * CELLS, round(side * scale) // CELL) for side in pixels.shape[:2]]
    seen = cv2.resize(pixels, (cells[1] * CELL, cells[0] * CELL), interpolation=cv2.INTER_AREA)
    light, red, yellow = cv2.split(_low_pass(seen, cells))
    reference = np.percentile(light, 90)
    darkest, mean = _windows(light, "least"), _windows(light, "mean")
    accepted = (
        (_span(light) < LIGHTNESS_SPAN)
        & (np.maximum(_span(red), _span(yellow)) < COLOUR_SPAN)
        & (mean > reference - MEAN_BELOW)
        & (darkest > max(reference - DARKEST_BELOW, LIGHTNESS[0]))
        & (_windows(light, "most") < LIGHTNESS[1])
        & (_windows(red, "mean") > LEAST_RED)
        & (_windows(yellow, "mean") > LEAST_YELLOW)
        & (_windows(_lines(seen, cells), "mean") < LINE_SHARE)
    )
    return np.asarray(np.argwhere(accepted) * CELL)


def _low_pass(seen: np.ndarray, cells: list[int]) -> np.ndarray:
    """(cells, cells, 3) float32 in L*a*b*."""
    averaged = cv2.resize(seen, (cells[1], cells[0]), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(averaged, (3, 3), 0).astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(blurred, cv2.COLOR_RGB2LAB))


def _lines(seen: np.ndarray, cells: list[int]) -> np.ndarray:
    """Share of each cell's pixels that lie in a thin dark line."""
    grey = cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY)
    depth = cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, np.ones((LINE_WIDTH, LINE_WIDTH), np.uint8))
    lines = (depth > LINE_DEPTH).astype(np.float32)
    return np.asarray(cv2.resize(lines, (cells[1], cells[0]), interpolation=cv2.INTER_AREA))


def _span(cells: np.ndarray) -> np.ndarray:
    return np.asarray(_windows(cells, "most") - _windows(cells, "least"))


def _windows(cells: np.ndarray, what: Literal["least", "most", "mean"]) -> np.ndarray:
    """The least, most or mean of every window of 16 × 16 cells, at its upper left cell."""
    square = np.ones((CELLS, CELLS), np.uint8)
    if what == "mean":
        found = cv2.boxFilter(cells, -1, (CELLS, CELLS), anchor=(0, 0))
    else:
        found = (cv2.erode if what == "least" else cv2.dilate)(cells, square, anchor=(0, 0))
    return np.asarray(found)[: cells.shape[0] - CELLS + 1, : cells.shape[1] - CELLS + 1]
