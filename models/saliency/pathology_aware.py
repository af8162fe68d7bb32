"""pathology-aware — which features speak for the score as a compact spot, and which as a spread region?

Wang, Xu, Li, Wang and Guan (2019), section 4.1, with A^k the K channels of a layer and u its places:

    active     Σ_u |A^k(u)| > θ_act · max_n Σ_u |A^n(u)|                        (1)
    J_k        = Σ_u |u − c_k|² |A^k(u)|,   c_k = Σ_u u |A^k(u)| / Σ_u |A^k(u)|  (2)
    w_k        = 1/Z Σ_u ∂y / ∂A^k(u),      Z the number of places              (3)
    V_low(u)   = relu(Σ_{active k, J_k below θ_low} w_k A^k(u))                 (4)
    V_high(u)  = relu(Σ_{active k, J_k above θ_high} w_k A^k(u))

J, the centroid-centric moment of inertia, is small for a compact feature (in the paper, of the optic disc's rim) and
large for a spread one (of the nerve-fibre layer). Places count 0, 1, … along each of two or three axes. All is per
case. The absolute values in (2) and the clipping in (4) are not the paper's, whose features have one sign; without
them a feature of both signs has no centroid, and a map's share in a lesion is no share. Left open by the paper:

thresholds  what J is measured by. `relative`: J_k over the largest J of the layer's active features. `quantile`:
            its rank, the share of the other active features with a smaller J, from 0 to 1 (0 for a sole feature), so
            that the feature with the smallest J is always low, and one with a larger J than all others always high.
weights     `pooled` is (3). `elementwise` deviates from the paper: the features are relu(∂y/∂A^k) · A^k with all w_k 1,
            formed before the selection, so that (1) and (2) judge what each feature has to say for the score. Pooled
            weights of a middle layer mix what speaks for and against the score; on simulated fundus images its maps
            often clip to nothing.
layers      maps of several layers are put on the input's grid and summed, each in the density of the layer with the
            most places: times its own places over theirs. What a feature contributes to the score is a sum over
            places, so a coarse layer, which has fewer, would otherwise weigh more for its coarseness alone.

A map is no sign that the pathology is there: where a group has any positive evidence at all it lights something.

in   image      (B, C, *spatial) float, as the model takes it
out  low, high  (B, 1, *spatial) ≥ 0, in units of the score, raw; linearly interpolated to the input's grid
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from models.errors import ModelError
from models.saliency.explanation import Explanation
from models.saliency.gradient import derivatives, leaf
from models.saliency.hooks import evaluation
from models.saliency.layers import on_grid, scored_with_activations
from models.saliency.means import MeanOfMembers
from models.saliency.targets import Target

Group = Literal["low", "high"]
Weights = Literal["elementwise", "pooled"]
Thresholds = Literal["quantile", "relative"]
Active = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class PathologyMaps(NamedTuple):
    """`score` (B,), the maps `low` and `high` (B, 1, *spatial), and whether each is 0 everywhere (B,).

    A map is empty where its group is, or, unless maps are signed, where its features speak against the score.
    """

    score: Tensor
    low: Tensor
    high: Tensor
    low_empty: Tensor
    high_empty: Tensor


class Selection(NamedTuple):
    """How features are weighted and grouped; `active`, `low` and `high` are θ_act, θ_low and θ_high.

    `signed` maps keep what speaks against the score, as (4) is printed; `elementwise` features do then, too.
    """

    weights: Weights
    thresholds: Thresholds
    active: float
    low: float
    high: float
    signed: bool = False


def pathology_aware(
    model: nn.Module,
    image: Tensor,
    target: Target,
    *,
    group: Group = "low",
    layers: tuple[str, ...] = (),
    weights: Weights = "elementwise",
    thresholds: Thresholds = "quantile",
    active: Active = 0.1,
    low: Share = 0.1,
    high: Share = 0.9,
) -> Explanation:
    """The map of one group of features, compact ones (`low`) or spread ones (`high`); the rest as `pathology_maps`."""
    maps = grouped_maps(model, image, target, layers, Selection(weights, thresholds, active, low, high))
    return Explanation(maps.score, maps.low if group == "low" else maps.high)


def pathology_maps(
    model: nn.Module,
    image: Tensor,
    target: Target,
    *,
    layers: Sequence[str] = (),
    weights: Weights = "elementwise",
    thresholds: Thresholds = "quantile",
    active: float = 0.1,
    low: float = 0.1,
    high: float = 0.9,
    signed: bool = False,
    differentiable: bool = False,
) -> PathologyMaps:
    """Equation (4) for both groups; `layers` are dotted names, without any it is the last convolution, as in Grad-CAM.

    `signed` maps are not clipped, and negative where features speak against the score.

    With `differentiable` the score and the maps keep their graph to `image`, through ∂y/∂A, too; which feature is in
    which group is held fixed. A mean of models gets the mean of their maps.

    Raises:
        ModelError: θ_low is not below θ_high, or a layer is not there, did not run, or has one place only.
    """
    chosen = Selection(weights, thresholds, active, low, high, signed)
    return grouped_maps(model, image, target, layers, chosen, differentiable=differentiable)


def grouped_maps(
    model: nn.Module,
    image: Tensor,
    target: Target,
    layers: Sequence[str],
    chosen: Selection,
    *,
    differentiable: bool = False,
) -> PathologyMaps:
    """`pathology_maps` with its choices in one."""
    if chosen.low >= chosen.high:
        raise ModelError(f"pathology_aware needs low below high, not low={chosen.low:g} and high={chosen.high:g}")
    if isinstance(model, MeanOfMembers):
        each = [
            grouped_maps(member, image, target, layers, chosen, differentiable=differentiable)
            for member in model.members
        ]
        return mean_maps(each)
    with evaluation(model):
        pixels = image if differentiable and image.requires_grad else leaf(image).detach()
        score, activations = scored_with_activations(model, pixels, target, layers, differentiable=differentiable)
        slopes = derivatives(score, activations, differentiable=differentiable)
        if not differentiable:
            score, activations = score.detach(), [activation.detach() for activation in activations]
        by_layer = [combined(*pair, chosen) for pair in zip(activations, slopes, strict=True)]
        low, high = (summed(maps, image.shape[2:]) for maps in zip(*by_layer, strict=True))
        return flagged(score, low, high)


def mean_maps(members: Sequence[PathologyMaps]) -> PathologyMaps:
    """The mean score and maps; a map is empty where all of the members' are."""
    score, low, high = (torch.stack(parts).mean(dim=0) for parts in list(zip(*members, strict=True))[:3])
    return flagged(score, low, high)


