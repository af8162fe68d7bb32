"""patho-gan — Pathology-aware deep network visualization and its application in glaucoma image synthesis.

Wang, Xu, Li, Wang and Guan (MICCAI 2019), section 4.2. A generator G makes a photograph x̂ = G(Y, z) of the eye's
fundus from the vessels Y ∈ {0, 1} of a real one x and a noise code z, so that the evidence V which a classifier finds
in it is that of the real one:

    max_θ min_γ  E[ L_adv(θ, γ) + λ L_patho(θ) ]                                (5)
    L_patho = |V(x) − V(x̂)|₁                                                    (6)

V are the two maps of `models.saliency.pathology_aware`, of compact and of spread features. They hold derivatives of the
classifier's score, through which L_patho is differentiated once more. All images of the adversarial stage are abnormal
ones. G and D descend by

    G   mean −log D(x̂) + λ L_patho        D   mean −log D(x) − log(1 − D(x̂))

where the first is the non-saturating form of log(1 − D(x̂)) (Goodfellow et al. 2014, section 3), with twice as many
updates of G as of D. Without λ it is the paper's baseline. What differs from the paper:

L_patho  is relative to the evidence that is there, Σ_u |V(x) − V(x̂)|_u / Σ_u |V(x)|_u of each image and map, summed
         over both maps and averaged over images: V has the classifier's scale. λ = 1000 belongs to the sum itself. A
         map that is empty for x contributes 0. Y does not tell where the reference's pathology lies: pixel by pixel
         the best guess of fine, clipped maps is none at all (L_patho = 2), and G learns to make healthy eyes. So
         `evidence` is coarse, and signed, as (4) is printed.
z        is one more channel beside Y, drawn from N(0, 0.01²) pixel by pixel; where the paper puts it is left open.
Y        comes from a `vessel-unet`, the model that training starts from; it stays as it is, and so does the classifier,
         which is trained in the first stage and explained in the second.

in   image     (B, C, H, W) uint8 or uint16, or float32 in 0 … 255, as augmentation leaves it
     label     (B,) a number; `abnormal_from` or more is abnormal
out  image     (B, C, H, W) float32: x̂, in stored intensities
     score     (B,) the classifier's log-odds of abnormal of x̂, halved
     saliency  (B, H, W) float32 ≥ 0: the map of compact features of x̂
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from models.blocks.critic import Critic
from models.blocks.field_of_view import in_view
from models.blocks.intensities import as_stored, symmetric
from models.blocks.unet import CHANNELS
from models.classification.classifier import Classifier
from models.classification.network import penultimate
from models.errors import ModelError
from models.optimisers import optimiser, schedule
from models.registry import system
from models.saliency import Explanation, Target
from models.saliency.pathology_aware import PathologyMaps, pathology_maps
from models.segmentation.vessel_unet import VesselUNet
from models.synthesis.settings import Evidence, PathoGANConfig, PathoGANNetwork
from models.system import Batch, Prediction, Stage, System


class Generator(nn.Module):
    """G: a U-Net of five levels with instance normalisation, (B, 2, H, W), Y and z → (B, channels, H, W), −1 … 1."""

    def __init__(self, config: PathoGANNetwork):
        super().__init__()
        self.levels = BasicUNet(
            spatial_dims=2,
            in_channels=2,
            out_channels=config.in_channels,
            features=[max(1, round(channels * config.generator_width)) for channels in CHANNELS],
            norm=("instance", {"affine": True}),
            upsample="nontrainable",  # transposed convolutions leave a chequerboard in what is made
        )

    def forward(self, vessels: Tensor, noise: Tensor) -> Tensor:
        """Y and z, (B, 1, H, W) each."""
        return self.levels(torch.cat([vessels, noise], dim=1)).tanh()  # type: ignore[no-any-return]


def pathology_loss(synthesised: PathologyMaps, real: PathologyMaps) -> Tensor:
    """L_patho of each image (B,), relative to the real one's evidence: that of both maps added up."""
    return deviation(synthesised.low, real.low) + deviation(synthesised.high, real.high)


