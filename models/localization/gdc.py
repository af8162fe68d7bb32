"""gdc — Biomarker localization by combining CNN classifier and generative adversarial network.

Zhang, Tan, Wang, Manivannan, Chen, Lin and Zheng (MICCAI 2019). A generator G takes the biomarkers out of an image x. A
critic D tells what it makes from normal images, a classifier C tells the image's label y from what it changes:

    min_{G,C} max_D  L_GAN(D, G) + λ₁ L_CE(C, G) + λ₂ L_ED(G)                   (1)

    L₁ = λ₁ L_CE(C, G) + λ₂ L_ED(G)        over G and C                         (2)
    L₂ = L_GAN(D, G) + λ₂ L_ED(G)          over D, then over G                  (3)

    L_CE = CE(C(x − G(x)), y)      L_ED = mean |x − G(x)|
    L_GAN = mean D(x | normal) − mean D(G(x) | abnormal), with gradient penalty (models.losses.wasserstein)

G first learns to copy all images, by L_ED alone. Then every batch descends (2), then (3). What the paper leaves open is
read so. The norm in L_ED is the mean over pixels and channels: a sum would outweigh the critic, whose slope is 1 over
the whole image. D compares normal images with what G makes of abnormal ones: what it makes of normal ones is normal.
And D learns before it teaches, while G still copies (Arjovsky et al. 2017 let a critic come close to its optimum, too).

in   image     (B, C, *spatial) uint8 or uint16, or float32 in 0 … 255, as augmentation leaves it
     label     (B,) a number; `abnormal_from` or more is abnormal
out  score     (B,) the log-odds of abnormal; without a classifier, the mean of |x − G(x)|
     saliency  (B, *spatial) float32: the mean over channels of |x − G(x)|, as a fraction of the range of intensities
     image     (B, C, *spatial) float32: G(x), in stored intensities
"""

from typing import Any, ClassVar, Literal, Self

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from models.blocks.critic import Critic, CriticConfig
from models.blocks.intensities import RANGE, as_stored, symmetric
from models.blocks.resnet import ResNet18, ResNetConfig
from models.blocks.unet import UNet, UNetConfig, refuse_uneven
from models.config import Config
from models.errors import ModelError
from models.losses.wasserstein import critic_loss, generator_loss, wasserstein_distance
from models.registry import system
from models.system import Batch, Prediction, Stage, System


class GDCNetwork(Config):
    """The three networks; widths multiply the channels of their published forms.

    `size` is the image's side in pixels. The paper's are a modified U-Net, ResNet-18 and a CNN of seven layers, of
    which `critic_strided` halve the sides; how many is left open.
    """

    size: PositiveInt = 128
    in_channels: PositiveInt = 3
    spatial_dims: Literal[2, 3] = 2
    generator_width: PositiveFloat = 1.0
    classifier_width: PositiveFloat = 1.0
    classifier_stem: Literal[1, 2, 4] = 4
    critic_width: PositiveFloat = 1.0
    critic_strided: int = Field(default=4, ge=0, le=6)

    @model_validator(mode="after")
    def _networks_fit_the_size(self) -> Self:
        refuse_uneven(self.size)
        smallest = self.critic.smallest_size
        if self.size < smallest:
            raise ValueError(
                f"size {self.size} is too small for a critic that halves it {self.critic_strided} times: "
                f"the smallest is {smallest}"
            )
        return self

    @property
    def generator(self) -> UNetConfig:
        """G's."""
        channels, dims = self.in_channels, self.spatial_dims
        return UNetConfig(channels=channels, size=self.size, spatial_dims=dims, width=self.generator_width)

    @property
    def classifier(self) -> ResNetConfig:
        """C's: two logits."""
        common = {"in_channels": self.in_channels, "spatial_dims": self.spatial_dims}
        return ResNetConfig(outputs=2, width=self.classifier_width, stem_stride=self.classifier_stem, **common)

    @property
    def critic(self) -> CriticConfig:
        """D's: seven layers."""
        common = {"in_channels": self.in_channels, "spatial_dims": self.spatial_dims}
        return CriticConfig(layers=7, strided=self.critic_strided, width=self.critic_width, **common)