def flagged(score: Tensor, low: Tensor, high: Tensor) -> PathologyMaps:
    """The maps, and which of them are empty."""
    low_empty, high_empty = (~(one.detach() != 0).flatten(1).any(dim=1) for one in (low, high))
    return PathologyMaps(score, low, high, low_empty, high_empty)


def combined(activation: Tensor, slopes: Tensor, chosen: Selection) -> tuple[Tensor, Tensor]:
    """Equations (1)–(4): A and ∂y/∂A, (B, K, *places) each → V_low and V_high (B, 1, *places)."""
    if chosen.weights == "pooled":
        weighted, judged = slopes.mean(dim=_places(slopes), keepdim=True) * activation, activation
    else:
        judged = torch.relu(slopes) * activation
        weighted = slopes * activation if chosen.signed else judged
    low, high = (
        (weighted * group.reshape(*group.shape, *[1] * len(_places(weighted)))).sum(dim=1, keepdim=True)
        for group in groups(judged.detach(), chosen)
    )
    return (low, high) if chosen.signed else (torch.relu(low), torch.relu(high))


def groups(features: Tensor, chosen: Selection) -> tuple[Tensor, Tensor]:
    """Which features (B, K, *places) are compact and which are spread: (B, K) bool twice."""
    active = active_features(features, chosen.active)
    inertia = moment_of_inertia(features)
    measure = relative_inertia if chosen.thresholds == "relative" else inertia_rank
    measured = measure(inertia, active)
    return active & (measured < chosen.low), active & (measured > chosen.high)


def active_features(features: Tensor, threshold: float) -> Tensor:
    """Equation (1): (B, K, *places) → (B, K) bool; none where all features are 0."""
    norm = features.abs().flatten(2).sum(dim=2)
    return norm > threshold * norm.amax(dim=1, keepdim=True)


def moment_of_inertia(features: Tensor) -> Tensor:
    """J of equation (2): (B, K, *places) → (B, K), in units of the feature times places²; 0 for a feature of zeros."""
    mass = features.abs()
    profiles = [mass.movedim(axis, 2)[..., None].flatten(3).sum(dim=3) for axis in _places(mass)]
    return torch.stack([_axis_inertia(profile) for profile in profiles]).sum(dim=0)


def _axis_inertia(profile: Tensor) -> Tensor:
    """Σ_i (i − i_c)² m_i along one axis: (B, K, I) → (B, K).

    Shares of the mass before their centroid: 0 to the last bit for a single place, so that such features tie.
    """
    total = profile.sum(dim=2, keepdim=True)
    share = profile / torch.where(total > 0, total, 1)
    place = torch.arange(profile.shape[2], dtype=profile.dtype, device=profile.device)
    centroid = (place * share).sum(dim=2, keepdim=True)
    return (total * (place - centroid).square() * share).sum(dim=2)


def relative_inertia(inertia: Tensor, active: Tensor) -> Tensor:
    """J over the largest of the active features (B, K); 0 where that is 0."""
    largest = torch.where(active, inertia, 0).amax(dim=1, keepdim=True)
    return inertia / torch.where(largest > 0, largest, 1)


def inertia_rank(inertia: Tensor, active: Tensor) -> Tensor:
    """The share (B, K) of the other active features with a smaller J; equals have one rank."""
    ascending = torch.where(active, inertia, torch.inf).sort(dim=1).values
    smaller = torch.searchsorted(ascending, inertia.contiguous())
    return smaller / (active.sum(dim=1, keepdim=True) - 1).clamp_min(1)


def summed(of_layers: Sequence[Tensor], spatial: torch.Size) -> Tensor:
    """Maps (B, 1, *places) of several layers on one grid, each in the density of the layer with the most places."""
    finest = max(one[0, 0].numel() for one in of_layers)
    return torch.stack([on_grid(one, spatial) * (one[0, 0].numel() / finest) for one in of_layers]).sum(dim=0)


def _places(features: Tensor) -> tuple[int, ...]:
    """The axes of (B, K, *places) that are places."""
    return tuple(range(2, features.dim()))
