"""iterative-refinement — Improving weakly-supervised lesion localization with iterative saliency map refinement.

González-Gonzalo, Liefers, van Ginneken and Sánchez (MIDL 2018). A VGG-16 learns to predict a severity grade f(x) by

    L = mean (f(x) − grade)²                                                    (section 2.1)

and `models.localization.refinement` turns its saliency s_0 into S (section 2.2).

in   image     (B, C, H, W) uint8 or uint16, or float32 in 0 … 255, as augmentation leaves it
     label     (B,) grade, 0 … 4
out  score     (B,) the predicted grade
     saliency  (B, H, W) float32 ≥ 0: s_0, in grades per unit of the network's input
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import PositiveFloat, model_validator
from torch import Tensor

from models.blocks.intensities import (
    refuse_other_lengths,
    refuse_other_shapes,
    register_standardisation,
    scaled,
    standardised,
)
from models.blocks.vgg import VGGConfig, VGGRegressor, load_torchvision_state
from models.config import Config
from models.localization.refinement import RefinementConfig
from models.optimisers import OptimiserConfig, configured
from models.registry import system
from models.saliency import Explanation, attribution_map
from models.system import Batch, Localization, Prediction, System


class IterativeRefinementConfig(Config):
    """`mean` and `std` normalise intensities scaled to 0 … 1: one value, or one a channel.

    None: ImageNet's for three channels, the mean over its channels for any other number. The paper's optimiser is SGD
    with Nesterov momentum 0.9; it leaves open the learning rate, weight decay and schedule.
    """

    network: VGGConfig = VGGConfig()
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    refinement: RefinementConfig = RefinementConfig()

    @model_validator(mode="after")
    def _one_output_and_fitting_channels(self) -> "IterativeRefinementConfig":
        if self.network.outputs != 1:
            raise ValueError(f"the grade is one number: network.outputs must be 1, not {self.network.outputs}")
        refuse_other_lengths(self.network.in_channels, {"mean": self.mean, "std": self.std})
        return self


def grade_loss(predicted: Tensor, grade: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error between (B,) predicted and (B,) true grades, 1/B Σ w (f − y)².

    The weights' mean is 1 over all cases, not over the batch, and so they are not divided by their sum.
    """
    error = (predicted - grade.to(predicted.dtype)).square()
    return error.mean() if weight is None else (weight.to(predicted.dtype) * error).mean()


@system(
    "iterative-refinement",
    family="localization",
    paper="González-Gonzalo et al., Improving weakly-supervised lesion localization with iterative saliency map "
    "refinement, MIDL 2018",
)
class IterativeRefinement(System):
    """The grade regressor whose saliency the refinement loop refines."""

    localization: ClassVar[Localization] = "iterative-refinement"
    config: IterativeRefinementConfig

    def __init__(self, config: IterativeRefinementConfig):
        super().__init__(config)
        self.network = VGGRegressor(config.network)
        register_standardisation(self, config.network.in_channels, 2, config.mean, config.std)

    def to_input(self, image: Tensor) -> Tensor:
        """Stored intensities (B, C, H, W) → scaled to 0 … 1 and normalised, in the network's precision."""
        refuse_other_shapes(image, self.config.network.in_channels, axes=2)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return standardised(scaled(image, mean.dtype), mean, std)

    def forward(self, image: Tensor) -> Tensor:
        """`to_input`'s tensor → grades (B, 1)."""
        return self.network(image)  # type: ignore[no-any-return]

    def load_pretrained(self, state: Mapping[str, Tensor]) -> None:
        """Take a torchvision VGG-16's weights, fully connected layers included, but for the last."""
        load_torchvision_state(self.network, state)

    def explain(self, image: Tensor) -> Explanation:
        """Score and attribution of stored images by the configured saliency method."""
        return self.config.refinement.method(self, self.to_input(image), self.target)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Section 2.1's loss on `image` and `label`, with the cases' `weight` where there is one."""
        loss = self._loss(batch, batch.get("weight"))
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The same loss without weights, as `val/loss`."""
        self.log("val/loss", self._loss(batch), batch_size=len(batch["image"]), sync_dist=True, prog_bar=True)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Score and s_0 of a batch; S comes from `refine`."""
        score, attribution = self.explain(batch["image"])
        return {"score": score, "saliency": attribution_map(attribution, self.config.refinement.map_sign)}

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser, and a schedule over all steps of the training."""
        return configured(self, self.network, self.config.optimiser)

    def _loss(self, batch: Batch, weight: Tensor | None = None) -> Tensor:
        return grade_loss(self.target(self(self.to_input(batch["image"]))), batch["label"], weight)