def deviation(found: Tensor, wanted: Tensor) -> Tensor:
    """Σ_u |V(x) − V(x̂)| / Σ_u |V(x)| of maps (B, 1, H, W): (B,); 0 where V(x) is empty."""
    evidence = wanted.abs().flatten(1).sum(dim=1)
    apart = (found - wanted).abs().flatten(1).sum(dim=1)
    return torch.where(evidence > 0, apart / torch.where(evidence > 0, evidence, 1), 0)


def critic_loss(real: Tensor, synthesised: Tensor) -> Tensor:
    """mean −log D(x) − log(1 − D(x̂)), of D's logits (B, places) each."""
    return F.softplus(-real).mean() + F.softplus(synthesised).mean()


def adversarial_loss(synthesised: Tensor) -> Tensor:
    """mean −log D(x̂), of D's logits (B, places)."""
    return F.softplus(-synthesised).mean()


def energy(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of each map's positive part (B, 1, H, W) in each mask (B, L, H, W): (B, L).

    0 for an empty map, NaN for a mask without a pixel.
    """
    maps = torch.relu(maps)
    total, within = maps.flatten(2).sum(dim=2), (maps * masks).flatten(2).sum(dim=2)
    share = within / torch.where(total > 0, total, 1)
    return torch.where(masks.flatten(2).any(dim=2), share, torch.nan)


@system(
    "patho-gan",
    family="synthesis",
    paper="Wang et al., Pathology-aware deep network visualization and its application in glaucoma image synthesis, "
    "MICCAI 2019",
)
class PathoGAN(System):
    """The vessel segmenter, the classifier, G and D; the system itself is the last stage, that of equation (5)."""

    monitor: ClassVar[str | None] = None
    starts_from: ClassVar[str | None] = VesselUNet.name
    measures: ClassVar[tuple[str, ...]] = (
        "pathology_loss",
        "located_loss",
        "score",
        "score_gain",
        "low_energy",
        "high_energy",
        "real_low_energy",
        "real_high_energy",
    )
    config: PathoGANConfig

    def __init__(self, config: PathoGANConfig):
        super().__init__(config)
        self.automatic_optimization = False
        self.vessels = frozen(VesselUNet(config.segmenter))
        self.classifier = Classifier(config.explained)
        self.generator = Generator(config.network)
        self.critic = Critic(config.network.critic)

    def stages(self) -> dict[str, Stage]:
        """The classifier alone, then G against D."""
        return {"classifier": self.classifier, "adversarial": self}

    def start_from(self, other: System) -> None:
        """Take the vessel network of a trained `vessel-unet`, whatever its width.

        Raises:
            ModelError: another system, or one for images of other channels.
        """
        if not isinstance(other, VesselUNet):
            super().start_from(other)
            return
        theirs, ours = other.config.network.in_channels, self.config.network.in_channels
        if theirs != ours:
            raise ModelError(f"the vessel-unet takes images of {theirs} channels, these have {ours}")
        self.config = self.config.model_copy(update={"vessels": other.config})
        self.save_hyperparameters({"config": self.config.model_dump(mode="json")}, logger=False)
        self.vessels = frozen(other)

    def train(self, mode: bool = True) -> Self:
        """Training mode but for the vessel network, whose statistics stay."""
        super().train(mode)
        self.vessels.eval()
        return self

    @property
    def target(self) -> Target:
        """The classifier's abnormal logit."""
        return self.classifier.target

    def to_input(self, image: Tensor) -> Tensor:
        """What the classifier takes of stored intensities (B, C, H, W); errors as there."""
        return self.classifier.to_input(image)

    def forward(self, image: Tensor) -> Tensor:
        """`to_input`'s tensor → the classifier's logits (B, 2)."""
        return self.classifier(image)  # type: ignore[no-any-return]

    def explain(self, image: Tensor) -> Explanation:
        """The classifier's score and attribution of stored images."""
        return self.classifier.explain(image)

    @torch.no_grad()
    def vessel_map(self, image: Tensor) -> Tensor:
        """Y of stored images: (B, 1, H, W), 0 or 1 in G's precision."""
        probability: Tensor = self.vessels(self.vessels.to_input(image)).sigmoid()
        found: Tensor = (probability >= self.vessels.config.threshold) & in_view(image, self.vessels.config.dark)
        return found.to(next(self.generator.parameters()).dtype)

    def evidence(self, image: Tensor, differentiable: bool = False) -> PathologyMaps:
        """V of images in stored intensities, as L_patho compares it."""
        return self._explained(image, self.config.evidence, differentiable)

    def located(self, image: Tensor) -> PathologyMaps:
        """V of images in stored intensities, as it is shown and measured."""
        return self._explained(image, self.config.located_by, differentiable=False)

    def _explained(self, image: Tensor, reading: Evidence, differentiable: bool) -> PathologyMaps:
        inputs, settings = self.classifier.to_input(image), reading.model_dump()
        return pathology_maps(self.classifier, inputs, self.target, **settings, differentiable=differentiable)

    def judged(self, image: Tensor, vessels: Tensor) -> Tensor:
        """D's logits (B, places) of images in −1 … 1 with their vessels; one place unless it is `conditional`."""
        if not self.config.network.conditional:
            return self.critic(image)  # type: ignore[no-any-return]
        places: Tensor = self.critic.features(torch.cat([image, vessels], dim=1))
        return places.flatten(1)

    def synthesize(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        """x̂ from the vessels of stored images, with noise of one seed each."""
        return as_stored(self._made(image, seeds), image.dtype)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """x̂ of a batch, its score, and its map of compact features; the noise is that of the case's number."""
        made = self._made(batch["image"], numbers(batch))
        found = self.located(photograph(made))
        image = as_stored(made, batch["image"].dtype)
        return {"score": found.score, "saliency": torch.relu(found.low[:, 0].float()), "image": image}

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Figures of the abnormal cases, NaN for others.

        `pathology_loss`, L_patho, and `located_loss`, the same of the maps `located_by`; `score` of x̂, and by how much
        that is above that of x, `score_gain`; the share of each of these maps within each mask, `low_energy` and
        `high_energy` of x̂, `real_low_energy` and `real_high_energy` of x.
        """
        image, masks, takes_part = batch["image"], batch["masks"], self.is_abnormal(batch)
        made = photograph(self._made(image, numbers(batch)))
        real, found = self.located(image), self.located(made)
        figures = {
            "pathology_loss": pathology_loss(self.evidence(made), self.evidence(image)),
            "located_loss": pathology_loss(found, real),
            "score": found.score,
            "score_gain": found.score - real.score,
            "low_energy": energy(found.low, masks),
            "high_energy": energy(found.high, masks),
            "real_low_energy": energy(real.low, masks),
            "real_high_energy": energy(real.high, masks),
            "real_features": penultimate(self.classifier.network, self.to_input(image)),
            "synthetic_features": penultimate(self.classifier.network, self.to_input(made)),
        }
        return {name: values.masked_fill(~along(takes_part, values), torch.nan) for name, values in figures.items()}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Equation (5) on the abnormal images: G descends a few times, D once.

        Without any there is nothing to do, but in one of several processes: the others wait for its gradients.
        """
        abnormal = self.is_abnormal(batch)
        weight = float(abnormal.any())
        if weight or self.trainer.world_size > 1:
            self._play(batch["image"][abnormal] if weight else batch["image"], weight)
        schedules: Any = self.lr_schedulers() or []
        for one in schedules:
            one.step()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """L_patho of the abnormal images, and the share of them and of what G makes that D tells right."""
        image = batch["image"][self.is_abnormal(batch)]
        if not len(image):
            self._log("val/critic_accuracy", 0.0, 0)
            self._log("val/pathology_loss", 0.0, 0)
            return
        vessels = self.vessel_map(image)
        made = self.generator(*self._with_noise(vessels))
        real = symmetric(image, self.critic)
        right = (self.judged(real, vessels) > 0).float() + (self.judged(made, vessels) < 0).float()
        self._log("val/critic_accuracy", right.mean() / 2, len(image))
        loss = pathology_loss(self.evidence(photograph(made)), self.evidence(image))
        self._log("val/pathology_loss", loss.mean(), len(image))

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """One for G, one for D, and their schedules over the stage's batches."""
        config = self.config.optimiser
        chosen = [optimiser(self.generator, config), optimiser(self.critic, config.critic)]
        if config.schedule == "constant":
            return chosen, []
        batches = int(self.trainer.estimated_stepping_batches)
        return chosen, [schedule(one, each, batches) for one, each in zip(chosen, (config, config.critic), strict=True)]

    def is_abnormal(self, batch: Batch) -> Tensor:
        """(B,) bool, by the label."""
        return batch["label"] >= self.config.abnormal_from

    def noise_of(self, vessels: Tensor, seeds: Sequence[int]) -> Tensor:
        """z (B, 1, H, W) like Y, each by its seed; the same on any device."""
        shape = vessels.shape[1:]
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return self.config.noise * torch.stack(drawn).to(vessels)

    def _play(self, image: Tensor, weight: float) -> None:
        """One round on abnormal images, its losses times `weight`."""
        descents: Any = self.optimizers()
        for_generator, for_critic = descents
        vessels, real = self.vessel_map(image), self.evidence(image) if self.config.pathology_weight else None
        for _ in range(self.config.generator_steps):
            self._generator_step(for_generator, vessels, real, weight)
        self._critic_step(for_critic, image, vessels, weight)

    def _generator_step(
        self, descent: LightningOptimizer, vessels: Tensor, real: PathologyMaps | None, weight: float
    ) -> None:
        """G by equation (5); `real` are the maps V(x), None where λ is 0."""
        self.toggle_optimizer(descent)
        made = self.generator(*self._with_noise(vessels))
        loss = adversarial_loss(self.judged(made, vessels))
        self._log("train/adversarial", loss.detach(), len(vessels))
        if real is not None:
            apart = pathology_loss(self.evidence(photograph(made), differentiable=True), real).mean()
            self._log("train/pathology_loss", apart.detach(), len(vessels))
            loss = loss + self.config.pathology_weight * apart
        self._descend(descent, weight * loss)
        self.untoggle_optimizer(descent)

    def _critic_step(self, descent: LightningOptimizer, image: Tensor, vessels: Tensor, weight: float) -> None:
        """D by equation (5)."""
        with torch.no_grad():
            made = self.generator(*self._with_noise(vessels))
        loss = critic_loss(self.judged(symmetric(image, self.critic), vessels), self.judged(made, vessels))
        self._log("train/critic", loss.detach(), len(image))
        self._descend(descent, weight * loss)

    @torch.no_grad()
    def _made(self, image: Tensor, seeds: Sequence[int]) -> Tensor:
        """x̂ in −1 … 1 of stored images."""
        vessels = self.vessel_map(image)
        return self.generator(vessels, self.noise_of(vessels, seeds))  # type: ignore[no-any-return]

    def _with_noise(self, vessels: Tensor) -> tuple[Tensor, Tensor]:
        """What G is given: Y, and fresh noise."""
        return vessels, self.config.noise * torch.randn_like(vessels)

    def _descend(self, descent: LightningOptimizer, loss: Tensor) -> None:
        descent.zero_grad()
        self.manual_backward(loss)
        descent.step()

    def _log(self, name: str, value: Any, cases: int) -> None:
        self.log(name, value, on_step=False, on_epoch=True, sync_dist=name.startswith("val/"), batch_size=cases)


def photograph(made: Tensor) -> Tensor:
    """What G makes, −1 … 1, in 0 … 255."""
    return as_stored(made, torch.uint8)


def numbers(batch: Batch) -> list[int]:
    """The number of each case, 0 where they have none."""
    return batch["case"].tolist() if "case" in batch else [0] * len(batch["image"])


def frozen(network: VesselUNet) -> VesselUNet:
    """The same network, never to be trained again."""
    network.requires_grad_(False).eval()
    return network


def along(cases: Tensor, values: Tensor) -> Tensor:
    """(B,) with as many axes as `values` (B, …) has."""
    return cases.reshape(-1, *[1] * (values.dim() - 1))
