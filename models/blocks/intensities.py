"""What networks make of stored intensities: photographs scaled to 0 … 1, then channels standardised; or to −1 … 1."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.errors import ModelError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANGE = 2.0  # of intensities in −1 … 1


def scaled(image: Tensor, precision: torch.dtype) -> Tensor:
    """A photograph in 0 … 1, in `precision`: uint8, uint16, or floats in 0 … 255, as augmentation leaves them."""
    white = 65535 if image.dtype == torch.uint16 else 255
    return image.to(precision) / white


def symmetric(image: Tensor, like: nn.Module) -> Tensor:
    """Stored intensities in −1 … 1, in the precision of a network."""
    return RANGE * scaled(image, next(like.parameters()).dtype) - 1


def as_stored(image: Tensor, dtype: torch.dtype) -> Tensor:
    """−1 … 1 → float32 in the range of the images' `dtype`: `symmetric`, undone."""
    return (image.float() + 1) * ((65535 if dtype == torch.uint16 else 255) / RANGE)


def standardised(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x − mean) / std, in the precision of `mean`."""
    return (image.to(mean.dtype) - mean) / std


def channel_values(given: tuple[float, ...] | None, colour: tuple[float, ...], channels: int) -> Tensor:
    """`given`, or the public values of three `colour` channels, or their mean for another number of channels."""
    return torch.tensor(given or (colour if channels == len(colour) else (sum(colour) / len(colour),)))


def register_standardisation(
    module: nn.Module,
    channels: int,
    axes: int,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> None:
    """Buffers `mean` and `std` of a module, (1, channels or 1, *1), as given or ImageNet's; not in its checkpoints."""
    for name, given, public in (("mean", mean, IMAGENET_MEAN), ("std", std, IMAGENET_STD)):
        values = channel_values(given, public, channels).reshape(1, -1, *[1] * axes)
        module.register_buffer(name, values, persistent=False)


def refuse_other_lengths(channels: int, values: Mapping[str, tuple[float, ...] | None]) -> None:
    """ValueError unless what is given by name has one value, or one a channel."""
    for name, given in values.items():
        if given is not None and len(given) not in (1, channels):
            raise ValueError(f"{name} has {len(given)} values for {channels} channels: give 1 or one each")


def refuse_other_shapes(image: Tensor, channels: int, axes: int) -> None:
    """ModelError unless `image` is (B, channels, *spatial) with that many axes of space."""
    if image.dim() - 2 != axes:
        raise ModelError(f"the network takes images of {axes} axes, not a batch of the shape {tuple(image.shape)}")
    if image.shape[1] != channels:
        raise ModelError(f"the images have {image.shape[1]} channels, the network takes {channels}")