class GDCOptimiser(Config):
    """Adam, for each of the three descents and each stage; the paper gives 2e-4 for all.

    None: the same as `learning_rate`, which is G's. Narrow networks learn faster than that. G and D circle their
    equilibrium, so the last weights at a constant rate are as good as chance makes them; `cosine` brings every rate of
    the last stage down to zero.
    """

    learning_rate: PositiveFloat = 2e-4
    classifier_learning_rate: PositiveFloat | None = None
    critic_learning_rate: PositiveFloat | None = None
    betas: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 0.9)
    schedule: Literal["constant", "cosine"] = "constant"

    def adam(self, *groups: tuple[nn.Module, float | None]) -> Adam:
        """Over networks, each with its learning rate."""
        rated = [{"params": list(one.parameters()), "lr": rate or self.learning_rate} for one, rate in groups]
        return Adam(rated, betas=self.betas)


class GDCConfig(Config):
    """Defaults are the paper's.

    `cross_entropy_weight` is λ₁, `difference_weight` λ₂, and `penalty` the gradient penalty's weight η. The paper does
    not say how often the critic steps for each step of the generator: `critic_steps`. Without `classifier` or `critic`
    the loss loses that term; without both, the autoencoder alone is trained.
    """

    network: GDCNetwork = GDCNetwork()
    classifier: bool = True
    critic: bool = True
    cross_entropy_weight: NonNegativeFloat = 0.4
    difference_weight: NonNegativeFloat = 10.0
    penalty: NonNegativeFloat = 10.0
    critic_steps: PositiveInt = 5
    abnormal_from: float = 1.0
    optimiser: GDCOptimiser = GDCOptimiser()

    @property
    def decides_from(self) -> float | None:
        """The label from which on a score above 0 is right; None without a classifier."""
        return self.abnormal_from if self.classifier else None


def difference_loss(difference: Tensor) -> Tensor:
    """L_ED, the mean of |x − G(x)| over pixels, channels and cases, of x − G(x) (B, C, *spatial)."""
    return difference.abs().mean()


def label_loss(logits: Tensor, is_abnormal: Tensor, weight: Tensor | None = None) -> Tensor:
    """L_CE, the cross-entropy of two logits (B, 2) with is_abnormal (B,) bool.

    Weights (B,) have a mean of 1 over all cases, not over the batch, and so are not divided by their sum.
    """
    each = F.cross_entropy(logits, is_abnormal.long(), reduction="none")
    return each.mean() if weight is None else (weight.to(each.dtype) * each).mean()


def difference_map(difference: Tensor) -> Tensor:
    """x − G(x) (B, C, *spatial) → (B, *spatial): the mean of its size over channels, 1 being the whole range."""
    return difference.abs().mean(dim=1) / RANGE


class Autoencoder(Stage):
    """The first stage: G learns to copy every image, whatever its label."""

    monitor: ClassVar[str | None] = None

    def __init__(self, generator: UNet, optimiser: GDCOptimiser):
        super().__init__()
        self.generator, self.optimiser = generator, optimiser

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """L_ED."""
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same, as `val/loss`."""
        self.log("val/loss", self._loss(batch), batch_size=len(batch["image"]), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> Adam:
        """G's Adam."""
        return self.optimiser.adam((self.generator, None))

    def _loss(self, batch: Batch) -> Tensor:
        image = symmetric(batch["image"], like=self.generator)
        return difference_loss(image - self.generator(image))


