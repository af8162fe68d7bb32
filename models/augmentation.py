"""Training-time augmentation of photographs by MONAI's random transforms.

in   a case's `image` (C, H, W) uint8
out  the case with its `image` (C, H, W) float32 in 0 … 255
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, RandAdjustContrast, RandAffine, RandFlip, Randomizable, RandScaleIntensity
from pydantic import Field

from models.config import Config

Item = dict[str, Any]


class AugmentationConfig(Config):
    """What varies between two looks at one photograph; fractions are of the side or of the intensity."""

    flip: bool = True
    rotation_degrees: float = Field(default=15.0, ge=0, le=180)
    zoom: float = Field(default=0.1, ge=0, lt=1)
    shift: float = Field(default=0.03, ge=0, lt=1)
    brightness: float = Field(default=0.1, ge=0, lt=1)
    gamma: float = Field(default=0.15, ge=0, lt=1)


def augmentation(config: AugmentationConfig, size: int, seed: int) -> Callable[[Item], Item]:
    """The random transform that `config` describes for images of side `size` pixels, seeded."""
    flips = [RandFlip(prob=0.5, spatial_axis=axis) for axis in (0, 1)] if config.flip else []
    affine = RandAffine(
        prob=1.0,
        rotate_range=np.deg2rad(config.rotation_degrees),
        scale_range=(config.zoom, config.zoom),
        translate_range=(config.shift * size, config.shift * size),
        padding_mode="zeros",
        cache_grid=True,
        spatial_size=(size, size),
    )
    colour = [
        RandScaleIntensity(factors=config.brightness, prob=0.5),
        RandAdjustContrast(gamma=(1 - config.gamma, 1 + config.gamma), prob=0.5),
    ]
    return _Augmented(Compose([*flips, affine, *colour]), seed)


class _Augmented(Randomizable):
    """A case with its image transformed: a class, since loader workers need to pickle it and to seed it anew."""

    def __init__(self, transform: Compose, seed: int) -> None:
        self.transform = transform
        self.set_random_state(seed)

    def set_random_state(self, seed: int | None = None, state: Any = None) -> "_Augmented":
        self.transform.set_random_state(seed=seed, state=state)
        return self

    def __call__(self, item: Item) -> Item:
        image = torch.as_tensor(item["image"]).float()
        return {**item, "image": torch.as_tensor(self.transform(image)).clamp(0, 255)}
