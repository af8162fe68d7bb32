"""vessel-unet — U-Net: convolutional networks for biomedical image segmentation, for the vessels of the retina.

Ronneberger, Fischer and Brox (MICCAI 2015). A network U of five levels with skip connections gives each pixel u of a
photograph x of the eye's fundus the log-odds U(x)_u that it shows a vessel:

    p = sigmoid(U(x))                                                           (1)
    L = CE + Dice,  over the pixels V of the field of view                      (2)
    CE = −1/|V| Σ_V  m log p + (1 − m) log(1 − p)      Dice = 1 − (2 Σ_V m p + 1) / (Σ_V m + Σ_V p + 1)

The paper's loss is a weighted cross-entropy; the Dice loss (Milletari, Navab and Ahmadi 2016) beside the plain one does
without weights where vessels are a tenth of the pixels. Convolutions are padded, so that p has the photograph's shape,
and followed by batch normalisation. U learns from patches and answers whole photographs of any size at once: they are
padded up to the next multiple of 16 pixels.

in   image     (B, C, H, W) uint8 or uint16, or float32 in 0 … 255, as augmentation leaves it
     mask      (B, 1, H, W) bool, the vessels m
out  saliency  (B, H, W) float32: p, and 0 outside of the field of view
     mask      (B, 1, H, W) bool: p ≥ `threshold`
     score     (B,) how much of the field of view is vessel: the mean of p over V
"""

from typing import Any, ClassVar

import torch
from monai.losses import DiceLoss
from monai.networks.nets.basic_unet import BasicUNet
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from models.blocks.field_of_view import DARK, in_view
from models.blocks.intensities import refuse_other_shapes, scaled
from models.config import Config
from models.optimisers import OptimiserConfig, configured
from models.registry import system
from models.system import Batch, Prediction, System

CHANNELS = (64, 128, 256, 512, 1024, 64)  # of levels 1 to 5, and of level 1 on the way back
STEP = 2 ** (len(CHANNELS) - 2)  # by how much the deepest level is smaller


class VesselNetwork(Config):
    """`width` multiplies the channels of every level. `size` is that of the cohort's images; any other will do."""

    size: PositiveInt = 512
    in_channels: PositiveInt = 3
    width: PositiveFloat = 1.0

    @property
    def features(self) -> list[int]:
        """The channels of every level."""
        return [max(1, round(channels * self.width)) for channels in CHANNELS]


class VesselOptimiser(OptimiserConfig):
    """SGD with the paper's high momentum, 0.99; it leaves the learning rate open."""

    learning_rate: PositiveFloat = 0.01
    momentum: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)


class VesselUNetConfig(Config):
    """`lesions` are the mask classes that are vessels: of two observers, the one to learn from.

    A pixel is dark, and outside of the field of view, where all channels are below `dark` of white.
    """

    network: VesselNetwork = VesselNetwork()
    lesions: tuple[str, ...] = Field(default=("vessels",), min_length=1)
    dark: float = Field(default=DARK, ge=0, lt=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    optimiser: VesselOptimiser = VesselOptimiser()


def vessel_loss(logits: Tensor, vessels: Tensor, view: Tensor) -> Tensor:
    """Equation (2), of logits, vessels and view (B, 1, H, W); over all pixels of the batch at once."""
    vessels, inside = vessels.to(logits.dtype), view.to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, vessels, reduction="none")
    cross_entropy = (each * inside).sum() / inside.sum().clamp(min=1)
    dice: Tensor = DiceLoss(batch=True, smooth_nr=1, smooth_dr=1)(logits.sigmoid() * inside, vessels * inside)
    return cross_entropy + dice


def overlap(found: Tensor, vessels: Tensor, view: Tensor) -> Tensor:
    """Dice of two masks (B, 1, H, W) within the view, over all pixels of the batch; 1 where neither has any."""
    both, either = (found & vessels & view).sum(), (found & view).sum() + (vessels & view).sum()
    return torch.where(either > 0, 2 * both / either.clamp(min=1), torch.ones_like(both, dtype=torch.float32))


def padded(image: Tensor) -> Tensor:
    """(B, C, H, W) with its last row and column repeated until each side can be halved down to the deepest level."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % STEP, 0, -height % STEP), mode="replicate")


@system(
    "vessel-unet",
    family="segmentation",
    paper="Ronneberger et al., U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015",
)
class VesselUNet(System):
    """The probability of a vessel, pixel by pixel."""

    inputs: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    config: VesselUNetConfig

    def __init__(self, config: VesselUNetConfig):
        super().__init__(config)
        self.network = BasicUNet(
            spatial_dims=2,
            in_channels=config.network.in_channels,
            out_channels=1,
            features=config.network.features,
            act=("relu", {"inplace": True}),
            norm="batch",
        )

    def to_input(self, image: Tensor) -> Tensor:
        """Stored intensities (B, C, H, W) → −1 … 1, in the network's precision.

        Raises:
            ModelError: another number of channels or axes.
        """
        refuse_other_shapes(image, self.config.network.in_channels, axes=2)
        return 2 * scaled(image, next(self.network.parameters()).dtype) - 1

    def forward(self, image: Tensor) -> Tensor:
        """`to_input`'s tensor → U(x), logits (B, 1, H, W)."""
        height, width = image.shape[-2:]
        return self.network(padded(image))[..., :height, :width]  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Equation (1) of a batch, one photograph after the other: each may be large."""
        image = batch["image"]
        inputs, view = self.to_input(image), in_view(image, self.config.dark)
        probability = torch.cat([self(one).sigmoid().float() for one in inputs.split(1)]) * view
        return {
            "score": probability.flatten(1).sum(dim=1) / view.flatten(1).sum(dim=1).clamp(min=1),
            "saliency": probability[:, 0],
            "mask": probability >= self.config.threshold,
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """L on `image` and `mask`."""
        loss = self._loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """L as `val/loss`, and the Dice of the vessels found as `val/dice`."""
        logits, vessels, view = self._logits(batch), batch["mask"].bool(), in_view(batch["image"], self.config.dark)
        shown: dict[str, Any] = {"batch_size": len(vessels), "sync_dist": True, "prog_bar": True}
        self.log("val/loss", vessel_loss(logits, vessels, view), **shown)
        self.log("val/dice", overlap(logits.sigmoid() >= self.config.threshold, vessels, view), **shown)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser, and a schedule over all steps of the training."""
        return configured(self, self.network, self.config.optimiser)

    def _loss(self, batch: Batch) -> Tensor:
        return vessel_loss(self._logits(batch), batch["mask"], in_view(batch["image"], self.config.dark))

    def _logits(self, batch: Batch) -> Tensor:
        return self(self.to_input(batch["image"]))  # type: ignore[no-any-return]
