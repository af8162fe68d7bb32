"""CAM — the last convolution's channels, weighted as the one linear layer after the global average weights them.

Zhou, Khosla, Lapedriza, Oliva and Torralba (2016), section 2, equations 1 and 2, with w_k the linear layer's weights,
A^k the channels that the average pools over and Z their number of places:

    y = Σ_k w_k 1/Z Σ_u A^k(u) + bias                                           (1)
    L(u) = Σ_k w_k A^k(u) = Z Σ_k ∂y/∂A^k(u) · A^k(u)                           (2)

The second form of (2) needs no name of a layer and holds for every target that is linear in the network's outputs.
Its derivative is the same at all places, or the network is not one that CAM explains. With more layers between the
average and the output, w_k are the derivatives at this image.

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, 1, *spatial) of either sign, in units of the score, whose mean over the places of the convolution
                  is y − bias; linearly interpolated to the input's grid
"""

from torch import Tensor, nn

from models.errors import ModelError
from models.saliency.explanation import Explanation
from models.saliency.layers import CONVOLUTIONAL, Layer, explained_at_layer
from models.saliency.targets import Target

POOLED = (*CONVOLUTIONAL, nn.MaxPool2d, nn.MaxPool3d)
TOLERANCE = 1e-3  # of the largest derivative, for rounding


def cam(model: nn.Module, image: Tensor, target: Target, *, layer: Layer = None) -> Explanation:
    """Equation (2) at `layer`, by default the one that feeds the global average; ModelError where there is none."""
    return explained_at_layer(model, image, target, layer, weighted_channels, POOLED)


def weighted_channels(activation: Tensor, derivatives: Tensor) -> Tensor:
    """Equation (2): (B, K, *places) twice → (B, 1, *places)."""
    places = tuple(range(2, derivatives.dim()))
    weight = derivatives.mean(dim=places, keepdim=True)
    if (derivatives - weight).abs().max() > TOLERANCE * derivatives.abs().max():
        raise ModelError(
            "CAM needs a network that ends in the global average of more than one pixel and one linear layer; this one "
            "weighs each place of its last map differently: use the saliency method 'grad_cam', or name another 'layer'"
        )
    return activation[0, 0].numel() * (weight * activation).sum(dim=1, keepdim=True)
