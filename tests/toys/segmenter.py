"""toy-segmenter: two convolutions, and the probability of a lesion for each pixel or voxel.

in   image (B, C, *grid), mask (B, 1, *grid)
out  mask (B, 1, *grid) bool, saliency (B, *grid): the probability
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config
from models.registry import system
from models.system import Batch, Prediction, System
from tests.toys.intensities import scaled


class NetworkConfig(Config):
    """`size` is the image's side in pixels; it changes nothing. `dims` are the image's axes."""

    size: PositiveInt = 16
    in_channels: PositiveInt = 3
    width: PositiveInt = 8
    dims: Literal[2, 3] = 2


class ToySegmenterConfig(Config):
    network: NetworkConfig = NetworkConfig()
    loss: Literal["dice", "bce"] = "dice"
    learning_rate: PositiveFloat = 0.01


def dice_loss(probability: Tensor, mask: Tensor) -> Tensor:
    """1 − (2 Σ p m + 1) / (Σ p + Σ m + 1), the mean over cases."""
    axes = tuple(range(1, mask.dim()))
    both = (probability * mask).sum(axes)
    return (1 - (2 * both + 1) / (probability.sum(axes) + mask.sum(axes) + 1)).mean()


@system("toy-segmenter", family="segmentation", paper="a toy for the tests")
class ToySegmenter(System):
    inputs: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    config: ToySegmenterConfig

    def __init__(self, config: ToySegmenterConfig):
        super().__init__(config)
        network = config.network
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[network.dims]
        self.network = nn.Sequential(
            convolution(network.in_channels, network.width, 3, padding=1),
            nn.ReLU(),
            convolution(network.width, 1, 3, padding=1),
        )

    def to_input(self, image: Tensor) -> Tensor:
        return scaled(image, like=self.network[0].weight)

    def forward(self, image: Tensor) -> Tensor:
        """The logit (B, 1, *grid)."""
        return self.network(image)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch), sync_dist=True, batch_size=len(batch["image"]))

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        probability = self(self.to_input(batch["image"])).sigmoid()
        return {"mask": probability >= 0.5, "saliency": probability[:, 0]}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.config.learning_rate)

    def _loss(self, batch: Batch) -> Tensor:
        logit = self(self.to_input(batch["image"]))
        mask = batch["mask"].to(logit.dtype)
        if self.config.loss == "bce":
            return F.binary_cross_entropy_with_logits(logit, mask)
        return dice_loss(logit.sigmoid(), mask)
