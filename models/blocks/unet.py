"""A U-Net that answers with an image — Ronneberger, Fischer and Brox (2015), in two and three dimensions, at any width.

    G(x) = tanh(U(x) + artanh(c x))                                             (1)

U is MONAI's network of five levels with skip connections (Falk et al. 2019), which pads its convolutions, so that the
answer has the image's shape. One more skip connection takes the image itself to the end, before the tanh that keeps
the answer in −1 … 1; U's last layer starts at zero, so that G starts as a copy. A narrow U-Net without it smooths what
it copies, and what it cannot copy looks like what it has learnt to remove. There is no normalisation: an instance's own
takes away brightness and contrast, a batch's lets an image's answer depend on the others.

in   x  (B, channels, *spatial) float, −1 … 1       out  G(x), the same shape, −1 … 1
"""

from typing import Literal, Self

from monai.networks.nets.basic_unet import BasicUNet
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from models.config import Config
from models.errors import ModelError

CHANNELS = (64, 64, 128, 256, 512, 64)  # of levels 1 to 5, and of level 1 on the way back
STEP = 2 ** (len(CHANNELS) - 2)  # by how much the deepest level is smaller
LEAK = 0.1
WITHIN = 0.995  # c in (1): artanh is infinite at 1


class UNetConfig(Config):
    """`size` is the image's side in pixels, a multiple of 16; `width` multiplies the channels of every level."""

    channels: PositiveInt = 3
    size: PositiveInt = 128
    spatial_dims: Literal[2, 3] = 2
    width: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _halves_evenly(self) -> Self:
        refuse_uneven(self.size)
        return self


class UNet(nn.Module):
    """Equation (1)."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self.levels = BasicUNet(
            spatial_dims=config.spatial_dims,
            in_channels=config.channels,
            out_channels=config.channels,
            features=[max(1, round(channels * config.width)) for channels in CHANNELS],
            act=("leakyrelu", {"negative_slope": LEAK, "inplace": True}),
            norm=None,
        )
        self.apply(_kaiming)
        nn.init.zeros_(self.levels.final_conv.weight)

    def forward(self, image: Tensor) -> Tensor:
        """(B, channels, *spatial) → the same shape."""
        expected = (self.config.channels, *(self.config.size,) * self.config.spatial_dims)
        if image.shape[1:] != expected:
            raise ModelError(f"the network takes images of {expected} (channels, *axes), not {tuple(image.shape[1:])}")
        return (self.levels(image) + (WITHIN * image).atanh()).tanh()  # type: ignore[no-any-return]


def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d) and module.bias is not None:
        nn.init.kaiming_normal_(module.weight, a=LEAK)
        nn.init.zeros_(module.bias)


def refuse_uneven(size: int) -> None:
    """ValueError where a side of `size` pixels cannot be halved down to the deepest level."""
    if size % STEP:
        nearest = max(STEP, round(size / STEP) * STEP)
        raise ValueError(f"size {size} cannot be halved four times: take a multiple of {STEP}, such as {nearest}")
