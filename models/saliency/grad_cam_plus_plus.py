"""Grad-CAM++ — Grad-CAM whose channel weights count each place by how much it matters there.

Chattopadhay, Sarkar, Howlader and Balasubramanian (2018), equations 11, 12 and 19, with g = ∂y/∂A^k(u) and the score
exp(y), whose higher derivatives are powers of g:

    α_k(u) = g² / (2 g² + g³ Σ_v A^k(v)),   0 where g is                        (19)
    w_k = Σ_u α_k(u) relu(g)                                                    (11)
    L(u) = relu(Σ_k w_k A^k(u))                                                 (12)

The factor exp(y), common to all w_k of a case, is left out: it scales a map without moving it, and would make maps
of two cases differ by orders of magnitude.

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, 1, *spatial) ≥ 0, in units of the score, raw; linearly interpolated to the input's grid
"""

import torch
from torch import Tensor, nn

from models.saliency.explanation import Explanation
from models.saliency.layers import Layer, explained_at_layer
from models.saliency.targets import Target


def grad_cam_plus_plus(model: nn.Module, image: Tensor, target: Target, *, layer: Layer = None) -> Explanation:
    """Equation (12) at `layer`; by default the last convolution before the head, as Grad-CAM."""
    return explained_at_layer(model, image, target, layer, place_weighted_activation)


def place_weighted_activation(activation: Tensor, derivatives: Tensor) -> Tensor:
    """Equations (19), (11) and (12): (B, K, *places) twice → (B, 1, *places).

    (19) is reduced by g²; a denominator of zero gives a weight of zero, too.
    """
    places = tuple(range(2, derivatives.dim()))
    denominator = 2 + derivatives * activation.sum(dim=places, keepdim=True)
    share = torch.where(denominator == 0, 0, 1 / denominator)
    weight = (share * torch.relu(derivatives)).sum(dim=places, keepdim=True)
    return torch.relu((weight * activation).sum(dim=1, keepdim=True))
