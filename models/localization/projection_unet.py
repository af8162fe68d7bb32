"""projection-unet, projection-fcn — what class response is compared with, on the same two projections of PET.

`projection-unet` is a U-Net (Ronneberger, Fischer and Brox, MICCAI 2015) that learns from the projections of masks that
people drew. `projection-fcn` is the paper's "CAMs & FCNs" as far as the paper tells: the same network learns from what
a trained `class-response` finds, of which it starts. With a probability p of each pixel of a view and its target m,

    L = CE_w(p, m) + Dice(p, m)                                                 (1)

    m = projection of the mask            (projection-unet)
    m = projection of class-response's tumour for the case's own type of cancer (projection-fcn)       (2)

CE_w counts a pixel of m w = 20 times. It is one of hundreds in a view, and without a weight the network first learns
that there is nothing, where Dice has hardly a gradient; some trainings stay there for most of their epochs.

In use, min(p_coronal, p_sagittal) is the response that is back-projected, as that of class-response is, but not
divided by its maximum: where no pixel is likely, nothing is found.

in   image     (B, 1, z, y, x) SUV
     mask      (B, 1, z, y, x) bool, to train projection-unet
     label     (B,) the type of cancer, to train projection-fcn
out  score     (B,) of projection-unet the largest min(p_coronal, p_sagittal), of projection-fcn its class-response's
     mask      (B, 1, z, y, x) bool, the tumour
     saliency  (B, z, y, x) float32: in the mask min(p_coronal, p_sagittal), outside 0
"""

from typing import Any, ClassVar, Self

import torch
from monai.losses import DiceLoss
from monai.networks.nets.basic_unet import BasicUNet
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from models.blocks.intensities import refuse_other_shapes
from models.config import Config
from models.localization.back_projection import BackProjection, tumour_masks
from models.localization.class_response import ClassResponse, scaled, scaled_views
from models.localization.response_settings import ClassResponseConfig, Pair, ResponseOptimiser
from models.optimisers import configured
from models.projection import Views, back_projected, projections, stacked, unstacked
from models.registry import system
from models.system import Batch, Prediction, System

CHANNELS = (64, 128, 256, 512, 1024, 64)  # of levels 1 to 5, and of level 1 on the way back
TUMOUR_WEIGHT = 20.0  # w
STEP = 2 ** (len(CHANNELS) - 2)  # by how much the deepest level is smaller


class ProjectionNetwork(Config):
    """`width` multiplies the channels of every level. `size` is that of cubes; any other grid will do."""

    size: PositiveInt | None = None
    in_channels: PositiveInt = Field(default=1, le=1)
    width: PositiveFloat = 1.0

    @property
    def features(self) -> list[int]:
        """The channels of every level."""
        return [max(1, round(channels * self.width)) for channels in CHANNELS]


class ProjectionUNetConfig(Config):
    """SUVs are clipped to `suv_range` and scaled to 0 … 1; `lesions` are mask classes, () all."""

    network: ProjectionNetwork = ProjectionNetwork()
    suv_range: Pair = (0.0, 30.0)
    lesions: tuple[str, ...] = ()
    back_projection: BackProjection = BackProjection()
    optimiser: ResponseOptimiser = ResponseOptimiser()

    @property
    def lesion_from(self) -> float:
        """The value from which on a map shows the tumour."""
        return self.back_projection.response_share


class ProjectionFCNConfig(ProjectionUNetConfig):
    """`teacher` is set by the model that the training starts from."""

    teacher: ClassResponseConfig = ClassResponseConfig()

    @property
    def decides_from(self) -> float:
        """The label from which on a score above 0 is right."""
        return self.teacher.abnormal_from


