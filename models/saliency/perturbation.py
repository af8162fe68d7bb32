"""What an image is compared with: the values of a place without evidence, and how many such images run at once."""

from typing import Literal

import torch
from torch import Tensor

from models.errors import ModelError

Fill = Literal["darkest", "mean", "zero"] | float | tuple[float, ...]
IMAGES_AT_ONCE = 32  # without a graph for the backward pass, so no more memory than a batch that has one


def filling(image: Tensor, fill: Fill) -> Tensor:
    """The values (B, C, 1, …) that stand for nothing in an image (B, C, *spatial), in units of the model's input.

    darkest  each case's and channel's smallest value: black, wherever a photograph has a margin
    mean     each case's and channel's mean         zero  0, the mean of all data where the input is normalised by it
    Or a number, or one a channel; ModelError where these are not as many as the channels.
    """
    ones = [1] * (image.dim() - 2)
    if fill in ("darkest", "mean"):
        flat = image.flatten(2)
        return (flat.amin(dim=2) if fill == "darkest" else flat.mean(dim=2)).reshape(*image.shape[:2], *ones)
    values = fill if isinstance(fill, tuple) else (0.0 if fill == "zero" else float(fill),)
    if len(values) not in (1, image.shape[1]):
        raise ModelError(f"{len(values)} values cannot fill {image.shape[1]} channels: give one, or one a channel")
    one_a_channel = torch.tensor(values, dtype=image.dtype, device=image.device).reshape(1, -1, *ones)
    return one_a_channel.expand(*image.shape[:2], *ones)


def variants_at_once(cases: int) -> int:
    """How many variants of a batch of `cases` run in one forward pass."""
    return max(1, IMAGES_AT_ONCE // cases)
