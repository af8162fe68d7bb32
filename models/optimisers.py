"""How systems descend: an optimiser and a schedule of its learning rate, as data."""

from typing import Any, Literal

import torch
from lightning import LightningModule
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import nn

from models.config import Config


class OptimiserConfig(Config):
    """SGD with Nesterov momentum 0.9; `adam` and `adamw` take the momentum as their β₁.

    AdamW and the one-cycle schedule are for small networks on a CPU.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 1e-3
    momentum: NonNegativeFloat = Field(default=0.9, lt=1.0)
    weight_decay: NonNegativeFloat = 5e-4
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"


def configured(stage: LightningModule, network: nn.Module, config: OptimiserConfig) -> dict[str, Any]:
    """What `configure_optimizers` of a stage answers: the optimiser, and a schedule over all steps of its training."""
    chosen = optimiser(network, config)
    if config.schedule == "constant":
        return {"optimizer": chosen}
    steps = int(stage.trainer.estimated_stepping_batches)
    return {"optimizer": chosen, "lr_scheduler": {"scheduler": schedule(chosen, config, steps), "interval": "step"}}


def optimiser(network: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or Adam or AdamW with the same momentum as its β₁."""
    betas = (config.momentum, 0.999)
    if config.name == "adam":
        return torch.optim.Adam(
            network.parameters(), lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay
        )
    if config.name == "adamw":
        return torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
    )


def schedule(
    chosen: torch.optim.Optimizer, config: OptimiserConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Cosine decay to zero, or one cycle up to `learning_rate` and down, over `steps` optimiser steps."""
    if config.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(chosen, T_max=steps)
    return torch.optim.lr_scheduler.OneCycleLR(chosen, max_lr=config.learning_rate, total_steps=steps)
