"""Grad-CAM — which places of the last convolution carry the score?

Selvaraju et al. (2017), equations 1 and 2, with A^k the layer's channels and Z its number of places:

    α_k = 1/Z Σ_u ∂y / ∂A^k(u)                                                  (1)
    L(u) = relu(Σ_k α_k A^k(u))                                                 (2)

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, 1, *spatial) ≥ 0, in units of the score, raw; linearly interpolated to the input's grid
"""

import torch
from torch import Tensor, nn

from models.saliency.explanation import Explanation
from models.saliency.layers import Layer, explained_at_layer
from models.saliency.targets import Target


def grad_cam(model: nn.Module, image: Tensor, target: Target, *, layer: Layer = None) -> Explanation:
    """Equation (2) at `layer`; by default the last convolution before the head, after its normalisation and ReLU.

    It is found as the last module of these kinds that runs on more than one pixel. A mean of models, each with a last
    convolution of its own, gets the mean of their maps.
    """
    return explained_at_layer(model, image, target, layer, class_activation)


def class_activation(activation: Tensor, derivatives: Tensor) -> Tensor:
    """Equations (1) and (2): (B, K, *places) twice → (B, 1, *places)."""
    places = tuple(range(2, derivatives.dim()))
    weight = derivatives.mean(dim=places, keepdim=True)
    return torch.relu((weight * activation).sum(dim=1, keepdim=True))
