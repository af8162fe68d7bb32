"""An exponential moving average of a stage's weights, used for validation and as what the stage hands on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage(Callback):
    """w̄ ← d · w̄ + (1 − d) · w after each optimiser step, from the first step's weights on; buffers are not averaged."""

    def __init__(self, decay: float) -> None:
        self.update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average: list[Tensor] = []
        self.steps = 0
        self.stage: LightningModule

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Know whose weights are averaged."""
        self.stage = pl_module

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the weights as they are, unless a checkpoint has brought an average."""
        known = self.average or self._weights()
        self.average = [mean.to(weight.device).clone() for mean, weight in zip(known, self._weights(), strict=True)]

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Follow the weights, once an optimiser step."""
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self.update(self.average, self._weights(), 0)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        self._swap()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train the weights."""
        self._swap()

    def state_dict(self) -> dict[str, Any]:
        """The average and how many steps it has followed."""
        return {"average": self.average, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.average, self.steps = state_dict["average"], state_dict["steps"]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The network's weights are the average inside."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, weight in zip(self.average, self._weights(), strict=True):
            kept = weight.clone()
            weight.copy_(mean)
            mean.copy_(kept)

    def _weights(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.stage.parameters()]
