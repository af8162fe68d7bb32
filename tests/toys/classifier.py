"""toy-classifier: one convolution, dropout, mean, and a number a case."""

from typing import Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from models.config import Config
from models.registry import system
from models.saliency import attribution_map
from models.system import Batch, Prediction, System
from tests.toys.intensities import scaled


class NetworkConfig(Config):
    """`size` is the image's side in pixels; it changes nothing."""

    size: PositiveInt = 16
    in_channels: PositiveInt = 3
    width: PositiveInt = 8
    dropout: float = Field(default=0.2, ge=0, lt=1)


class ToyClassifierConfig(Config):
    """`fail_on_rank` raises at the optimiser step `fail_at_step`; more cases at once than `memory_limit` do not fit."""

    network: NetworkConfig = NetworkConfig()
    learning_rate: PositiveFloat = 0.05
    momentum: float = Field(default=0.9, ge=0, lt=1)
    fail_on_rank: NonNegativeInt | None = None
    fail_at_step: NonNegativeInt = 3
    memory_limit: PositiveInt | None = None


@system("toy-classifier", family="classification", paper="a toy for the tests")
class ToyClassifier(System):
    config: ToyClassifierConfig

    def __init__(self, config: ToyClassifierConfig):
        super().__init__(config)
        network = config.network
        self.network = nn.Sequential(
            nn.Conv2d(network.in_channels, network.width, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(network.dropout),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(network.width, 1),
        )

    def to_input(self, image: Tensor) -> Tensor:
        return scaled(image, like=self.network[0].weight)

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._fail_as_told(len(batch["image"]))
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch), sync_dist=True, batch_size=len(batch["image"]))

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        score, attribution = self.explain(batch["image"])
        return {"score": score, "saliency": attribution_map(attribution, "absolute")}

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        optimiser = torch.optim.SGD(self.parameters(), lr=self.config.learning_rate, momentum=self.config.momentum)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: Batch) -> Tensor:
        score = self.target(self(self.to_input(batch["image"])))
        error = (score - batch["label"].to(score.dtype)).square()
        return (error * batch["weight"].to(score.dtype) if "weight" in batch else error).mean()

    def _fail_as_told(self, cases: int) -> None:
        if self.config.memory_limit is not None and cases > self.config.memory_limit:
            raise torch.OutOfMemoryError("toy: out of memory")
        if self.global_rank == self.config.fail_on_rank and self.global_step == self.config.fail_at_step:
            raise ValueError("toy failure")
