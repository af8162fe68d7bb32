"""ResNet-18 — He, Zhang, Ren and Sun (2016), table 1, in two and three dimensions and at any width.

    y = relu(F(x) + x)                                                          (1)
    y = relu(F(x) + W x)        where the shape changes                         (2)

It ends in the mean over all places and one linear layer, so that class activation mapping applies.

in   (B, in_channels, *spatial) float       out  (B, outputs)
"""

from collections.abc import Mapping
from typing import Literal

import torch
from monai.networks.nets.resnet import ResNet, ResNetBlock
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from models.blocks.pretrained import load_all_but_last
from models.config import Config
from models.errors import ModelError

CHANNELS = (64, 128, 256, 512)  # of stages 1 to 4, of two blocks each


class ResNetConfig(Config):
    """Defaults are the paper's.

    `width` multiplies the channels of every stage. `stem_stride` is by how much the stem shrinks the image: 4 by a
    7×7 convolution and a max-pooling of stride 2 each, 2 by the convolution alone, 1 not at all, by a 3×3 convolution,
    as the paper has it for 32 pixels (section 4.2). The last feature map is 8 times smaller than what the stem leaves.
    """

    in_channels: PositiveInt = 3
    outputs: PositiveInt = 1000
    spatial_dims: Literal[2, 3] = 2
    width: PositiveFloat = 1.0
    stem_stride: Literal[1, 2, 4] = 4
    dropout: NonNegativeFloat = Field(default=0.0, lt=1.0)


class ResidualBlock(ResNetBlock):
    """MONAI's block with a ReLU module for each of its two calls, neither in place.

    Methods that tell a module's calls apart by the module, such as DeepLIFT, see both.
    """

    def __init__(self, in_planes: int, planes: int, **options: object) -> None:
        super().__init__(in_planes, planes, act=("relu", {"inplace": False}), **options)
        self.last_act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Equation (1) or (2)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        residual = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.last_act(residual + shortcut)  # type: ignore[no-any-return]


class ResNet18(ResNet):
    """MONAI's ResNet, under the names of torchvision's; `avgpool` and the linear layer `fc` are its head."""

    def __init__(self, config: ResNetConfig):
        super().__init__(
            ResidualBlock,
            layers=[2, 2, 2, 2],
            block_inplanes=[max(1, round(channels * config.width)) for channels in CHANNELS],
            spatial_dims=config.spatial_dims,
            n_input_channels=config.in_channels,
            conv1_t_size=3 if config.stem_stride == 1 else 7,
            conv1_t_stride=min(config.stem_stride, 2),
            no_max_pool=config.stem_stride < 4,
            num_classes=config.outputs,
            bias_downsample=False,
            act=("relu", {"inplace": False}),
        )
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        if self.no_max_pool:
            self.maxpool = nn.Identity()
        if config.spatial_dims == 2:
            self.to(memory_format=torch.channels_last)  # a quarter faster on a CPU

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, *spatial) → (B, outputs)."""
        self._refuse_other_shapes(image)
        features = self.maxpool(self.act(self.bn1(self.conv1(image))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        return self.fc(self.dropout(self.avgpool(features).flatten(1)))  # type: ignore[no-any-return]

    def _refuse_other_shapes(self, image: Tensor) -> None:
        channels, axes = self.config.in_channels, self.config.spatial_dims
        if image.dim() != axes + 2 or image.shape[1] != channels:
            raise ModelError(
                f"the network takes images of {channels} channels and {axes} axes, not of the shape "
                f"{tuple(image.shape[1:])}"
            )


def load_torchvision_state(network: ResNet18, state: Mapping[str, Tensor]) -> None:
    """Take a torchvision ResNet-18's weights (`resnet18`) but for its 1000-way layer, which stays as initialised.

    ModelError names the first layer that does not fit; full width, 3 channels, 2 axes and a stem stride of 2 or 4 are
    needed.
    """
    fits = "a ResNet-18 of the default width, stem and channels, in two dimensions"
    load_all_but_last(network, state, last="fc.", given_last="fc.", fits=fits)
