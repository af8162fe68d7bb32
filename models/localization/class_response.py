"""class-response — Weakly supervised PET tumor detection using class response.

Amyar, Modzelewski, Vera, Morard and Ruan (arXiv 2003.08337). A small network tells the type of cancer c from the
coronal and the sagittal maximum-intensity projection x of a PET volume. Its class response is its map:

    R_c(x) = W_cᵀ f(x)          M_c(x) = R_c(x) / max_u R_c(x)_u                (1)

    loss = loss1 + λ loss2      loss1 = −log softmax(mean_u R(x)_u + b)_c       (2)

f are the last features, W the classification layer behind their mean over places u. loss2 is the distance of the map
from one point p at the tumour's centre; its form the paper does not give. With weights q over places that follow R_c:

    mean_distance  Σ_u q_u |u − p|        soft_argmax  |Σ_u q_u u − p|          (3)
    softmax        q = softmax(R_c)       sharpened    q = softmax(10 · max(R_c, 0) / max R_c)

The defaults are what worked best where all were tried. Weights of the positive part give a map that is nowhere positive
no gradient, so that such a network stays as it is; weights of R_c itself do. λ = 0 is class activation mapping (Zhou et
al., CVPR 2016). Both views are one mini-batch of one network; places are told in units of a view's longer side.

In use, c is the class that both views tell together. Their maps go back into the volume as `back_projection` says.

in   image     (B, 1, z, y, x) SUV
     label     (B,) a number: one type of cancer below `abnormal_from`, the other from it on
     mask      (B, 1, z, y, x) bool, in training: its centre of gravity is p. Where the batch has `points` (B, P, 3), in
               voxels along (z, y, x), p is their mean. A case without a lesion has no p and no loss2
     spacing   (B, 3) mm, in training: refused where it is not the network's
out  score     (B,) the log-odds of the second type, the mean of both views
     mask      (B, 1, z, y, x) bool, the tumour
     saliency  (B, z, y, x) float32: in the mask the smaller of both views' M_c, outside 0
"""

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.intensities import refuse_other_shapes
from models.errors import ModelError
from models.localization.back_projection import tumour_masks
from models.localization.response_settings import (
    ClassResponseConfig,
    DistanceForm,
    Pair,
    ResponseNetwork,
    Weights,
)
from models.optimisers import configured
from models.projection import Grid, Views, back_projected, mirrored, moved, projections, stacked, unstacked
from models.registry import system
from models.system import Batch, Prediction, System

TYPES = 2  # of cancer
SHARPNESS = 10.0
SAME_SPACING = 0.01  # relative


def response_network(config: ResponseNetwork) -> nn.Sequential:
    """f: views (N, 1, h, w) → features (N, channels[-1], h / stride, w / stride)."""
    layers = []
    for (before, after), stride in zip(pairwise((1, *config.channels)), config.layer_strides, strict=True):
        convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        layers.append(nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU()))
    return nn.Sequential(*layers)


def scaled(suv: Tensor, suv_range: Pair) -> Tensor:
    """SUVs clipped to `suv_range` and brought to 0 … 1; of a maximum what it is of the maximum's voxels."""
    low, high = suv_range
    return (suv.clamp(low, high) - low) / (high - low)


def scaled_views(image: Tensor, suv_range: Pair, precision: torch.dtype) -> Views:
    """SUV (B, 1, z, y, x) → the views (B, z, ·) of its scaled volumes, which are never made: they are much larger.

    Raises:
        ModelError: another number of channels or axes.
    """
    refuse_other_shapes(image, 1, axes=3)
    return Views(*(scaled(view.to(precision), suv_range) for view in projections(image[:, 0])))


def normalised(response: Tensor) -> Tensor:
    """M_c of equation (1), of R_c (N, h, w), where it is positive; 0 elsewhere, and where no place is."""
    positive = response.clamp(min=0)
    highest = positive.amax(dim=(-2, -1), keepdim=True)
    return positive / torch.where(highest > 0, highest, 1)


def place_weights(response: Tensor, how: Weights) -> Tensor:
    """q of equation (3), of R_c (N, h, w): the same shape, each map's sum 1."""
    followed = response if how == "softmax" else SHARPNESS * normalised(response)
    return followed.flatten(1).softmax(dim=1).view_as(response)


