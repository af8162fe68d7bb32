"""Guided Grad-CAM — guided backpropagation's detail, where Grad-CAM is.

Selvaraju et al. (2017), section 3.2:  a(u) = R_c(u) · L(u),  R guided backpropagation, L Grad-CAM on the input's grid

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, C, *spatial), score² per unit of input; of the sign of guided backpropagation, since L ≥ 0
"""

from torch import Tensor, nn

from models.saliency.explanation import Explanation
from models.saliency.grad_cam import grad_cam
from models.saliency.guided_backprop import guided_backprop
from models.saliency.layers import Layer
from models.saliency.means import MeanOfMembers, mean_explanation
from models.saliency.targets import Target


def guided_grad_cam(model: nn.Module, image: Tensor, target: Target, *, layer: Layer = None) -> Explanation:
    """The product of both; `layer` is Grad-CAM's. A mean of models gets the mean of their products."""
    if isinstance(model, MeanOfMembers) and not isinstance(layer, nn.Module):
        return mean_explanation(guided_grad_cam(member, image, target, layer=layer) for member in model.members)
    score, guided = guided_backprop(model, image, target)
    return Explanation(score, guided * grad_cam(model, image, target, layer=layer).attribution)