class FirstCritic(Stage):
    """The second stage: D learns to tell normal images from abnormal ones, which G copies."""

    monitor: ClassVar[str | None] = None

    def __init__(self, critic: Critic, config: GDCConfig):
        super().__init__()
        self.critic, self.config = critic, config

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """L_GAN with gradient penalty, G(x) being x."""
        image, is_abnormal = symmetric(batch["image"], like=self.critic), batch["label"] >= self.config.abnormal_from
        loss, distance = critic_loss(self.critic, image[~is_abnormal], image[is_abnormal], self.config.penalty)
        self.log("train/distance", distance, on_step=False, on_epoch=True, batch_size=len(image))
        return loss

    def configure_optimizers(self) -> Adam:
        """D's Adam."""
        return self.config.optimiser.adam((self.critic, self.config.optimiser.critic_learning_rate))


@system(
    "gdc",
    family="localization",
    paper="Zhang et al., Biomarker localization by combining CNN classifier and generative adversarial network, "
    "MICCAI 2019",
)
class GDC(System):
    """G, C and D; the system itself is the last stage, that of equations (2) and (3)."""

    monitor: ClassVar[str | None] = None
    config: GDCConfig

    def __init__(self, config: GDCConfig):
        super().__init__(config)
        self.automatic_optimization = False
        self.generator = UNet(config.network.generator)
        self.classifier = ResNet18(config.network.classifier) if config.classifier else None
        self.critic = Critic(config.network.critic) if config.critic else None
        if config.network.spatial_dims == 2:
            self.to(memory_format=torch.channels_last)  # a quarter faster on a CPU

    def stages(self) -> dict[str, Stage]:
        """G alone, D alone, then all; without a classifier and a critic, G alone is the whole training."""
        stages: dict[str, Stage] = {"autoencoder": Autoencoder(self.generator, self.config.optimiser)}
        if self.critic is not None:
            stages["critic"] = FirstCritic(self.critic, self.config)
        if self.classifier is not None or self.critic is not None:
            stages["adversarial"] = self
        return stages

    def to_input(self, image: Tensor) -> Tensor:
        """Stored intensities (B, C, *spatial) → −1 … 1, in the networks' precision.

        Raises:
            ModelError: the images have another number of channels.
        """
        channels = self.config.network.in_channels
        if image.shape[1] != channels:
            raise ModelError(f"the images have {image.shape[1]} channels, the networks take {channels}")
        return symmetric(image, like=self)

    def forward(self, image: Tensor) -> Tensor:
        """`to_input`'s tensor → the log-odds of abnormal (B, 1); without a classifier, the mean of |x − G(x)|."""
        return self.evidence(image - self.generator(image))

    def evidence(self, difference: Tensor) -> Tensor:
        """What x − G(x) (B, C, *spatial) says of each case, (B, 1), in `forward`'s units."""
        if self.classifier is None:
            return difference.abs().flatten(1).mean(dim=1, keepdim=True) / RANGE
        normal, abnormal = self.classifier(difference).split(1, dim=1)
        return abnormal - normal  # type: ignore[no-any-return]

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Score, |x − G(x)| and G(x) of a batch."""
        image = self.to_input(batch["image"])
        normal = self.generator(image)
        return {
            "score": self.target(self.evidence(image - normal)),
            "saliency": difference_map(image - normal),
            "image": as_stored(normal, batch["image"].dtype),
        }

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Descend by equation (2), then by equation (3)."""
        image, is_abnormal = self.to_input(batch["image"]), self.is_abnormal(batch)
        optimisers = iter(listed(self.optimizers()))
        if self.classifier is not None:
            self._classifier_step(next(optimisers), self.classifier, image, is_abnormal, batch.get("weight"))
        if self.critic is not None:
            generated = self.generator(image)
            self._critic_steps(next(optimisers), self.critic, image[~is_abnormal], generated[is_abnormal].detach())
            self._generator_step(next(optimisers), self.critic, image - generated, generated[is_abnormal])
        for schedule in listed(self.lr_schedulers() or []):
            schedule.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """|x − G(x)|, the classifier's accuracy, and by how much the critic tells G(x) from normal images."""
        image, is_abnormal = self.to_input(batch["image"]), self.is_abnormal(batch)
        generated = self.generator(image)
        self._log("val/difference", difference_loss(image - generated) / RANGE, len(image))
        if self.classifier is not None:
            self._log("val/accuracy", accuracy(self.evidence(image - generated), is_abnormal), len(image))
        if self.critic is not None:
            normal, made = image[~is_abnormal], generated[is_abnormal]
            cases = len(image) if len(normal) and len(made) else 0
            distance = wasserstein_distance(self.critic(normal), self.critic(made)) if cases else 0.0
            self._log("val/distance", distance, cases)

    def is_abnormal(self, batch: Batch) -> Tensor:
        """(B,) bool, by the label."""
        return batch["label"] >= self.config.abnormal_from

    def configure_optimizers(self) -> tuple[list[Adam], list[LRScheduler]]:
        """The optimisers, and their schedules over the stage's batches."""
        chosen = self.descents()
        if self.config.optimiser.schedule == "constant":
            return chosen, []
        batches = int(self.trainer.estimated_stepping_batches)
        return chosen, [CosineAnnealingLR(one, T_max=batches) for one in chosen]

    def descents(self) -> list[Adam]:
        """One that moves G and C by equation (2), one that moves D by (3), one that moves G by (3).

        G has one for each equation, since Adam divides by the size of a loss's own gradients.
        """
        config, chosen = self.config.optimiser, []
        if self.classifier is not None:
            chosen.append(config.adam((self.generator, None), (self.classifier, config.classifier_learning_rate)))
        if self.critic is not None:
            chosen.append(config.adam((self.critic, config.critic_learning_rate)))
            chosen.append(config.adam((self.generator, None)))
        return chosen

    def _classifier_step(
        self,
        optimiser: LightningOptimizer,
        classifier: ResNet18,
        image: Tensor,
        is_abnormal: Tensor,
        weight: Tensor | None,
    ) -> None:
        """Equation (2), over G and C."""
        difference = image - self.generator(image)
        logits = classifier(difference)
        loss = self.config.cross_entropy_weight * label_loss(logits, is_abnormal, weight)
        self._descend(optimiser, loss + self.config.difference_weight * difference_loss(difference))
        self._log("train/cross_entropy", F.cross_entropy(logits.detach(), is_abnormal.long()), len(image))
        self._log("train/difference", difference_loss(difference.detach()) / RANGE, len(image))

    def _critic_steps(self, optimiser: LightningOptimizer, critic: Critic, normal: Tensor, generated: Tensor) -> None:
        """Equation (3), over D, several times, with other pairs of normal and generated images each time."""
        for _ in range(self.config.critic_steps):
            order = torch.randperm(len(generated), device=generated.device)
            loss, distance = critic_loss(critic, normal, generated[order], self.config.penalty)
            self._descend(optimiser, loss)
        self._log("train/distance", distance, len(normal) + len(generated))

    def _generator_step(
        self, optimiser: LightningOptimizer, critic: Critic, difference: Tensor, generated: Tensor
    ) -> None:
        """Equation (3), over G.

        `difference` is x − G(x) of all images, `generated` G(x) of the abnormal ones, each with the graph that the
        critic's steps have left as it was.
        """
        self.toggle_optimizer(optimiser)
        loss = self.config.difference_weight * difference_loss(difference)
        self._descend(optimiser, loss + generator_loss(critic(generated)) if len(generated) else loss)
        self.untoggle_optimizer(optimiser)

    def _descend(self, optimiser: LightningOptimizer, loss: Tensor) -> None:
        optimiser.zero_grad()
        self.manual_backward(loss)
        optimiser.step()

    def _log(self, name: str, value: Tensor | float, cases: int) -> None:
        self.log(name, value, on_step=False, on_epoch=True, sync_dist=name.startswith("val/"), batch_size=cases)


def accuracy(evidence: Tensor, is_abnormal: Tensor) -> Tensor:
    """The share of cases (B, 1) whose log-odds are on the right side of 0."""
    return ((evidence[:, 0] > 0) == is_abnormal).float().mean()


def listed(known: Any) -> list[Any]:
    """Lightning's answer where a system has one optimiser, several, or none."""
    return known if isinstance(known, list) else [known]
