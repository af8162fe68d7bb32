"""Training-time augmentation: draw from a seed how to look at a case, then look at it by MONAI's transforms.

in   `image` (C, *grid) as stored, of two or three axes; `mask` (1, *grid), bool or a number
out  `image` (C, *grid) float32; `mask` of the same type, moved alike, nearest neighbour

What is stored as uint8 or uint16 is a photograph, and comes back in 0 … 255, whatever the type. Any other type carries
units (HU, SUV): its values are interpolated, never recoloured, and what a turn brings in from outside is the channel's
own minimum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import AdjustContrast, AffineGrid, Resample
from pydantic import Field
from torch import Tensor

from models.config import Config
from models.errors import ModelError

Item = dict[str, Any]
WHITE = 255
PHOTOGRAPHIC = {np.dtype(np.uint8): 1, np.dtype(np.uint16): 257}  # by what a value is divided to be in 0 … 255
MOVED = ("image", "mask")


class AugmentationConfig(Config):
    """What varies between two looks at one case; fractions are of the side or of the intensity.

    `flip` mirrors each axis every other time. `zoom` and `shift` vary by axis; a volume turns about its first axis,
    since its slices may be thick. `brightness` and `gamma` vary every other time, in photographs alone.
    """

    flip: bool = True
    rotation_degrees: float = Field(default=15.0, ge=0, le=180)
    zoom: float = Field(default=0.1, ge=0, lt=1)
    shift: float = Field(default=0.03, ge=0, lt=1)
    brightness: float = Field(default=0.1, ge=0, lt=1)
    gamma: float = Field(default=0.15, ge=0, lt=1)

    @property
    def moves(self) -> bool:
        """Whether pixels are interpolated."""
        return bool(self.rotation_degrees or self.zoom or self.shift)


class Look(NamedTuple):
    """One look: axes of (C, *grid) to flip, an affine map about the centre, a factor and an exponent of intensity.

    `shifts` are in pixels.
    """

    flipped: tuple[int, ...]
    radians: float
    scales: tuple[float, ...]
    shifts: tuple[float, ...]
    factor: float
    gamma: float


def drawn_look(config: AugmentationConfig, grid: Sequence[int], seed: int) -> Look:
    """The look of `seed`; each setting scales a draw of its own, so that the others' draws stay when one changes."""
    axes = len(grid)
    draw = np.random.default_rng(seed)
    heads = draw.random(axes + 2) < 0.5
    turn, factor, gamma = draw.uniform(-1, 1, size=3).tolist()
    scales, shifts = draw.uniform(-1, 1, size=(2, axes))
    return Look(
        flipped=tuple(axis + 1 for axis in range(axes) if config.flip and heads[axis]),
        radians=turn * np.deg2rad(config.rotation_degrees),
        scales=tuple((1 + config.zoom * scales).tolist()),
        shifts=tuple((config.shift * shifts * grid).tolist()),
        factor=1 + config.brightness * factor if heads[axes] else 1.0,
        gamma=1 + config.gamma * gamma if heads[axes + 1] else 1.0,
    )


@dataclass(frozen=True)
class Augmentation:
    """A pure function of (item, seed), the same in every process; it keeps nothing between calls."""

    config: AugmentationConfig
    grid: tuple[int, ...]
    dtype: np.dtype[Any]
    keys: tuple[str, ...]

    def __call__(self, item: Item, seed: int) -> Item:
        """A new item with the look of `seed` at its `keys`; the others as they are."""
        look = drawn_look(self.config, self.grid, seed)
        places = self._places(look) if self.config.moves else None
        changed = {}
        for key in self.keys:
            stored = torch.as_tensor(item[key])
            if tuple(stored.shape[1:]) != self.grid:
                raise ModelError(f"the {key} has a grid of {tuple(stored.shape[1:])}, not {self.grid}")
            see = partial(self._image, look=look) if key == "image" else _mask
            changed[key] = see(stored, look.flipped, places)
        return {**item, **changed}

    def _places(self, look: Look) -> Tensor:
        """Where each pixel's value comes from, as MONAI's Resample takes it."""
        turn = [look.radians] if len(self.grid) == 2 else [look.radians, 0.0, 0.0]
        affine = AffineGrid(rotate_params=turn, translate_params=look.shifts, scale_params=look.scales)
        places: Tensor = affine(self.grid)[0]
        return places

    def _image(self, stored: Tensor, flipped: tuple[int, ...], places: Tensor | None, *, look: Look) -> Tensor:
        divisor = PHOTOGRAPHIC.get(self.dtype)
        image = stored.float().flip(flipped)
        if divisor is None:
            return image if places is None else _moved_within_range(image, places)
        image = image / divisor
        if places is not None:
            image = _moved(image, places, "bilinear")
        return _coloured(image, look)


def augmentation(
    config: AugmentationConfig, grid: Sequence[int], dtype: np.dtype[Any], keys: Sequence[str] = ("image",)
) -> Augmentation:
    """What `config` describes for items whose `keys` lie on `grid` and whose image is stored as `dtype`.

    Raises:
        ModelError: `grid` has neither two nor three axes, or a key is neither an image nor a mask.
    """
    if len(grid) not in (2, 3):
        raise ModelError(f"augmentation knows images of 2 and 3 axes, not of {len(grid)}")
    if unknown := sorted(set(keys) - set(MOVED)):
        raise ModelError(f"augmentation cannot move '{unknown[0]}'; it moves: {', '.join(MOVED)}")
    return Augmentation(config, tuple(grid), np.dtype(dtype), tuple(keys))


def _mask(stored: Tensor, flipped: tuple[int, ...], places: Tensor | None) -> Tensor:
    mask = stored.flip(flipped)
    return mask if places is None else _moved(mask.float(), places, "nearest").to(stored.dtype)


def _moved(image: Tensor, places: Tensor, mode: str) -> Tensor:
    """`image` (C, *grid) float32 at `places`, zero outside."""
    moved: Tensor = Resample(mode=mode, padding_mode="zeros", dtype=torch.float32)(image, places)
    return moved.as_subclass(Tensor)


def _moved_within_range(image: Tensor, places: Tensor) -> Tensor:
    """The same with each channel's minimum outside; no channel leaves the range of its values."""
    spatial = tuple(range(1, image.dim()))
    lowest, highest = image.amin(spatial, keepdim=True), image.amax(spatial, keepdim=True)
    return (_moved(image - lowest, places, "bilinear") + lowest).clamp(lowest, highest)


def _coloured(image: Tensor, look: Look) -> Tensor:
    """`image` in 0 … 255 times the factor, then with the exponent over its own range."""
    if look.factor != 1:
        image = image * look.factor
    if look.gamma != 1:
        image = AdjustContrast(look.gamma)(image).as_subclass(Tensor)
    return image.clamp(0, WHITE)
