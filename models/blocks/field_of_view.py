"""The field of view of a photograph, pixel by pixel: what the camera's round stop lets through is lit, the rest dark.

    lit = max over channels of x > dark        view = lit • 5 × 5 square

where • closes holes and gaps, as specks of noise make them. The retina is red, so its darkest vessels still are four
times as bright as `dark`; what stored images and augmentation have around it (padding, a turned frame) is 0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.blocks.intensities import scaled

DARK = 0.08  # of white
CLOSED = 5  # pixels


def in_view(image: Tensor, dark: float = DARK) -> Tensor:
    """(B, C, H, W) as stored → (B, 1, H, W) bool, whether the field of view holds the pixel."""
    lit = (scaled(image, torch.float32).amax(dim=1, keepdim=True) > dark).float()
    return _largest_near(1 - _largest_near(lit)) < 0.5


def _largest_near(values: Tensor) -> Tensor:
    return F.max_pool2d(values, CLOSED, stride=1, padding=CLOSED // 2)