def places(shape: tuple[int, int], cell: Pair) -> Tensor:
    """The centres u of a map's cells (h, w, 2), in units of its longer side; `cell` in any unit."""
    axes = [(torch.arange(count) + 0.5) * side for count, side in zip(shape, cell, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) / longer_side(shape, cell)


def longer_side(shape: tuple[int, int], cell: Pair) -> float:
    """Of `shape` cells, in the unit of `cell`."""
    return max(count * side for count, side in zip(shape, cell, strict=True))


def soft_argmax(weights: Tensor, where: Tensor) -> Tensor:
    """Σ_u q_u u of weights (N, h, w) at places (h, w, 2): (N, 2)."""
    return torch.einsum("nhw,hwa->na", weights, where)


def distances(weights: Tensor, where: Tensor, point: Tensor, form: DistanceForm) -> Tensor:
    """Equation (3) of weights (N, h, w) at places (h, w, 2) from points p (N, 2): (N,)."""
    if form == "soft_argmax":
        return length(soft_argmax(weights, where) - point)
    apart = length(where - point[:, None, None])
    return (weights * apart).sum(dim=(-2, -1))


def length(vectors: Tensor) -> Tensor:
    """Of vectors (…, 2): (…)."""
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1)  # has a gradient at 0, which a root has not
    return norm


def centre_points(batch: Batch) -> Tensor:
    """p of each case in voxels (B, 3): the mean of its `points`, or its mask's centre of gravity; NaN without any."""
    if "points" in batch:
        return batch["points"].float().nanmean(dim=1)
    marked = batch["mask"][:, 0].nonzero()  # a tumour is a thousandth of a body
    sums = torch.zeros(len(batch["mask"]), 4, dtype=torch.float64, device=marked.device)
    sums.index_add_(0, marked[:, 0], F.pad(marked[:, 1:].double(), (0, 1), value=1.0))
    return (sums[:, :3] / sums[:, 3:]).float()