class Projected(System):
    """What both have in common: a U-Net that gives each pixel of both views the log-odds of tumour."""

    map_settings: ClassVar[str | None] = "back_projection"
    config: ProjectionUNetConfig

    def __init__(self, config: ProjectionUNetConfig):
        super().__init__(config)
        self.network = BasicUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            features=config.network.features,
            act=("relu", {"inplace": True}),
            norm="batch",
        )
        self.network.to(memory_format=torch.channels_last)  # nearly twice as fast on a CPU
        self.overlap = DiceLoss(sigmoid=True, batch=True, smooth_nr=1, smooth_dr=1)

    def to_input(self, image: Tensor) -> Tensor:
        """SUV (B, 1, z, y, x) → clipped and scaled to 0 … 1, in the network's precision.

        Raises:
            ModelError: another number of channels or axes.
        """
        refuse_other_shapes(image, self.config.network.in_channels, axes=3)
        return scaled(image.to(next(self.network.parameters()).dtype), self.config.suv_range)

    def logits(self, image: Tensor) -> Tensor:
        """Of each pixel of both views of SUV (B, 1, z, y, x): (2 B, 1, h, w)."""
        views = stacked(scaled_views(image, self.config.suv_range, next(self.network.parameters()).dtype), (STEP, STEP))
        return self.network(views.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def targets(self, batch: Batch) -> Tensor:
        """m of both views (2 B, 1, h, w)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it learns from")

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Tumour and response of a batch."""
        image = batch["image"]
        probability = self.logits(image).sigmoid()[:, 0]
        z, y, x = image.shape[2:]
        response = back_projected(unstacked(probability, (z, y, x))).float()
        mask = tumour_masks(image[:, 0], response, self.config.back_projection)
        return {"score": response.flatten(1).amax(dim=1), "saliency": response * mask, "mask": mask[:, None]}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """L."""
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """L as `val/loss`."""
        self.log("val/loss", self._loss(batch), batch_size=len(batch["image"]), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser, and a schedule over all steps of the training."""
        return configured(self, self.network, self.config.optimiser)

    def _loss(self, batch: Batch) -> Tensor:
        logits, targets = self.logits(batch["image"]), self.targets(batch)
        weight = logits.new_tensor(TUMOUR_WEIGHT)
        entropy = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)
        return entropy + self.overlap(logits, targets)  # type: ignore[no-any-return]


def seen(mask: Tensor, like: Tensor) -> Tensor:
    """Masks (B, z, y, x) bool as the network sees volumes, (2 B, 1, h, w) in the precision of `like`."""
    return stacked(Views(*(view.to(like.dtype) for view in projections(mask))), (STEP, STEP))


@system(
    "projection-unet",
    family="localization",
    paper="Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015",
)
class ProjectionUNet(Projected):
    """Taught by masks."""

    inputs: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    config: ProjectionUNetConfig

    def targets(self, batch: Batch) -> Tensor:
        """The projections of the masks."""
        return seen(batch["mask"][:, 0], like=batch["image"])


@system(
    "projection-fcn",
    family="localization",
    paper="Amyar et al., Weakly supervised PET tumor detection using class response, 2020, arXiv:2003.08337",
)
class ProjectionFCN(Projected):
    """Taught by a trained `class-response`, which stays as it is."""

    starts_from: ClassVar[str | None] = ClassResponse.name
    config: ProjectionFCNConfig

    def __init__(self, config: ProjectionFCNConfig):
        super().__init__(config)
        self.teacher = ClassResponse(config.teacher).requires_grad_(False)

    def start_from(self, other: System) -> None:
        """Take a trained `class-response`, whatever its settings.

        Raises:
            ModelError: another system.
        """
        if not isinstance(other, ClassResponse):
            super().start_from(other)
            return
        self.config = self.config.model_copy(update={"teacher": other.config})
        self.save_hyperparameters({"config": self.config.model_dump(mode="json")}, logger=False)
        self.teacher = other.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Training mode but for the teacher, whose statistics stay."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """`to_input`'s volumes → the teacher's log-odds of the second type (B, 1)."""
        low, high = self.config.suv_range
        return self.teacher(self.teacher.to_input(image * (high - low) + low))  # type: ignore[no-any-return]

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Tumour and response of a batch, and the teacher's score."""
        found = super().predict_step(batch, batch_idx)
        with torch.no_grad():
            return {**found, "score": self.target(self.teacher(self.teacher.to_input(batch["image"])))}

    def targets(self, batch: Batch) -> Tensor:
        """Equation (2)."""
        is_second = batch["label"] >= self.teacher.config.abnormal_from
        return seen(self.teacher.found(batch["image"], is_second)[1], like=batch["image"])
