"""Grad-CAM — which places of the last convolution carry the score?

Selvaraju et al. (2017), equations 1 and 2, with A^k the layer's channels and Z its number of places:

    α_k = 1/Z Σ_u ∂y / ∂A^k(u)                                                  (1)
    L(u) = relu(Σ_k α_k A^k(u))                                                 (2)

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, 1, *spatial) ≥ 0, in units of the score, raw; linearly interpolated to the input's grid
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError
from models.saliency.explanation import Explanation
from models.saliency.gradient import derivative, leaf, scored
from models.saliency.hooks import CONVOLUTIONS, NORMALISATIONS, evaluation, last_activation
from models.saliency.means import MeanOfMembers, mean_explanation
from models.saliency.targets import Target


def grad_cam(model: nn.Module, image: Tensor, target: Target, *, layer: nn.Module | None = None) -> Explanation:
    """Equation (2) at `layer`; by default the last convolution before the head, after its normalisation and ReLU.

    It is found as the last module of these kinds that runs on more than one pixel. A mean of models, each with a last
    convolution of its own, gets the mean of their maps.
    """
    if layer is None and isinstance(model, MeanOfMembers):
        return mean_explanation(grad_cam(member, image, target) for member in model.members)
    kinds = (*CONVOLUTIONS, *NORMALISATIONS, nn.ReLU)
    layers = [layer] if layer is not None else [module for module in model.modules() if isinstance(module, kinds)]
    with evaluation(model), last_activation(layers) as kept:
        score = scored(model, leaf(image), target)
        if not kept:
            raise ModelError(
                f"Grad-CAM needs a convolution with an output of more than one pixel; {type(model).__name__} ran none"
            )
        (activation,) = kept
        coarse = class_activation(activation.detach(), derivative(score, activation))
        return Explanation(score.detach(), on_grid(coarse, image.shape[2:]))


def class_activation(activation: Tensor, derivatives: Tensor) -> Tensor:
    """Equations (1) and (2): (B, K, *places) twice → (B, 1, *places)."""
    places = tuple(range(2, derivatives.dim()))
    weight = derivatives.mean(dim=places, keepdim=True)
    return torch.relu((weight * activation).sum(dim=1, keepdim=True))


def on_grid(coarse: Tensor, spatial: torch.Size) -> Tensor:
    """Linear interpolation of (B, 1, *places) to (B, 1, *spatial), in as many dimensions as there are."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(spatial)]
    return F.interpolate(coarse, size=tuple(spatial), mode=mode, align_corners=False)