@system(
    "class-response",
    family="localization",
    paper="Amyar et al., Weakly supervised PET tumor detection using class response, 2020, arXiv:2003.08337",
)
class ClassResponse(System):
    """The type of cancer from two projections, and where in the volume it shows."""

    monitor: ClassVar[str | None] = None  # the loss on others rises with each sure mistake while maps still get better
    inputs: ClassVar[frozenset[str]] = frozenset({"image", "label", "mask"})
    map_settings: ClassVar[str | None] = "back_projection"
    config: ClassResponseConfig

    def __init__(self, config: ClassResponseConfig):
        super().__init__(config)
        self.features = response_network(config.network)
        self.classifier = nn.Linear(config.network.channels[-1], TYPES)
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU

    def to_input(self, image: Tensor) -> Tensor:
        """SUV (B, 1, z, y, x) → clipped and scaled to 0 … 1, in the network's precision.

        Raises:
            ModelError: another number of channels or axes.
        """
        refuse_other_shapes(image, self.config.network.in_channels, axes=3)
        return scaled(image.to(self.classifier.weight.dtype), self.config.suv_range)

    def views(self, image: Tensor) -> Views:
        """The views (B, z, ·) of `to_input`'s volumes, of SUV (B, 1, z, y, x)."""
        return scaled_views(image, self.config.suv_range, self.classifier.weight.dtype)

    def forward(self, image: Tensor) -> Tensor:
        """`to_input`'s volumes → the log-odds of the second type (B, 1)."""
        return self.evidence(self.responses(image))

    def responses(self, image: Tensor) -> Tensor:
        """R of both types and views of `to_input`'s volumes: (2 B, 2, h, w), the coronal ones first."""
        return self.responses_of(projections(image[:, 0]))

    def responses_of(self, views: Views) -> Tensor:
        """The same of the views (B, z, ·) themselves."""
        features = self.features(stacked(views, self.config.network.stride))
        return torch.einsum("ck,nkhw->nchw", self.classifier.weight, features)

    def logits(self, responses: Tensor) -> Tensor:
        """Of each view, (2 B, 2)."""
        return responses.mean(dim=(-2, -1)) + self.classifier.bias

    def evidence(self, responses: Tensor) -> Tensor:
        """The log-odds of the second type, the mean of both views: (B, 1)."""
        first, second = self.logits(responses).unflatten(0, (2, -1)).mean(dim=0).split(1, dim=1)
        return second - first  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Score, tumour and response of a batch."""
        responses = self.responses_of(self.views(batch["image"]))
        score = self.target(self.evidence(responses))
        response, mask = self.cut_out(batch["image"], responses, score > 0)
        return {"score": score, "saliency": response * mask, "mask": mask[:, None]}

    @torch.no_grad()
    def found(self, image: Tensor, is_second: Tensor) -> tuple[Tensor, Tensor]:
        """The back-projected response of the types that `is_second` (B,) names, and the tumour: (B, z, y, x) each."""
        return self.cut_out(image, self.responses_of(self.views(image)), is_second)

    def cut_out(self, image: Tensor, responses: Tensor, is_second: Tensor) -> tuple[Tensor, Tensor]:
        """`found`, of the responses (2 B, 2, h, w) to the image.

        Where the whole volume is searched, the response is 1 everywhere.
        """
        z, y, x = image.shape[2:]
        views = self.class_maps(responses, is_second, (z, y, x))
        response = back_projected(views).float()
        if self.config.back_projection.search == "volume":
            response = torch.ones_like(response)
        return response, tumour_masks(image[:, 0], response, self.config.back_projection)

    def class_maps(self, responses: Tensor, is_second: Tensor, grid: Grid) -> Views:
        """M_c of the types that `is_second` (B,) bool names, on the pixels of the views of volumes of `grid`."""
        shape = [count * step for count, step in zip(responses.shape[-2:], self.config.network.stride, strict=True)]
        chosen = of_type(responses, is_second)
        fine = F.interpolate(chosen[:, None], size=shape, mode="bilinear", align_corners=False)[:, 0]
        return Views(*map(normalised, unstacked(fine, grid)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Equation (2), loss1 with the cases' `weight` where there is one."""
        loss1, loss2, _ = self.losses(batch)
        loss = loss1 + self.config.distance_weight * loss2
        for name, value in (("loss", loss), ("cross_entropy", loss1), ("distance", loss2)):
            self.log(f"train/{name}", value, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss as `val/loss`, its parts, and the share of cases told right as `val/accuracy`."""
        loss1, loss2, responses = self.losses(batch)
        right = (self.evidence(responses)[:, 0] > 0) == self._is_second(batch)
        told = {"loss": loss1 + self.config.distance_weight * loss2, "cross_entropy": loss1, "distance": loss2}
        shown: dict[str, Any] = {"batch_size": len(right), "sync_dist": True, "prog_bar": True}
        for name, value in {**told, "accuracy": right.float().mean()}.items():
            self.log(f"val/{name}", value, **shown)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """loss1 and loss2 of equation (2), means over cases and views, and the responses they are of.

        Raises:
            ModelError: the voxels are of another size than the network is set to.
        """
        self._refuse_other_spacings(batch)
        views, centres = self.views(batch["image"]), centre_points(batch)
        if self.training:
            views, centres = self.varied(views, centres)
        responses, is_second = self.responses_of(views), self._is_second(batch)
        each = F.cross_entropy(self.logits(responses), is_second.repeat(2).long(), reduction="none")
        loss1 = (each * batch["weight"].to(each.dtype).repeat(2) if "weight" in batch else each).mean()
        return loss1, self.distance_loss(of_type(responses, is_second), centres), responses

    def varied(self, views: Views, centres: Tensor) -> tuple[Views, Tensor]:
        """Another look at the views (B, z, ·) and p (B, 3) of a batch: mirrored, then moved, by chance."""
        if self.config.mirrored:
            which = torch.rand(len(centres), device=centres.device) < 0.5
            across = centres[:, 2]
            turned = torch.where(which, views.coronal.shape[-1] - 1 - across, across)
            views, centres = mirrored(views, which), torch.stack([*centres[:, :2].T, turned], dim=1)
        along, across_most = self.config.shift_pixels
        if along or across_most:
            most = torch.tensor([along, across_most, across_most], device=centres.device)
            by = (torch.rand(len(centres), 3, device=centres.device) * (2 * most + 1)).long() - most
            views, centres = moved(views, by), centres + by
        return views, centres

    def distance_loss(self, response: Tensor, centres: Tensor) -> Tensor:
        """loss2 of R_c of both views (2 B, h, w) and p in voxels (B, 3), over the cases that have one."""
        network, shape = self.config.network, (response.shape[-2], response.shape[-1])
        (z, across), (step_z, step_across) = network.pixel_mm, network.stride
        cell = step_z * z, step_across * across
        seen = torch.cat([centres[:, [0, 2]], centres[:, [0, 1]]])  # the coronal view shows (z, x), the sagittal (z, y)
        points = (seen + 0.5) * seen.new_tensor((z, across)) / longer_side(shape, cell)
        known = points.isfinite().all(dim=1)
        weights = place_weights(response, self.config.weights)
        apart = distances(weights[known], places(shape, cell).to(weights), points[known], self.config.distance)
        return apart.sum() / known.sum().clamp(min=1)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser, and a schedule over all steps of the training."""
        return configured(self, self, self.config.optimiser)

    def _is_second(self, batch: Batch) -> Tensor:
        return batch["label"] >= self.config.abnormal_from

    def _refuse_other_spacings(self, batch: Batch) -> None:
        if "spacing" not in batch:
            return
        wanted = batch["spacing"].new_tensor(self.config.network.spacing_mm)
        other = ((batch["spacing"] / wanted - 1).abs() > SAME_SPACING).any(dim=1)
        if other.any():
            found = [round(side, 3) for side in batch["spacing"][other][0].tolist()]
            raise ModelError(
                f"voxels of {found} mm along (z, y, x), but the network is set to {wanted.tolist()}: "
                f"say --set network.spacing_mm={found}"
            )


def of_type(responses: Tensor, is_second: Tensor) -> Tensor:
    """R_c (2 B, h, w) of each case's type c, of the responses of both (2 B, 2, h, w)."""
    chosen = is_second.repeat(2).long()
    return responses[torch.arange(len(chosen), device=chosen.device), chosen]
