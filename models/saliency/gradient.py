"""gradient — how does the score move with each pixel?

Simonyan, Vedaldi and Zisserman (2013), section 3:  a = ∂y / ∂x

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, C, *spatial), score per unit of input
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.saliency.explanation import Explanation
from models.saliency.hooks import evaluation
from models.saliency.targets import Target


def gradient(model: nn.Module, image: Tensor, target: Target) -> Explanation:
    """a = ∂y/∂x by one forward and one backward pass."""
    with evaluation(model):
        pixels = leaf(image)
        score = scored(model, pixels, target)
        return Explanation(score.detach(), derivative(score, pixels))


def leaf(image: Tensor) -> Tensor:
    """A plain copy of `image` to differentiate by; the caller's tensor stays as it is."""
    if not image.is_floating_point():
        raise ModelError(f"saliency needs a float image, not {image.dtype}: apply the system's to_input first")
    return image.detach().as_subclass(Tensor).clone().requires_grad_()


def scored(model: nn.Module, pixels: Tensor, target: Target) -> Tensor:
    """y (B,) of the model on `pixels`, which an in-place first layer can't overwrite."""
    score = target(model(pixels.clone()))
    if score.shape != (len(pixels),):
        raise ModelError(f"the target gives a score of shape {tuple(score.shape)}, not one a case ({len(pixels)},)")
    return score


def plain_score(model: nn.Module, image: Tensor, target: Target) -> Tensor:
    """y (B,) alone, in evaluation mode and without a graph."""
    with evaluation(model), torch.no_grad():
        return scored(model, leaf(image), target)


def derivative(score: Tensor, by: Tensor) -> Tensor:
    """∂y_b/∂x_b for every case of the batch, which don't mix in evaluation mode."""
    (result,) = derivatives(score, [by])
    return result


def derivatives(score: Tensor, by: Sequence[Tensor], *, differentiable: bool = False) -> tuple[Tensor, ...]:
    """The derivative by each of `by` in one backward pass; `differentiable` themselves where they are asked to be."""
    if not score.requires_grad:
        raise ModelError("the score does not depend on the image by differentiable operations, so it has no saliency")
    results = torch.autograd.grad(score.sum(), by, allow_unused=True, create_graph=differentiable)
    if any(result is None for result in results):
        raise ModelError("the score does not depend on the image, so it has no saliency")
    return results
