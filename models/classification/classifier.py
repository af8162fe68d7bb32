"""classifier — normal or abnormal, by a ResNet-18 or a VGG; the comparators of biomarker localisation.

He, Zhang, Ren and Sun (CVPR 2016); Simonyan and Zisserman (ICLR 2015). A network gives two logits z, and learns by

    L = −mean log softmax(z)_y        y = 1 where the label is `abnormal_from` or more

The rows of its last layer start as each other's negative. The loss's derivatives by z_0 and z_1 are each other's
negative, too, so that z_0 = −z_1 stays true through training, and z_1 alone tells the class:

    P(abnormal) = sigmoid(z_1 − z_0) = sigmoid(2 z_1) > ½  where  z_1 > 0

in   image     (B, C, *spatial), photographs (uint8, uint16, floats in 0 … 255) or values in units (HU, SUV)
     label     (B,) a number, such as 0 and 1 or a grade
out  score     (B,) z_1: half the log-odds of abnormal, 0 where both classes are as likely
     saliency  (B, *spatial) float32 ≥ 0, by the configured method, explaining z_1
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import resnet, vgg
from models.blocks.intensities import (
    refuse_other_lengths,
    refuse_other_shapes,
    register_standardisation,
    scaled,
    standardised,
)
from models.classification.network import ClassifierNetwork, classifier_network, last_layer
from models.config import Config
from models.errors import ModelError
from models.optimisers import OptimiserConfig, configured
from models.registry import system
from models.saliency import (
    Explanation,
    Method,
    Sign,
    Target,
    attribution_map,
    class_logit,
    default_sign,
    saliency_method,
)
from models.system import Batch, Localization, Prediction, System

ABNORMAL = 1
DEFAULT_SALIENCY = {"resnet18": "cam", "vgg16": "grad_cam", "vgg19": "grad_cam"}
PHOTOGRAPHIC = (torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64)


class ClassifierOptimiser(OptimiserConfig):
    """Adam with the learning rate 2e-4, as in the comparison."""

    name: Literal["sgd", "adam", "adamw"] = "adam"
    learning_rate: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 0.0


class ClassifierConfig(Config):
    """A label ≥ `abnormal_from` is abnormal.

    `intensities`: a `photograph` is scaled to 0 … 1 before it is standardised by `mean` and `std` (one value, or one a
    channel; None: ImageNet's for three channels, their mean for any other number). Values in `units` are standardised
    as they are, and `mean` and `std` have to be given in these units.

    `saliency` is class activation mapping for ResNet-18 and Grad-CAM for a VGG unless another method is named;
    `saliency_settings` are that method's keyword settings, `sign` None is its own.
    """

    network: ClassifierNetwork = ClassifierNetwork()
    abnormal_from: float = 1.0
    intensities: Literal["photograph", "units"] = "photograph"
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    optimiser: ClassifierOptimiser = ClassifierOptimiser()
    saliency: str = Field(default_factory=lambda given: DEFAULT_SALIENCY[given["network"].backbone])
    saliency_settings: dict[str, Any] = Field(default={})
    sign: Sign | None = None

    @property
    def decides_from(self) -> float:
        """The label from which on a score above 0 is right."""
        return self.abnormal_from

    @property
    def map_sign(self) -> Sign:
        """`sign`, or the method's own."""
        return self.sign or default_sign(self.saliency)

    @property
    def method(self) -> Method:
        """The saliency method with its settings."""
        return saliency_method(self.saliency, self.saliency_settings)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        refuse_other_lengths(self.network.in_channels, {"mean": self.mean, "std": self.std})
        if self.intensities == "units" and (self.mean is None or self.std is None):
            raise ValueError("intensities in units need mean and std, in the same units")
        try:
            saliency_method(self.saliency, self.saliency_settings)
        except ModelError as error:
            raise ValueError(str(error)) from error
        return self


@system(
    "classifier",
    family="classification",
    paper="He et al., Deep residual learning for image recognition, CVPR 2016; Simonyan and Zisserman, Very deep "
    "convolutional networks for large-scale image recognition, ICLR 2015",
)
class Classifier(System):
    """Normal or abnormal, with the saliency of the abnormal logit."""

    localization: ClassVar[Localization] = "saliency"
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig):
        super().__init__(config)
        self.network = classifier_network(config.network, outputs=2)
        centre(last_layer(self.network))
        register_standardisation(self, config.network.in_channels, config.network.spatial_dims, config.mean, config.std)

    @property
    def target(self) -> Target:
        """The abnormal logit z_1."""
        return class_logit(ABNORMAL)

    def to_input(self, image: Tensor) -> Tensor:
        """Stored intensities (B, C, *spatial) → standardised, in the network's precision.

        Raises:
            ModelError: another number of channels or axes, or a photograph of a type that photographs don't have.
        """
        network = self.config.network
        refuse_other_shapes(image, network.in_channels, network.spatial_dims)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        if self.config.intensities == "units":
            return standardised(image, mean, std)
        if image.dtype not in PHOTOGRAPHIC:
            stored = str(image.dtype).removeprefix("torch.")
            raise ModelError(f"images stored as {stored} are no photographs: set intensities=units, mean and std")
        return standardised(scaled(image, mean.dtype), mean, std)

    def forward(self, image: Tensor) -> Tensor:
        """`to_input`'s tensor → logits (B, 2) of normal and abnormal."""
        return self.network(image)  # type: ignore[no-any-return]

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Take torchvision's weights of the backbone, but for the last layer."""
        if isinstance(self.network, resnet.ResNet18):
            resnet.load_torchvision_state(self.network, state)
        else:
            vgg.load_torchvision_state(self.network, state)

    def explain(self, image: Tensor) -> Explanation:
        """z_1 and its attribution of stored images by the configured saliency method."""
        return self.config.method(self, self.to_input(image), self.target)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """L on `image` and `label`, with the cases' `weight` where there is one."""
        loss = class_loss(self._logits(batch), self._abnormal(batch), batch.get("weight"))
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """L without weights as `val/loss`, and the share of cases told right as `val/accuracy`."""
        logits, abnormal = self._logits(batch), self._abnormal(batch)
        right = (logits.argmax(dim=1) == abnormal).to(logits.dtype).mean()
        shown: dict[str, Any] = {"batch_size": len(batch["image"]), "sync_dist": True, "prog_bar": True}
        self.log("val/loss", class_loss(logits, abnormal), **shown)
        self.log("val/accuracy", right, **shown)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Score z_1 and map of a batch."""
        score, attribution = self.explain(batch["image"])
        return {"score": score, "saliency": attribution_map(attribution, self.config.map_sign)}

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser, and a schedule over all steps of the training."""
        return configured(self, self.network, self.config.optimiser)

    def _logits(self, batch: Batch) -> Tensor:
        return self(self.to_input(batch["image"]))  # type: ignore[no-any-return]

    def _abnormal(self, batch: Batch) -> Tensor:
        return (batch["label"] >= self.config.abnormal_from).long()


def class_loss(logits: Tensor, abnormal: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits (B, 2) and classes (B,), 1/B Σ w · (−log softmax(z)_y).

    The weights' mean is 1 over all cases, not over the batch, and so they are not divided by their sum.
    """
    surprise = F.cross_entropy(logits, abnormal, reduction="none")
    return surprise.mean() if weight is None else (weight.to(surprise.dtype) * surprise).mean()


@torch.no_grad()
def centre(layer: nn.Linear) -> None:
    """Take the mean over the outputs from a layer's weights and biases; the softmax of its outputs stays the same."""
    layer.weight.sub_(layer.weight.mean(dim=0, keepdim=True))
    layer.bias.sub_(layer.bias.mean())
