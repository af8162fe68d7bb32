"""What the toys make of stored intensities."""

import torch
from torch import Tensor


def white(image: Tensor) -> float:
    """The brightest intensity of the image's type; augmentation leaves floats in 0 … 255."""
    return 65535.0 if image.dtype == torch.uint16 else 255.0


def scaled(image: Tensor, like: Tensor) -> Tensor:
    """`image` in 0 … 1, in the precision of `like`."""
    return image.to(like.dtype) / white(image)
