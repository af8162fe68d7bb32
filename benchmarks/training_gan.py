"""benchmark-gan: a generator, a critic and a classifier of the size that visual attribution trains, from MONAI's parts.

    L_D = D(G(x)) − D(x) + 10 (‖∂D/∂x̂‖ − 1)²,  x̂ = ε x + (1 − ε) G(x)
    L_C = (C(x) − grade)²
    L_G = C(G(x))² − D(G(x)) + mean |x − G(x)|

in   image  (B, 3, 128, 128)       a step updates all three
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from monai.networks.nets import Critic, UNet, resnet18
from torch import Tensor, nn
from torch.optim import Adam

from models.config import Config
from models.registry import system
from models.system import Batch, System


class GANConfig(Config):
    """Nothing to choose."""


@system("benchmark-gan", family="synthesis", paper="none: a load for the benchmark")
class BenchmarkGAN(System):
    """A U-Net, a ResNet-18, and a critic of seven layers."""

    monitor: ClassVar[str | None] = None
    config: GANConfig

    def __init__(self, config: GANConfig):
        super().__init__(config)
        self.automatic_optimization = False
        self.generator = UNet(2, 3, 3, channels=(32, 64, 128, 256, 512), strides=(2, 2, 2, 2), num_res_units=2)
        widths = (32, 64, 128, 256, 512, 512, 1)
        self.critic = Critic((3, 128, 128), widths, strides=(2, 2, 2, 2, 2, 2, 1), num_res_units=0, dropout=0.0)
        self.classifier = resnet18(spatial_dims=2, n_input_channels=3, num_classes=1)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        image = batch["image"] / 127.5 - 1
        generator, critic, classifier = self.optimizers()
        changed = self.generator(image)
        self._update(critic, lambda: self.critic_loss(image, changed.detach()))
        self._update(classifier, lambda: (self.classifier(image)[:, 0] - batch["label"]).square().mean())
        self._update(generator, lambda: self.generator_loss(image, changed))

    def critic_loss(self, image: Tensor, changed: Tensor) -> Tensor:
        """L_D."""
        penalty = gradient_penalty(self.critic, image, changed)
        return self.critic(changed).mean() - self.critic(image).mean() + 10 * penalty

    def generator_loss(self, image: Tensor, changed: Tensor) -> Tensor:
        """L_G."""
        looks_well = self.classifier(changed).square().mean()
        return looks_well - self.critic(changed).mean() + (image - changed).abs().mean()

    def configure_optimizers(self) -> list[Adam]:
        return [Adam(net.parameters(), lr=1e-4) for net in (self.generator, self.critic, self.classifier)]

    def _update(self, optimiser: Any, loss: Callable[[], Tensor]) -> None:
        self.toggle_optimizer(optimiser)
        optimiser.zero_grad()
        self.manual_backward(loss())
        optimiser.step()
        self.untoggle_optimizer(optimiser)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """mean (‖∂D/∂x̂‖ − 1)² at a random place between each pair of images."""
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
