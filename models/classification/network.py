"""Which network a classifier trains: a published backbone, with what it leaves out filled in by that paper."""

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from models.blocks.resnet import ResNet18, ResNetConfig
from models.blocks.vgg import Depth, VGGConfig, VGGRegressor
from models.config import Config, validated
from models.errors import ModelError

VGG_DEPTHS: dict[str, Depth] = {"vgg16": 16, "vgg19": 19}
VGG_SIZE, VGG_HEAD, VGG_DROPOUT = 224, (4096, 4096), 0.5


class ClassifierNetwork(Config):
    """The backbone at its paper's settings wherever a setting is None.

    `width` multiplies the channels; `size` is the image's side in pixels, which a VGG has to know (None: its paper's,
    224). `spatial_dims=3` for volumes is ResNet-18's alone. `stem_stride` is by how much the first layers shrink the
    image: ResNet-18's paper 4 (2: without the max-pooling, 1: not at all), VGG's 1, its first convolution's stride.
    `normalisation` is VGG's, whose paper has none; ResNet-18 always has batch normalisation. `head` are the hidden
    layers between features and the two logits: VGG's paper (4096, 4096) on all places; () is the mean over all places
    and one linear layer, as ResNet-18 has it and class activation mapping needs it. `dropout` None: VGG 0.5, ResNet-18
    none.
    """

    backbone: Literal["resnet18", "vgg16", "vgg19"] = "resnet18"
    width: PositiveFloat = 1.0
    in_channels: PositiveInt = 3
    size: PositiveInt | None = None
    spatial_dims: Literal[2, 3] = 2
    stem_stride: Literal[1, 2, 4] | None = None
    normalisation: Literal["none", "batch", "group"] | None = None
    head: tuple[PositiveInt, ...] | None = None
    dropout: NonNegativeFloat | None = Field(default=None, lt=1.0)

    @model_validator(mode="after")
    def _the_backbone_can_be_built(self) -> Self:
        if self.backbone == "resnet18":
            if self.normalisation not in (None, "batch"):
                raise ValueError(f"resnet18 has batch normalisation, not '{self.normalisation}'")
            if self.head:
                raise ValueError(f"resnet18 ends in one linear layer: its head is [], not {list(self.head)}")
        elif self.spatial_dims != 2:
            raise ValueError(f"{self.backbone} takes images of 2 axes: for volumes take resnet18")
        try:
            self.block(outputs=2)
        except ModelError as error:
            raise ValueError(str(error)) from error
        return self

    def block(self, outputs: int) -> ResNetConfig | VGGConfig:
        """The same network as its block takes it."""
        own: dict[str, Any] = {"in_channels": self.in_channels, "outputs": outputs, "width": self.width}
        if self.backbone == "resnet18":
            own |= {"spatial_dims": self.spatial_dims, "stem_stride": self.stem_stride or 4}
            return validated(ResNetConfig, {**own, "dropout": self.dropout or 0.0}, where=self.backbone)
        own |= {"depth": VGG_DEPTHS[self.backbone], "size": self.size or VGG_SIZE, "block5_valid": False}
        own |= {"stem_stride": self.stem_stride or 1, "normalisation": self.normalisation or "none"}
        own |= {"head": VGG_HEAD if self.head is None else self.head, "head_pool": 1 if self.head == () else None}
        dropout = VGG_DROPOUT if self.dropout is None else self.dropout
        return validated(VGGConfig, {**own, "dropout": dropout}, where=self.backbone)


def classifier_network(config: ClassifierNetwork, outputs: int) -> ResNet18 | VGGRegressor:
    """The network (B, in_channels, *spatial) → (B, outputs)."""
    block = config.block(outputs)
    return ResNet18(block) if isinstance(block, ResNetConfig) else VGGRegressor(block)


def last_layer(network: ResNet18 | VGGRegressor) -> nn.Linear:
    """The linear layer that gives the outputs."""
    layer = network.fc if isinstance(network, ResNet18) else network.classifier[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def penultimate(network: ResNet18 | VGGRegressor, image: Tensor) -> Tensor:
    """What the last layer is given: (B, in_channels, *spatial) → (B, F)."""
    kept: list[Tensor] = []
    handle = last_layer(network).register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    try:
        network(image)
    finally:
        handle.remove()
    return kept[0]
