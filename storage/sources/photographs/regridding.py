"""From source pixels to the square grid of a cohort: images averaged by area, masks so that no lesion is lost."""

import cv2
import numpy as np

from storage.sources.photographs.field_of_view import Box

HALF_COVERED = 128  # of 255


def square_around(box: Box) -> Box:
    """The smallest square that shares its centre with `box` (to half a pixel) and holds it."""
    side = max(box.height, box.width)
    return Box(box.top - (side - box.height) // 2, box.left - (side - box.width) // 2, side, side)


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The pixels of `image` (H, W, …) in `box`, 0 where the box reaches outside."""
    shown = np.zeros((box.height, box.width, *image.shape[2:]), image.dtype)
    top, left = max(0, box.top), max(0, box.left)
    inside = image[top : max(top, box.top + box.height), left : max(left, box.left + box.width)]
    shown[top - box.top :, left - box.left :][: inside.shape[0], : inside.shape[1]] = inside
    return shown


def regrid_image(image: np.ndarray, square: Box, size: int) -> np.ndarray:
    """`square` of `image` (H, W) or (H, W, C) on a `size` × `size` grid: area means down, bilinear up; same dtype."""
    interpolation = cv2.INTER_AREA if square.height > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(cut(image, square), (size, size), interpolation=interpolation))


def regrid_mask(mask: np.ndarray, square: Box, size: int) -> np.ndarray:
    """`square` of `mask` (H, W) bool on a grid of `size` × `size`, bool, with every lesion that the square shows.

    A grid pixel belongs to the lesion if lesion covers at least half of it; a connected component (8-neighbours) that
    would vanish keeps the grid pixel, or pixels, that it covers best.
    """
    shown = cut(mask, square).view(np.uint8)
    if square.height <= size:
        return np.asarray(cv2.resize(shown, (size, size), interpolation=cv2.INTER_NEAREST_EXACT).view(bool))
    grid = cv2.resize(shown * np.uint8(255), (size, size), interpolation=cv2.INTER_AREA) >= HALF_COVERED
    return _with_vanished_lesions(grid, shown)


def _with_vanished_lesions(grid: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """`grid` and, for each component of `shown` that has no pixel on it, the grid pixels that it covers best."""
    lesion = np.flatnonzero(shown.view(bool))  # of bool: 2 ms where np.nonzero of bytes takes 55
    if not len(lesion):
        return grid
    rows, columns = np.divmod(lesion, shown.shape[1])
    _, components = cv2.connectedComponents(shown, connectivity=8)
    scale, size = grid.shape[0] / shown.shape[0], grid.shape[0]
    cells = ((rows + 0.5) * scale).astype(np.int64) * size + ((columns + 0.5) * scale).astype(np.int64)
    pairs, covered = np.unique(components.ravel()[lesion] * np.int64(size * size) + cells, return_counts=True)
    component, cell = np.divmod(pairs, size * size)
    best = np.zeros(component.max() + 1, np.int64)
    np.maximum.at(best, component, covered)
    survives = np.zeros(len(best), bool)
    survives[component[grid.ravel()[cell]]] = True
    kept = grid.copy()
    kept.ravel()[cell[~survives[component] & (covered == best[component])]] = True
    return kept
