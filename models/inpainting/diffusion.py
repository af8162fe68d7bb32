"""OpenCV's two inpainters, which work inwards from the mask's border.

navier_stokes  Bertalmio, Bertozzi and Sapiro (2001): isophotes are continued as the stream lines of a fluid
telea          Telea (2004): fast marching, each pixel a weighted mean of the known ones within the radius
"""

import cv2
import numpy as np

from models.errors import ModelError
from models.inpainting.batch import Inpainter

SINGLE_CHANNEL = (np.uint8, np.uint16, np.float32)


def navier_stokes(radius: float) -> Inpainter:
    """`radius` in pixels: how far around a pixel known ones are looked for."""
    return lambda image, mask: _inpaint(image, mask, radius, cv2.INPAINT_NS)


def telea(radius: float) -> Inpainter:
    """`radius` in pixels: how far around a pixel known ones are looked for."""
    return lambda image, mask: _inpaint(image, mask, radius, cv2.INPAINT_TELEA)


def _inpaint(image: np.ndarray, mask: np.ndarray, radius: float, method: int) -> np.ndarray:
    holes = mask.astype(np.uint8)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(cv2.inpaint(image, holes, radius, method))
    if image.dtype not in SINGLE_CHANNEL:
        raise ModelError(f"OpenCV inpaints uint8, uint16 and float32 images, not {image.dtype}")
    channels = np.moveaxis(image, 2, 0)
    return np.stack([cv2.inpaint(np.ascontiguousarray(c), holes, radius, method) for c in channels], axis=2)
