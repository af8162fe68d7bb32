"""toy-gan: a generator that learns to copy images, then to please a critic (WGAN-GP); trained in two stages.

    autoencoder   L = mean |x − G(x)|
    adversarial   L_D = D(G(x + z)) − D(x) + λ (‖∂D/∂x̂‖ − 1)²,  x̂ = ε x + (1 − ε) G(x + z)
                  L_G = −D(G(x + z)) + mean |x − G(x + z)|

in   image  (B, C, H, W)
out  score (B,): D(x);  image (B, C, H, W): G(x), scaled as stored;  saliency (B, H, W): mean_c |x − G(x)|, of 0 … 1
"""

from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from models.config import Config
from models.registry import system
from models.system import Batch, Prediction, Stage, System
from tests.toys.intensities import scaled, white


class NetworkConfig(Config):
    """`size` is the image's side in pixels; it changes nothing."""

    size: PositiveInt = 16
    in_channels: PositiveInt = 3
    width: PositiveInt = 8


class ToyGANConfig(Config):
    """`n_critic` batches train the critic for each that trains the generator, too."""

    network: NetworkConfig = NetworkConfig()
    learning_rate: PositiveFloat = 1e-3
    n_critic: PositiveInt = 2
    noise: NonNegativeFloat = 0.1
    penalty: NonNegativeFloat = 10.0


def generator_of(network: NetworkConfig) -> nn.Module:
    """(B, C, H, W) → the same shape, in 0 … 1."""
    return nn.Sequential(
        nn.Conv2d(network.in_channels, network.width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(network.width, network.in_channels, 3, padding=1),
        nn.Sigmoid(),
    )


def critic_of(network: NetworkConfig) -> nn.Module:
    """(B, C, H, W) → (B, 1)."""
    return nn.Sequential(
        nn.Conv2d(network.in_channels, network.width, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(network.width, 1, bias=False),
    )


def distance(first: Tensor, second: Tensor) -> Tensor:
    """The mean absolute difference."""
    return (first - second).abs().mean()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """mean (‖∂D/∂x̂‖ − 1)² at a random place between each pair of images."""
    share = torch.rand(len(real), 1, 1, 1, dtype=real.dtype, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


class Autoencoder(Stage):
    """The first stage: the generator alone."""

    def __init__(self, generator: nn.Module, learning_rate: float):
        super().__init__()
        self.generator = generator
        self.learning_rate = learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch), sync_dist=True, batch_size=len(batch["image"]))

    def configure_optimizers(self) -> dict[str, Any]:
        optimiser = Adam(self.generator.parameters(), lr=self.learning_rate)
        schedule = CosineAnnealingLR(optimiser, T_max=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: Batch) -> Tensor:
        image = scaled(batch["image"], like=self.generator[0].weight)
        return distance(self.generator(image), image)


@system("toy-gan", family="synthesis", paper="a toy for the tests")
class ToyGAN(System):
    """The system itself is the second stage."""

    monitor: ClassVar[str | None] = None
    config: ToyGANConfig

    def __init__(self, config: ToyGANConfig):
        super().__init__(config)
        self.automatic_optimization = False
        self.generator = generator_of(config.network)
        self.critic = critic_of(config.network)

    def stages(self) -> dict[str, Stage]:
        return {"autoencoder": Autoencoder(self.generator, self.config.learning_rate), "adversarial": self}

    def to_input(self, image: Tensor) -> Tensor:
        return scaled(image, like=self.generator[0].weight)

    def forward(self, image: Tensor) -> Tensor:
        """The critic's answer (B, 1)."""
        return self.critic(image)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        image = self.to_input(batch["image"])
        generator, critic = self.optimizers()
        generator_schedule, critic_schedule = self.lr_schedulers()
        self._update(critic, self.critic_loss(image), "train/critic", len(image))
        critic_schedule.step()
        if (batch_idx + 1) % self.config.n_critic == 0:
            self.toggle_optimizer(generator)
            self._update(generator, self.generator_loss(image), "train/generator", len(image))
            self.untoggle_optimizer(generator)
            generator_schedule.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        image = self.to_input(batch["image"])
        between = (self.critic(image) - self.critic(self.generator(image))).mean()
        self.log("val/distance", between, sync_dist=True, batch_size=len(image))

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        image = self.to_input(batch["image"])
        generated = self.generator(image)
        return {
            "score": self.target(self(image)),
            "saliency": (image - generated).abs().mean(dim=1),
            "image": generated * white(batch["image"]),
        }

    def configure_optimizers(self) -> tuple[list[Adam], list[CosineAnnealingLR]]:
        rate, steps = self.config.learning_rate, int(self.trainer.estimated_stepping_batches)
        generator = Adam(self.generator.parameters(), lr=rate, betas=(0.5, 0.9))
        critic = Adam(self.critic.parameters(), lr=rate, betas=(0.5, 0.9))
        schedules = [
            CosineAnnealingLR(generator, max(1, steps // self.config.n_critic)),
            CosineAnnealingLR(critic, steps),
        ]
        return [generator, critic], schedules

    def noisy(self, image: Tensor) -> Tensor:
        """x + z; z is drawn from torch's own generator."""
        return image + self.config.noise * torch.randn_like(image)

    def critic_loss(self, image: Tensor) -> Tensor:
        """L_D."""
        fake = self.generator(self.noisy(image)).detach()
        penalty = self.config.penalty * gradient_penalty(self.critic, image, fake)
        return (self.critic(fake) - self.critic(image)).mean() + penalty

    def generator_loss(self, image: Tensor) -> Tensor:
        """L_G."""
        fake = self.generator(self.noisy(image))
        return distance(fake, image) - self.critic(fake).mean()

    def _update(self, optimiser: Any, loss: Tensor, name: str, cases: int) -> None:
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()
        self.log(name, loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=cases)
