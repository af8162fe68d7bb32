"""The field of view of a photograph: the lit disc (or clipped disc) of a fundus camera inside its dark surround."""

from typing import NamedTuple

import cv2
import numpy as np

THUMBNAIL = 512  # long side in pixels on which the field of view is looked for
DARK = 0.05  # share of the full range: a photograph whose brightest parts stay below shows no field of view
SURROUND = 0.25  # share of the brightness: corners above it are no dark surround
EDGE = 0.1  # share of the way from surround to brightness at which the field of view begins
SMALLEST = 0.15  # share of the photograph: a lit part below it is a reflection or a caption, not the field of view


class Box(NamedTuple):
    """A rectangle of pixels; it may reach outside the image it speaks of."""

    top: int
    left: int
    height: int
    width: int


def field_of_view(image: np.ndarray) -> Box:
    """The box around the field of view of `image` (H, W) or (H, W, C), any unsigned dtype.

    The whole image where no field of view can be told: a black photograph, or one that fills its frame.
    """
    whole = Box(0, 0, image.shape[0], image.shape[1])
    thumbnail = _brightness(image)
    bright, surround = float(np.percentile(thumbnail, 99)), _corner_brightness(thumbnail)
    if bright < DARK or surround > SURROUND * bright:
        return whole
    found = _largest_component(thumbnail > surround + EDGE * (bright - surround))
    if found is None:
        return whole
    return _scaled(found, image.shape[0] / thumbnail.shape[0], image.shape[1] / thumbnail.shape[1], whole)


def _brightness(image: np.ndarray) -> np.ndarray:
    """The brightest channel on a thumbnail, as a share of the full range: the retina is red, and blue often black."""
    height, width = image.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    small = cv2.resize(
        image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    channels = small.reshape(small.shape[0], small.shape[1], -1)
    return np.asarray(channels.max(axis=2) / np.float32(np.iinfo(image.dtype).max))


def _corner_brightness(brightness: np.ndarray) -> float:
    """The median over the four corners of the corner's median: one corner may hold a caption."""
    side = max(1, min(brightness.shape) // 32)
    ends = (slice(None, side), slice(-side, None))
    return float(np.median([np.median(brightness[rows, columns]) for rows in ends for columns in ends]))


def _largest_component(lit: np.ndarray) -> Box | None:
    """The box of the largest connected part, or None where even that is too small to be a field of view."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(lit.astype(np.uint8), connectivity=4)
    if len(stats) < 2:
        return None
    left, top, width, height, area = (int(value) for value in stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))])
    return Box(top, left, height, width) if area >= SMALLEST * lit.size else None


def _scaled(box: Box, down: float, right: float, whole: Box) -> Box:
    """`box` on the grid that is `down` × `right` times finer, rounded outwards, inside `whole`."""
    top, left = int(box.top * down), int(box.left * right)
    bottom = min(whole.height, int(np.ceil((box.top + box.height) * down)))
    end = min(whole.width, int(np.ceil((box.left + box.width) * right)))
    return Box(top, left, bottom - top, end - left)
