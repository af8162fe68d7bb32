"""Thumbnails of natural images: squares out of colour photographs, reduced to a few pixels.

Without a folder they come from the photographs that scikit-image and scikit-learn bring with them.
"""

import hashlib
from functools import cache, cached_property
from importlib.resources import as_file, files
from pathlib import Path

import cv2
import numpy as np

from storage.sources.skin.decoded import colour_photograph, photograph_files

BUNDLED = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "chelsea.png"),
    ("skimage.data", "coffee.png"),
    ("skimage.data", "motorcycle_left.png"),
    ("skimage.data", "rocket.jpg"),
    ("sklearn.datasets.images", "china.jpg"),
    ("sklearn.datasets.images", "flower.jpg"),
)
SHORTER = 256  # pixels of the shorter side that are kept of a photograph
SIDE = (0.3, 1.0)  # of the shorter side: least and largest square


class Thumbnails:
    """Draws squares from the photographs in `folder`, or from the bundled ones."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The photographs that are drawn from."""
        return photograph_files(self.folder) if self.folder else tuple(name for _, name in BUNDLED)

    @cached_property
    def identity(self) -> str:
        """Digest of the names and sizes of a folder's photographs; of the names alone where they are the bundled."""
        sizes = [(self.folder / name).stat().st_size for name in self.names] if self.folder else []
        return hashlib.sha256(repr((self.names, sizes)).encode()).hexdigest()

    def draw(self, rng: np.random.Generator, side: int) -> np.ndarray:
        """(side, side, 3) uint8: a random square of a random photograph, averaged down."""
        photograph = self._photograph(int(rng.integers(len(self.names))))
        height, width = photograph.shape[:2]
        square = max(side, round(rng.uniform(*SIDE) * min(height, width)))
        top, left = int(rng.integers(height - square + 1)), int(rng.integers(width - square + 1))
        cut = photograph[top : top + square, left : left + square]
        return np.asarray(cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA))

    def _photograph(self, index: int) -> np.ndarray:
        if self.folder:
            return colour_photograph(self.folder / self.names[index], SHORTER)
        return _bundled(*BUNDLED[index])


@cache
def _bundled(package: str, name: str) -> np.ndarray:
    with as_file(files(package) / name) as path:
        return colour_photograph(path, SHORTER)
